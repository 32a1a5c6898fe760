/** The size of what a page downloads of the client. */

import { readFileSync } from 'node:fs';
import { gzipSync } from 'node:zlib';

import { build } from 'vite';
import { expect, test } from 'vitest';

/** @import { Rolldown } from 'vite' */

/** An entry as Vite builds it into a page, minified and gzipped, in bytes. @param {string} entry */
async function shipped(entry) {
  const built = await build({
    configFile: false,
    logLevel: 'error',
    build: {
      write: false,
      target: 'es2022',
      rolldownOptions: { input: `src/${entry}.js`, external: ['react'], preserveEntrySignatures: 'strict' },
    },
  });
  const { output } = /** @type {Rolldown.RolldownOutput} */ (built);
  return output.reduce((sum, part) => sum + ('code' in part ? gzipSync(part.code).length : 0), 0);
}

test('the client is smaller than README says, and its hook and its forms add little', async () => {
  const [, kilobytes] = /less than (\d+) kB/.exec(readFileSync('README.md', 'utf8')) ?? [];
  const sizes = { index: await shipped('index'), react: await shipped('react'), form: await shipped('form') };
  console.log(sizes);
  expect(sizes.index).toBeGreaterThan(1_000);
  expect(sizes.index).toBeLessThan(Number(kilobytes) * 1_000);
  expect(sizes.react).toBeLessThan(4_000);
  expect(sizes.form).toBeLessThan(1_600);
});

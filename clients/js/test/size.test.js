/** The size of what a page downloads of the client. */

import { readFileSync } from 'node:fs';
import { gzipSync } from 'node:zlib';

import { build } from 'vite';
import { expect, test } from 'vitest';

/** @import { Rolldown } from 'vite' */

/** An entry as Vite builds it into a page, minified. @param {string} entry */
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
  return output.flatMap((part) => ('code' in part ? [part.code] : []));
}

/** Its size, gzipped, in bytes. @param {string} entry */
const size = async (entry) => (await shipped(entry)).reduce((sum, code) => sum + gzipSync(code).length, 0);

test('the client is smaller than README says, and its hook and its forms add little', async () => {
  const [, kilobytes] = /less than (\d+) kB/.exec(readFileSync('README.md', 'utf8')) ?? [];
  const sizes = { index: await size('index'), react: await size('react'), form: await size('form') };
  console.log(sizes);
  expect(sizes.index).toBeGreaterThan(1_000);
  expect(sizes.index).toBeLessThan(Number(kilobytes) * 1_000);
  expect(sizes.react).toBeLessThan(4_000);
  expect(sizes.form).toBeLessThan(1_600);
});

test('the names of errors outlive a minifier', async () => {
  const [code] = await shipped('index');
  const built = await import(`data:text/javascript,${encodeURIComponent(code ?? '')}`);
  const body = { code: 'gap', first: 1, last: 2 };
  for (const name of ['RunNotFound', 'Gap', 'TooLarge']) expect(new built[name](body, 404).name).toBe(name);
  expect(new built.RunFailed('budget', 'None left.').name).toBe('RunFailed');
});

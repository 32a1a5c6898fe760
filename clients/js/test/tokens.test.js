/** Tokens that expire while a run goes on: real JWTs, which the server at `TWINWIRE_JWT_URL` believes until then. */

import { createHmac } from 'node:crypto';
import { expect, test } from 'vitest';

import { ConnectionLost } from '../src/index.js';
import { connected, first, fresh } from './live.js';

/** @import { ClientOptions } from '../src/index.js' */

const url = process.env['TWINWIRE_JWT_URL'] ?? '';
const KEY = process.env['TWINWIRE_JWT_KEY'] ?? '';

/** A token of alice's, good for so many seconds. @param {number} seconds */
function goodFor(seconds) {
  const parts = [{ alg: 'HS256', typ: 'JWT' }, { sub: 'alice', exp: Date.now() / 1000 + seconds }];
  const signed = parts.map((part) => Buffer.from(JSON.stringify(part)).toString('base64url')).join('.');
  return `${signed}.${createHmac('sha256', KEY).update(signed).digest('base64url')}`;
}

/** A run that waits at a gate, its statuses, and what opens the gate. @param {ClientOptions} options */
async function waiting(options) {
  const gate = fresh();
  const run = connected({ url, ...options }).stream(`gate ${gate}`);
  /** @type {string[]} */
  const statuses = [];
  run.on('status', (status) => statuses.push(status));
  await first(run, 'LLM_CHUNK');
  const open = () => connected({ url, token: goodFor(60), transport: 'sse' }).stream(`open ${gate}`).result;
  return { run, statuses, open };
}

test('on a socket a newer token is said before the old one expires', async () => {
  const tokens = [goodFor(4), goodFor(600)];
  /** @type {string[]} */
  const asked = [];
  const token = async () => {
    asked.push(tokens[Math.min(asked.length, 1)] ?? '');
    return asked.at(-1) ?? '';
  };
  const { run, statuses, open } = await waiting({ transport: 'ws', token });
  const old = { url, token: tokens[0] ?? '', retry: { attempts: 1 } };
  const ending = connected({ ...old, transport: 'ws' }).attach(run.runId ?? '');
  await expect(ending.result).rejects.toThrow(ConnectionLost);
  await expect(ending.result).rejects.toThrow('4001');
  await open();
  expect(await run.result).toBe('before after');
  expect(statuses).toEqual(['open', 'completed']);
  expect(asked).toEqual(tokens);
});

test.each(/** @type {const} */ (['sse', 'ws', 'auto']))('%s: where there was no newer token in time, the run goes on', async (transport) => {
  const expires = Date.now() + 3000;
  const [old, good] = [goodFor(3), goodFor(600)];
  const token = () => (Date.now() < expires ? old : good);
  const { run, statuses, open } = await waiting({ transport, token });
  await /** @type {Promise<void>} */ (
    new Promise((resolve) => run.on('status', (status) => status === 'open' && Date.now() >= expires && resolve()))
  );
  await open();
  expect(await run.result).toBe('before after');
  expect([statuses[0], statuses[1], statuses.at(-2), statuses.at(-1)]).toEqual(['open', 'reconnecting', 'open', 'completed']);
});

test('what the function of a token throws in the meantime harms nothing', async () => {
  let asked = 0;
  const token = () => {
    asked += 1;
    if (asked > 1) throw new Error('no key to be had');
    return goodFor(4);
  };
  const { run, statuses } = await waiting({ transport: 'ws', token });
  await expect(run.result).rejects.toThrow('no key');
  expect(statuses).toEqual(['open', 'reconnecting', 'failed']);
  expect(asked).toBe(3);
});

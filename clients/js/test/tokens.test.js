/** Tokens that expire while a run goes on: real JWTs, which the server at `TWINWIRE_JWT_URL` believes until then.
 *
 * Each test waits for seconds until a token is over: they run at once.
 */

import { createHmac } from 'node:crypto';
import { expect, test, vi } from 'vitest';

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

/**
 * A run that waits at a gate, its statuses, and what opens the gate.
 * @param {ClientOptions} options @param {import('vitest').TestContext} context
 */
async function waiting(options, context) {
  const gate = fresh();
  const run = connected({ url, ...options }, context).stream(`gate ${gate}`);
  /** @type {string[]} */
  const statuses = [];
  run.on('status', (status) => statuses.push(status));
  await first(run, 'LLM_CHUNK');
  const open = () => connected({ url, token: goodFor(60), transport: 'sse' }, context).stream(`open ${gate}`).result;
  return { run, statuses, open };
}

test.concurrent('on a socket a newer token is said before the old one expires', async (context) => {
  const tokens = [goodFor(4), goodFor(600)];
  /** @type {string[]} */
  const asked = [];
  const token = async () => {
    asked.push(tokens[Math.min(asked.length, 1)] ?? '');
    return asked.at(-1) ?? '';
  };
  const { run, statuses, open } = await waiting({ transport: 'ws', token }, context);
  const old = { url, token: tokens[0] ?? '', retry: { attempts: 1 } };
  const ending = connected({ ...old, transport: 'ws' }, context).attach(run.runId ?? '');
  await expect(ending.result).rejects.toThrow(ConnectionLost);
  await expect(ending.result).rejects.toThrow('4001');
  await open();
  expect(await run.result).toBe('before after');
  expect(statuses).toEqual(['open', 'completed']);
  expect(asked).toEqual(tokens);
});

test.concurrent.for(/** @type {const} */ (['sse', 'ws', 'auto']))('%s: if no newer token came in time, the run goes on', async (transport, context) => {
  const expires = Date.now() + 3000;
  const [old, good] = [goodFor(3), goodFor(600)];
  const token = () => (Date.now() < expires ? old : good);
  const { run, statuses, open } = await waiting({ transport, token }, context);
  await /** @type {Promise<void>} */ (
    new Promise((resolve) => run.on('status', (status) => status === 'open' && Date.now() >= expires && resolve()))
  );
  await open();
  expect(await run.result).toBe('before after');
  expect([statuses[0], statuses[1], statuses.at(-2), statuses.at(-1)]).toEqual(['open', 'reconnecting', 'open', 'completed']);
});

test.concurrent('what the function of a token throws in the meantime harms nothing, and after that is a failed attempt', async (context) => {
  let asked = 0;
  const token = () => {
    asked += 1;
    if (asked > 1) throw new Error('no key to be had');
    return goodFor(4);
  };
  const { run, statuses } = await waiting({ transport: 'ws', token, retry: { base: 10, attempts: 3 } }, context);
  /** @type {(string | null)[]} */
  const codes = [];
  run.on('retry', ({ code }) => codes.push(code));
  await expect(run.result).rejects.toMatchObject({ name: 'ConnectionLost', code: 'token_failed' });
  await expect(run.result).rejects.toThrow('no key');
  expect(statuses).toEqual(['open', 'reconnecting', 'failed']);
  expect(codes).toEqual([null, 'token_failed']);
});

test.concurrent('a newer token is asked for once more if that failed, while the old one is good', async (context) => {
  let asked = 0;
  const token = () => {
    asked += 1;
    if (asked === 2) throw new Error('a bad network');
    return goodFor(asked === 1 ? 8 : 600);
  };
  const { run, statuses, open } = await waiting({ transport: 'ws', token }, context);
  await vi.waitFor(() => expect(asked).toBe(3), 10_000);
  await open();
  expect(await run.result).toBe('before after');
  expect(statuses).toEqual(['open', 'completed']);
});

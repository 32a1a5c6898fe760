/** When it is tried again: how long, how often, and what ends a wait. */

import { afterEach, expect, test, vi } from 'vitest';

import { Broken, ConnectionLost } from '../src/errors.js';
import { Attempts, backoff, deadline } from '../src/retry.js';

const NEVER = new AbortController().signal;
const LONG = { base: 3_600_000, cap: 3_600_000, maxWait: Infinity, random: () => 1 };
/** A server that was not reached so far. */
const somewhere = () => ({ url: 'somewhere', reached: false });

afterEach(() => vi.unstubAllGlobals());

/** A browser with a network and a page. */
function browser() {
  const page = Object.assign(new EventTarget(), { visibilityState: 'visible' });
  const network = { onLine: true };
  const target = new EventTarget();
  vi.stubGlobal('navigator', network);
  vi.stubGlobal('document', page);
  vi.stubGlobal('addEventListener', target.addEventListener.bind(target));
  vi.stubGlobal('removeEventListener', target.removeEventListener.bind(target));
  return { page, network, online: () => target.dispatchEvent(new Event('online')) };
}

/** @param {Promise<unknown>} wait */
const isOver = (wait) => Promise.race([wait.then(() => true), new Promise((resolve) => setImmediate(() => resolve(false)))]);

test('a browser never gives up what has worked, others do after five minutes', () => {
  expect(backoff()).toMatchObject({ attempts: Infinity, first: 10, patience: 300_000, maxWait: 60_000, insists: false });
  expect(backoff({ attempts: 3 })).toMatchObject({ attempts: 3, first: 3, insists: true });
  browser();
  expect(backoff()).toMatchObject({ attempts: Infinity, first: 10, patience: Infinity });
});

test('failures that go on for too long are the last', async () => {
  const attempts = new Attempts(somewhere(), backoff({ base: 1, cap: 5, patience: 60 }));
  attempts.worked();
  const began = performance.now();
  const fail = async () => {
    for (;;) await attempts.failed(new Broken('no'), NEVER);
  };
  await expect(fail()).rejects.toThrow(ConnectionLost);
  expect(performance.now() - began).toBeGreaterThan(59);
});

test('what never worked is given up after its own number of failures', async () => {
  const attempts = new Attempts(somewhere(), backoff({ base: 0, first: 2 }));
  await attempts.failed(new Broken('no'), NEVER);
  await expect(attempts.failed(new Broken('no'), NEVER)).rejects.toThrow('gave up after 2 attempts');
  const worked = new Attempts(somewhere(), backoff({ base: 0, first: 2 }));
  worked.worked();
  for (let count = 0; count < 50; count += 1) await worked.failed(new Broken('no'), NEVER);
});

test('what worked for one of a client counts for all', async () => {
  const server = somewhere();
  const others = new Attempts(server, backoff({ base: 0, first: 1 }));
  new Attempts(server, backoff()).worked();
  for (let count = 0; count < 5; count += 1) await others.failed(new Broken('no'), NEVER);
});

test('where nobody is, nobody is waited for, unless one insists', async () => {
  const gone = new Broken('no', { hope: 0 });
  await expect(new Attempts(somewhere(), backoff()).failed(gone, NEVER)).rejects.toThrow('1 attempt.');
  const nobody = new Broken('no', { hope: 20 });
  const told = vi.fn();
  const attempts = new Attempts(somewhere(), backoff({ base: 4, random: () => 1 }));
  await attempts.failed(nobody, NEVER, told); // 4 ms
  const more = async () => {
    for (;;) await attempts.failed(nobody, NEVER, told);
  };
  await expect(more()).rejects.toThrow(ConnectionLost);
  expect(told.mock.calls.length).toBeLessThan(4);
  expect(told.mock.calls[0]).toEqual([
    { attempt: 1, code: null, status: null, retryAfter: null, wait: 4, reason: 'no', said: null },
  ]);
  const stubborn = new Attempts(somewhere(), backoff({ base: 0, attempts: 9 }));
  for (let count = 0; count < 8; count += 1) await stubborn.failed(new Broken('no', { hope: 1e-9 }), NEVER);
  await expect(stubborn.failed(nobody, NEVER)).rejects.toThrow('9 attempts.');
});

test('the network that comes back ends a wait', async () => {
  const { online } = browser();
  const wait = new Attempts(somewhere(), backoff(LONG)).failed(new Broken('no', { retryAfter: 1 }), NEVER);
  expect(await isOver(wait)).toBe(false);
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
  online();
  await vi.advanceTimersByTimeAsync(LONG.base); // the jitter after it
  vi.useRealTimers();
  await wait;
});

test('the page that is shown again ends a wait, one that is hidden does not', async () => {
  const { page } = browser();
  const wait = new Attempts(somewhere(), backoff({ ...LONG, random: () => 1e-9 })).failed(
    new Broken('no', { retryAfter: 3_600_000 }),
    NEVER,
  );
  page.visibilityState = 'hidden';
  page.dispatchEvent(new Event('visibilitychange'));
  expect(await isOver(wait)).toBe(false);
  page.visibilityState = 'visible';
  page.dispatchEvent(new Event('visibilitychange'));
  await wait;
});

test('without a network no failure counts', async () => {
  const { network, online } = browser();
  const attempts = new Attempts(somewhere(), backoff({ base: 0, cap: 3_600_000, first: 1 }));
  network.onLine = false;
  for (let count = 0; count < 5; count += 1) {
    const wait = attempts.failed(new Broken('no'), NEVER);
    expect(await isOver(wait)).toBe(false);
    online();
    await wait;
  }
  network.onLine = true;
  await expect(attempts.failed(new Broken('no'), NEVER)).rejects.toThrow(ConnectionLost);
});

test('a signal ends a wait with its reason', async () => {
  const left = new AbortController();
  const wait = new Attempts(somewhere(), backoff(LONG)).failed(new Broken('no'), left.signal);
  left.abort(new Error('enough'));
  await expect(wait).rejects.toThrow('enough');
});

test('a program that stood still has the time anew', async () => {
  let over = 0;
  deadline(100, () => (over += 1));
  const began = performance.now();
  while (performance.now() < began + 800); // as at a breakpoint
  await new Promise((resolve) => setTimeout(resolve, 50));
  expect(over).toBe(0);
  await vi.waitFor(() => expect(over).toBe(1));
  const callOff = deadline(1, () => (over += 1));
  callOff();
  await new Promise((resolve) => setTimeout(resolve, 20));
  expect(over).toBe(1);
});

test('a hidden tab, in which every timer is late, notices silence', () => {
  let [now, over] = [0, 0];
  /** @type {(() => void)[]} */
  const due = [];
  vi.stubGlobal('performance', { now: () => now });
  vi.stubGlobal('setTimeout', (/** @type {() => void} */ work) => due.push(work));
  deadline(10_000, () => (over += 1));
  for (const fired of [1, 2]) {
    expect([over, due.length]).toEqual([0, 1]);
    now = fired * 60_000;
    due.shift()?.();
  }
  expect(over).toBe(1);
});

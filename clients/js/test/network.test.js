/** Runs on a real server, through a network that does what networks do. */

import { describe, expect, onTestFinished, test, vi } from 'vitest';

import { connected, first, fresh, number, open, proxied, TRANSPORTS, upTo } from './live.js';

describe.each(TRANSPORTS)('%s', (transport) => {
  test('cut again and again', async () => {
    const { url, lines } = await proxied(() => ({ cutAfter: 4_000 }));
    const client = connected({ url, transport });
    const run = client.stream('words 200');
    const events = [];
    for await (const event of run) events.push(number(event));
    expect(events).toEqual(upTo(202));
    expect(lines.length).toBeGreaterThan(5);
  });

  test('cut while nothing is said', async () => {
    const network = await proxied();
    const gate = fresh();
    const run = connected({ url: network.url, transport }).stream(`gate ${gate}`);
    /** @type {string[]} */
    const statuses = [];
    run.on('status', (status) => statuses.push(status));
    await first(run, 'LLM_CHUNK');
    network.cut();
    await open(gate);
    expect(await run.result).toBe('before after');
    expect(statuses).toEqual(['open', 'reconnecting', 'open', 'completed']);
  });

  test('byte by byte', async () => {
    const { url } = await proxied(() => ({ split: true }));
    const run = connected({ url, transport }).stream('umlauts');
    expect(await run.result).toBe('ä€😀');
  });

  test('a start whose answer is lost is the same run', async () => {
    const lost = transport === 'ws' ? { cutAfter: 140 } : { cutAfter: 0 };
    const { url, lines } = await proxied((_, count) => (count === 1 ? lost : {}));
    expect(await connected({ url, transport }).stream(`count ${fresh()}`).result).toBe('1');
    expect(lines.length).toBeGreaterThan(1);
  });

  test('why it is tried again is told', async () => {
    const { url } = await proxied((_, count) => ({ refuse: count < 3 }));
    const run = connected({ url, transport }).stream('words 1');
    /** @type {import('../src/index.js').Retry[]} */
    const retries = [];
    run.on('retry', (retry) => retries.push(retry));
    await run.result;
    expect(retries.map(({ attempt, code, said }) => [attempt, code, said])).toEqual([[1, null, null], [2, null, null]]);
    for (const { reason } of retries) expect(reason).not.toBe('');
  });

  test('a dead connection is noticed', async () => {
    const network = await proxied((_, count) => ({ mute: count === 1 }));
    const run = connected({ url: network.url, transport, timeout: 300 }).stream('words 1');
    expect(await run.result).toBe('1 ');
  });
});

test('many runs share one socket', async () => {
  const { url, lines } = await proxied();
  const client = connected({ url, transport: 'ws' });
  const results = await Promise.all(upTo(30).map((count) => client.stream(`words ${count}`).result));
  expect(results.map((result) => result.split(' ').length - 1)).toEqual(upTo(30));
  expect(lines.filter((line) => line.includes('/ws'))).toHaveLength(1);
});

/** Which streams and sockets were asked for; a run's id may begin with "ws". @param {string[]} lines */
const asked = (lines) => lines.flatMap((line) => /\/(events|ws)\b/.exec(line)?.[1] ?? []);

test('auto leaves an event stream that is held back for a socket, and remembers', async () => {
  const { url, lines } = await proxied((line) => ({ hold: line.includes('/events') }));
  const client = connected({ url, transport: 'auto', muted: 200 });
  for (const gate of [fresh(), fresh()]) {
    const run = client.stream(`gate ${gate}`);
    await first(run, 'LLM_CHUNK');
    await open(gate);
    expect(await run.result).toBe('before after');
  }
  expect(asked(lines)).toEqual(['events', 'ws']);
});

test('auto goes on over a socket at the cursor', async () => {
  /** @type {(line: string) => void} */
  let arrived = () => {};
  const silent = new Promise((resolve) => (arrived = resolve));
  const network = await proxied((line) => {
    if (!line.includes('after=2')) return {};
    arrived(line);
    return { mute: true };
  });
  const gate = fresh();
  const run = connected({ url: network.url, transport: 'auto', muted: 10_000 }).stream(`gate ${gate}`);
  await first(run, 'LLM_CHUNK');
  // A clock that the test moves: on the machine's, a busy machine would make the first stream look held back, too.
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
  onTestFinished(() => void vi.useRealTimers());
  const retry = first(run, 'retry');
  network.cut();
  await retry;
  vi.advanceTimersByTime(50);
  await silent;
  vi.advanceTimersByTime(10_000);
  await open(gate);
  expect(await run.result).toBe('before after');
  expect(asked(network.lines)).toEqual(['events', 'events', 'ws']);
});

test('auto comes back to an event stream where there is no socket, and then has patience', async () => {
  const { url, lines } = await proxied((line) => ({ hold: line.includes('/events'), refuse: line === 'GET /ws' }));
  const run = connected({ url, transport: 'auto', muted: 200 }).stream('words 3', { onDisconnect: 'continue' });
  expect(await run.result).toBe('1 2 3 ');
  expect(asked(lines).length).toBeLessThanOrEqual(3);
});

/** One run, one command or one tab fails, and ends nobody else's. */

import { expect, test, vi } from 'vitest';

import { ApiError, ProtocolError, TooLarge } from '../src/index.js';
import { connected, first, fresh, number, open, proxied, upTo } from './live.js';
import { attach, attached, RUN, scripted, Scripted, settled, sockets } from './scripted.js';

const OTHER = 'b'.repeat(26);

test('a message that is too large is refused, and another run on the socket does not notice', async () => {
  const { url, lines } = await proxied();
  const client = connected({ url, transport: 'ws' });
  const gate = fresh();
  const run = client.stream(`gate ${gate}`);
  /** @type {string[]} */
  const statuses = [];
  run.on('status', (status) => statuses.push(status));
  await first(run, 'LLM_CHUNK');
  for (const message of ['x'.repeat(2_000_000), '€'.repeat(400_000)]) {
    const large = client.stream(message);
    await expect(large.result).rejects.toThrow(TooLarge);
    await expect(large.result).rejects.toMatchObject({ code: 'payload_too_large', status: 413 });
  }
  await open(gate);
  expect(await run.result).toBe('before after');
  expect(statuses).toEqual(['open', 'completed']);
  expect(lines.filter((line) => line.endsWith('/ws'))).toHaveLength(1);
});

test.each(/** @type {const} */ (['sse', 'auto']))('over %s it is the same error', async (transport) => {
  await expect(connected({ transport }).stream('x'.repeat(2_000_000)).result).rejects.toThrow(TooLarge);
});

test('a close that one command caused is its error, and the other runs attach again', async () => {
  const { client, run, socket } = await attached();
  /** @type {number[]} */
  const numbers = [];
  run.on('event', (event) => numbers.push(number(event)));
  socket.events([1, 2]);
  const large = client.stream('x'.repeat(50_000));
  const small = client.stream('y');
  const commands = [await socket.next(), await socket.next()];
  expect(commands.map(({ message }) => message.length)).toEqual([50_000, 1]);
  socket.end(1009);
  await expect(large.result).rejects.toMatchObject({ name: 'TooLarge', status: 413 });
  const next = /** @type {Scripted} */ (await sockets.take());
  const again = [await next.next(), await next.next()];
  expect(again.map(({ type }) => type).sort()).toEqual(['attach', 'start']);
  for (const command of again) {
    if (command.type === 'attach') {
      expect(command).toMatchObject({ run_id: RUN, after: 2 });
      next.answer(command, { type: 'attached', last: 3, ended: false });
    } else {
      expect(command.message).toBe('y');
      next.answer(command, { type: 'started', run_id: OTHER });
    }
  }
  next.events([3], 3);
  next.events([1], 1, OTHER);
  expect(await Promise.all([run.result, small.result])).toEqual(['all', 'all']);
  expect(numbers).toEqual([1, 2, 3]);
});

test('a policy that closes the socket on one command is as little the others\'', async () => {
  const { client, run, socket } = await attached();
  const refused = client.stream('z');
  await socket.next();
  socket.end(1008);
  await expect(refused.result).rejects.toMatchObject({ name: 'ApiError', code: 'closed', status: null });
  const { socket: next } = await attach();
  next.events([1], 1);
  expect(await run.result).toBe('all');
});

test.each([
  ['an event that is none', { id: `evt-${RUN}-2`, type: 'LLM_CHUNK', data: [], metadata: {} }],
  ['an event without a type', { id: `evt-${RUN}-2`, data: {}, metadata: {} }],
  ['an event that is not due', { id: `evt-${RUN}-3`, type: 'LLM_CHUNK', data: {}, metadata: {} }],
])('%s ends its run, not the others on its socket', async (_, wrong) => {
  const { client, run, socket } = await attached();
  const other = client.attach(OTHER);
  const command = await socket.next();
  socket.answer(command, { type: 'attached', run_id: OTHER, last: 0, ended: false });
  socket.events([1]);
  socket.events([1], undefined, OTHER);
  await settled();
  socket.say(wrong);
  await expect(run.result).rejects.toThrow(ProtocolError);
  expect((await socket.next()).type).toBe('detach');
  socket.events([2], 2, OTHER);
  expect(await other.result).toBe('all');
});

test.each([[{ run_id: OTHER }], [{ run_id: 'nonsense' }]])('an answer about another run (%o) is the error of whoever asked', async (wrong) => {
  const { client, run: bystander, socket } = await attached();
  const run = client.attach('c'.repeat(26));
  const command = await socket.next();
  socket.answer(command, { type: 'attached', last: 0, ended: false, ...wrong });
  await expect(run.result).rejects.toThrow(ProtocolError);
  const started = client.stream('hello');
  const start = await socket.next();
  socket.answer(start, { type: 'started', run_id: 'nonsense' });
  await expect(started.result).rejects.toThrow(ProtocolError);
  socket.events([1], 1);
  expect(await bystander.result).toBe('all');
});

test('an event of a run that nobody follows is everybody\'s', async () => {
  const { run, socket } = await attached();
  socket.events([1], undefined, OTHER);
  await expect(run.result).rejects.toThrow('not followed');
});

test('a cancel goes over the socket that is open, whatever the run is followed over', async () => {
  const { url, lines } = await proxied();
  const client = connected({ url });
  const gate = fresh();
  const beside = client.stream(`gate ${gate}`, { transport: 'ws' });
  await first(beside, 'LLM_CHUNK');
  const run = client.stream('forever', { transport: 'sse' });
  await first(run, 'LLM_CHUNK');
  expect(await run.cancel()).toBe('accepted');
  await run.result;
  expect(await client.cancel(run.runId ?? '')).toBe('already_finished');
  await expect(client.cancel(RUN)).rejects.toMatchObject({ code: 'run_not_found' });
  expect(lines.filter((line) => line.endsWith('/cancel'))).toEqual([]);
  await open(gate);
  await beside.result;
});

test('a cancel whose request is not answered goes over a socket', async () => {
  const { url, lines } = await proxied((line) => ({ mute: line.endsWith('/cancel') }));
  const run = connected({ url, transport: 'sse' }).stream('forever');
  await first(run, 'LLM_CHUNK');
  const began = performance.now();
  // The request itself came through.
  expect(['accepted', 'already_finished']).toContain(await run.cancel());
  expect(performance.now() - began).toBeLessThan(2_000);
  await run.result;
  expect(run.status).toBe('cancelled');
  expect(lines.at(-1)).toBe('GET /ws');
});

test('a cancel without any socket is a request, as patient as a run', async () => {
  let refused = 0;
  const { url } = await proxied((line) => ({ refuse: line.endsWith('/cancel') && (refused += 1) < 4 }));
  vi.stubGlobal('WebSocket', undefined);
  const client = connected(/** @type {any} */ ({ url, transport: 'sse', WebSocket: undefined }));
  vi.unstubAllGlobals();
  const run = client.stream('forever');
  await first(run, 'LLM_CHUNK');
  expect(await client.cancel(run.runId ?? '')).toBe('accepted');
  expect(refused).toBe(4);
  await run.result;
});

test('what is asked by request is as patient as a run', async () => {
  const run = connected({}).stream('words 1', { userId: 'a' });
  await run.result;
  let refused = 0;
  const { url } = await proxied(() => ({ refuse: (refused += 1) % 14 !== 1 }));
  const client = connected({ url, retry: { base: 1, cap: 1 } });
  expect((await client.get(run.runId ?? ''))['status']).toBe('completed');
  expect((await client.get(run.runId ?? ''))['status']).toBe('completed');
  expect((await client.runs({ userId: 'a' }))[0]?.['run_id']).toBe(run.runId);
  expect(refused).toBeGreaterThan(20);
  const enough = new AbortController();
  const asking = client.runs({ userId: 'a', signal: enough.signal });
  enough.abort(new Error('enough'));
  await expect(asking).rejects.toThrow('enough');
});

test('in a browser over plain http, auto takes the socket first, and SSE where there is none', async () => {
  vi.stubGlobal('navigator', { onLine: true });
  try {
    const { url, lines } = await proxied((line) => ({ refuse: line.endsWith('/ws') && lines.length > 1 }));
    const client = connected({ url, transport: 'auto' });
    expect(await client.stream('words 1').result).toBe('1 ');
    expect(lines).toEqual(['GET /ws']);
    client.close();
    const other = connected({ url, transport: 'auto' });
    for (const count of upTo(3)) expect(await other.stream(`words ${count}`).result).toBe(`${upTo(count).join(' ')} `);
    expect(lines.filter((line) => line.endsWith('/ws'))).toHaveLength(2);
    expect(lines.filter((line) => line.includes('/events'))).toHaveLength(3);
  } finally {
    vi.unstubAllGlobals();
  }
});

test('in a browser, a socket that does not open is not waited for for long', async () => {
  vi.stubGlobal('navigator', { onLine: true });
  try {
    const { url } = await proxied((line) => ({ mute: line.endsWith('/ws') }));
    const began = performance.now();
    expect(await connected({ url, transport: 'auto' }).stream('words 1').result).toBe('1 ');
    expect(performance.now() - began).toBeLessThan(3_000);
  } finally {
    vi.unstubAllGlobals();
  }
});

test('with many commands open, the largest is the one', async () => {
  const client = scripted();
  const runs = [10, 3000, 20].map((length) => client.stream('x'.repeat(length)));
  const socket = /** @type {Scripted} */ (await sockets.take());
  for (const _ of runs) await socket.next();
  socket.end(1009);
  await expect(runs[1]?.result).rejects.toThrow(ApiError);
  const next = /** @type {Scripted} */ (await sockets.take());
  const lengths = [(await next.next()).message.length, (await next.next()).message.length];
  expect(lengths.sort((one, other) => one - other)).toEqual([10, 20]);
});

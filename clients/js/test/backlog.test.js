/** The hand-out of events to those who come early, late, twice, never; who throw, give up waiting, or leave. */

import { expect, onTestFinished, test, vi } from 'vitest';

import { Gap, RunClosed } from '../src/index.js';
import { number, upTo } from './live.js';
import { attached, RUN, settled } from './scripted.js';

/** @import { Run } from '../src/index.js' */

/** The numbers of the events that a listener of this type hears. @param {Run} run @param {string} [type] */
function heard(run, type = 'event') {
  /** @type {number[]} */
  const numbers = [];
  run.on(type, (event) => numbers.push(number(/** @type {any} */ (event))));
  return numbers;
}

/** All that a loop reads. @param {AsyncIterable<{id: string}>} events */
async function read(events) {
  const numbers = [];
  for await (const event of events) numbers.push(number(event));
  return numbers;
}

/** The errors that are reported as uncaught, until the test is over. */
function reported() {
  /** @type {unknown[]} */
  const errors = [];
  vi.stubGlobal('reportError', (/** @type {unknown} */ error) => errors.push(error));
  onTestFinished(() => void vi.unstubAllGlobals());
  return errors;
}

test('what consumes nothing leaves all events to a loop that comes late', async () => {
  const { run, socket } = await attached();
  for (const type of /** @type {const} */ (['status', 'retry', 'snapshot'])) run.on(type, () => {});
  void run.result;
  void run.started;
  socket.events(upTo(22), 22);
  expect(await run.result).toBe('all');
  expect(await read(run)).toEqual(upTo(22));
});

test('a listener that comes late hears all, later, in order, before what is newer', async () => {
  const { run, socket } = await attached();
  socket.events(upTo(10));
  await settled();
  const numbers = heard(run);
  expect(numbers).toEqual([]);
  socket.events([11]);
  await settled();
  expect(numbers).toEqual(upTo(11));
  socket.events([12], 12);
  expect(await run.result).toBe('all');
  expect([numbers, run.cursor]).toEqual([upTo(12), 12]);
});

test('listeners that come together hear each event in turn', async () => {
  const { run, socket } = await attached();
  socket.events(upTo(3));
  await settled();
  /** @type {string[]} */
  const order = [];
  run.on('LLM_CHUNK', ({ id }) => order.push(`a${number({ id })}`));
  run.on('event', ({ id }) => order.push(`b${number({ id })}`));
  await settled();
  expect(order).toEqual(['a1', 'b1', 'a2', 'b2', 'a3', 'b3']);
});

test('a listener and a loop that come together both get all', async () => {
  const { run, socket } = await attached();
  socket.events(upTo(5));
  await settled();
  const numbers = heard(run);
  const reading = read(run);
  socket.events([6, 7], 7);
  expect(await reading).toEqual(upTo(7));
  expect(numbers).toEqual(upTo(7));
});

test('a listener beside a loop misses nothing that comes while it is let in', async () => {
  const { run, socket } = await attached();
  const events = run[Symbol.asyncIterator]();
  const first = events.next();
  await settled();
  socket.events([1]);
  queueMicrotask(() => socket.events([2]));
  const numbers = heard(run);
  await first;
  await settled();
  socket.events([3], 3);
  await run.result;
  expect(numbers).toEqual([1, 2, 3]);
});

test('one that is taken off before its turn hears nothing, nor does one that is taken off by another', async () => {
  const { run, socket } = await attached();
  socket.events([1]);
  await settled();
  const late = vi.fn();
  run.on('event', late)();
  await settled();
  expect(late).not.toHaveBeenCalled();
  const second = vi.fn();
  run.on('event', () => off());
  const off = run.on('event', second);
  await settled();
  socket.events([2]);
  await settled();
  expect(second).not.toHaveBeenCalled();
});

test('a loop that comes after a listener gets what comes from then on', async () => {
  const { run, socket } = await attached();
  const numbers = heard(run);
  socket.events(upTo(5));
  await settled();
  const reading = read(run);
  socket.events([6, 7], 7);
  expect(await reading).toEqual([6, 7]);
  expect(numbers).toEqual(upTo(7));
});

test('a second loop is refused, and the first goes on', async () => {
  const { run, socket } = await attached();
  const reading = read(run);
  await expect(read(run)).rejects.toThrow(TypeError);
  await expect(read(run)).rejects.toThrow('read by another loop already');
  socket.events(upTo(3), 3);
  expect(await reading).toEqual([1, 2, 3]);
  expect(await read(run)).toEqual([]);
});

test('whoever gives up waiting loses nothing', async () => {
  const { run, socket } = await attached();
  const events = run[Symbol.asyncIterator]();
  for (let turn = 0; turn < 3; turn += 1) {
    expect(await Promise.race([events.next(), settled().then(() => 'late')])).toBe('late');
  }
  socket.events([1, 2], 2);
  expect(await read({ [Symbol.asyncIterator]: () => events })).toEqual([1, 2]);
});

test('what a listener throws is reported, and harms neither the run nor others', async () => {
  const errors = reported();
  const { run, socket } = await attached();
  socket.events([1]);
  await settled();
  run.on('event', () => {
    throw new Error('mine');
  });
  run.on('status', () => {
    throw new Error('mine, too');
  });
  const numbers = heard(run);
  await settled();
  socket.events([2, 3], 3);
  expect(await run.result).toBe('all');
  expect(numbers).toEqual([1, 2, 3]);
  expect(errors.map(String)).toEqual(['Error: mine', 'Error: mine', 'Error: mine', 'Error: mine, too']);
});

test('without `reportError`, as in Node, it is an uncaught error', async () => {
  const { run, socket } = await attached();
  const uncaught = new Promise((resolve) => {
    const others = process.listeners('uncaughtException');
    process.removeAllListeners('uncaughtException');
    process.once('uncaughtException', resolve);
    onTestFinished(() => others.forEach((listener) => void process.on('uncaughtException', listener)));
  });
  run.on('event', () => {
    throw new Error('mine');
  });
  socket.events([1], 1);
  expect(await run.result).toBe('all');
  expect(String(await uncaught)).toBe('Error: mine');
});

test('an exception in the body of a loop closes the run', async () => {
  const { run, socket } = await attached();
  const loop = async () => {
    for await (const event of run) throw new Error(event.id);
  };
  const looping = loop();
  socket.events([1]);
  await expect(looping).rejects.toThrow('-1');
  expect(run.status).toBe('closed');
  expect((await socket.next()).type).toBe('detach');
});

test('a close ends a read that waits and each one after it, at any time and any number of times', async () => {
  const { run, socket } = await attached();
  const events = run[Symbol.asyncIterator]();
  const waiting = events.next();
  run.close();
  run.close();
  await expect(waiting).rejects.toThrow(RunClosed);
  await expect(events.next()).rejects.toThrow(RunClosed);
  await expect(read(run)).rejects.toThrow(RunClosed);
  await expect(run.wait()).rejects.toThrow(RunClosed);
  expect(run.status).toBe('closed');
  const late = heard(run);
  socket.events([1]);
  await settled();
  expect(late).toEqual([]);
});

test('a close throws away what was not read, so that the run never looks whole', async () => {
  const { run, socket } = await attached();
  socket.events(upTo(9));
  await settled();
  const events = run[Symbol.asyncIterator]();
  await events.next();
  run.close();
  await expect(events.next()).rejects.toThrow(RunClosed);
});

test('a close before the start is a close', async () => {
  const { client } = await attached();
  const run = client.stream('hello');
  run.close();
  await expect(run.result).rejects.toThrow(RunClosed);
  await expect(run.started).rejects.toThrow(RunClosed);
  await expect(read(run)).rejects.toThrow(RunClosed);
});

test('once the end was received, a close undoes nothing: the loop gets all, and there is a result', async () => {
  const { client, run, socket } = await attached();
  const events = run[Symbol.asyncIterator]();
  socket.events(upTo(9), 9);
  await events.next();
  await settled();
  run.close();
  client.close();
  expect(await read({ [Symbol.asyncIterator]: () => events })).toEqual(upTo(9).slice(1));
  expect([await run.result, run.status]).toEqual(['all', 'completed']);
});

test('a listener of the end may close the run', async () => {
  const { run, socket } = await attached();
  run.on('AGENT_FINISH', () => run.close());
  socket.events([1, 2], 2);
  expect([await run.result, await run.wait(), run.status]).toEqual(['all', 'all', 'completed']);
  run.close();
  expect(await run.result).toBe('all');
});

test('`await using` closes a run and a client', async () => {
  const { client, run } = await attached();
  await run[Symbol.asyncDispose]();
  expect(run.status).toBe('closed');
  await client[Symbol.asyncDispose]();
  expect(() => client.attach('b'.repeat(26))).toThrow('The client is closed.');
});

test('a client that is closed closes its runs, and a call on it throws at once', async () => {
  const { client, run } = await attached();
  const reading = read(run);
  const asking = client.get(run.runId ?? '');
  client.close();
  client.close();
  await expect(reading).rejects.toThrow(RunClosed);
  await expect(asking).rejects.toThrow('The client is closed.');
  expect(() => client.stream('hello')).toThrow(TypeError);
  expect(() => client.attach('b'.repeat(26))).toThrow('The client is closed.');
  for (const call of [client.get('a'.repeat(26)), client.cancel('a'.repeat(26)), client.send('a'.repeat(26), 'a'), client.runs({ userId: 'a' })]) {
    await expect(call).rejects.toThrow('The client is closed.');
  }
});

test('with nobody reading, the run waits until somebody awaits its result, which needs no reader', async () => {
  const { run, socket } = await attached();
  socket.events(upTo(3000));
  const pause = await socket.next();
  expect(pause.type).toBe('pause');
  socket.answer(pause, { type: 'paused' });
  await settled();
  expect(run.cursor).toBe(0);
  const result = run.result;
  const resume = await socket.next();
  expect(resume.type).toBe('resume');
  socket.answer(resume, { type: 'resumed' });
  socket.events([3001], 3001);
  expect(await result).toBe('all');
});

test.each(['loop', 'listener'])('a %s that comes after the result gets what was kept, and the rest from the server', async (who) => {
  const { run, socket } = await attached();
  const result = run.result;
  socket.events(upTo(900), 900);
  expect(await result).toBe('all');
  const numbers = who === 'listener' ? heard(run) : [];
  const reading = who === 'loop' ? read(run) : null;
  const again = await socket.next();
  expect([again.type, again.after]).toEqual(['attach', 256]);
  socket.answer(again, { type: 'attached', last: 900, ended: true });
  socket.events(upTo(900).slice(256), 900);
  if (reading) expect(await reading).toEqual(upTo(900));
  else await vi.waitFor(() => expect(numbers).toEqual(upTo(900)));
  expect([run.status, run.cursor, await run.result]).toEqual(['completed', 900, 'all']);
});

test('what the server has no longer is a Gap, never a silent hole', async () => {
  const { run, socket } = await attached();
  const result = run.result;
  socket.events(upTo(900), 900);
  await result;
  const reading = read(run);
  const again = await socket.next();
  socket.answer(again, { type: 'gap', first: 500, last: 900 });
  await expect(reading).rejects.toThrow(Gap);
  expect([run.status, run.error]).toEqual(['failed', expect.any(Gap)]);
  expect(await run.result).toBe('all');
});

test('a loop whose body awaits the result gets it, and then the rest', async () => {
  const { run, socket } = await attached();
  const loop = async () => {
    const numbers = [];
    for await (const event of run) {
      numbers.push(number(event));
      if (numbers.length === 1) expect(await run.result).toBe('all');
    }
    return numbers;
  };
  const looping = loop();
  socket.events(upTo(2000), 2000);
  /** @type {any} */
  let command = await socket.next();
  while (command.type !== 'attach') {
    socket.answer(command, { type: command.type === 'pause' ? 'paused' : `${command.type}d` });
    command = await socket.next();
  }
  expect(command.after).toBe(257);
  socket.answer(command, { type: 'attached', last: 2000, ended: true });
  socket.events(upTo(2000).slice(257), 2000);
  expect(await looping).toEqual(upTo(2000));
});

test('a close while the rest is read anew ends that, too', async () => {
  const { run, socket } = await attached();
  const result = run.result;
  socket.events(upTo(900), 900);
  await result;
  const events = run[Symbol.asyncIterator]();
  for (let count = 0; count < 256; count += 1) await events.next();
  const waiting = events.next();
  socket.answer(await socket.next(), { type: 'attached', last: 900, ended: true });
  await settled();
  run.close();
  await expect(waiting).rejects.toThrow(RunClosed);
  await expect(events.next()).rejects.toThrow(RunClosed);
  expect(await run.result).toBe('all');
});

test('a run that was followed to nowhere keeps what it has for a loop, and then says why', async () => {
  const { run, socket } = await attached();
  socket.events([1, 2]);
  socket.say({ type: 'error', code: 'run_not_found', message: 'The run does not exist.', run_id: run.runId });
  await expect(run.result).rejects.toThrow('no longer has the run');
  const events = run[Symbol.asyncIterator]();
  expect([(await events.next()).done, (await events.next()).done]).toEqual([false, false]);
  await expect(events.next()).rejects.toThrow('no longer has the run');
  await expect(events.next()).rejects.toThrow('no longer has the run');
});

test('two runs on one socket are two', async () => {
  const { client, run, socket } = await attached();
  const other = client.attach('b'.repeat(26));
  const command = await socket.next();
  socket.answer(command, { type: 'attached', run_id: command.run_id, last: 0, ended: false });
  await settled();
  run.close();
  socket.answer(await socket.next(), { type: 'detached' });
  socket.events([1, 2], 2, 'b'.repeat(26));
  expect(await read(other)).toEqual([1, 2]);
});

test('whoever only watches the status sees the run end, and a loop still gets all', async () => {
  const { run, socket } = await attached();
  const ended = new Promise((resolve) => run.on('status', (status) => status === 'completed' && resolve(status)));
  socket.events(upTo(900), 900);
  expect(await ended).toBe('completed');
  const reading = read(run);
  const again = await socket.next();
  socket.answer(again, { type: 'attached', last: 900, ended: true });
  socket.events(upTo(900).slice(256), 900);
  expect(await reading).toEqual(upTo(900));
});

test('the first consumer of events lets them go, whatever its type', async () => {
  const { run, socket } = await attached();
  /** @type {string[]} */
  const heard = [];
  socket.events([1, 2]);
  await settled();
  run.on('TOOL_CALL_START', () => heard.push('never'));
  run.on('LLM_CHUNK', (event) => heard.push(`first ${number(event)}`));
  await settled();
  run.on('LLM_CHUNK', (event) => heard.push(`late ${number(event)}`));
  socket.events([3]);
  await settled();
  const events = run[Symbol.asyncIterator]();
  socket.events([4, 5], 5);
  expect((await events.next()).value?.id).toBe(`evt-${RUN}-4`);
  expect(heard).toEqual(['first 1', 'first 2', 'first 3', 'late 3', 'first 4', 'late 4']);
});

test('a listener that comes after a loop hears what the loop has not taken', async () => {
  const { run, socket } = await attached();
  socket.events([1, 2, 3]);
  const events = run[Symbol.asyncIterator]();
  expect((await events.next()).value?.id).toBe(`evt-${RUN}-1`);
  /** @type {number[]} */
  const heard = [];
  run.on('event', (event) => heard.push(number(event)));
  socket.events([4], 4);
  await run.result;
  expect(heard).toEqual([2, 3, 4]);
});

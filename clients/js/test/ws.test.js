/** How a run over WebSocket lags, on a socket that says what the test lets it say, when the test lets it. */

import { expect, test } from 'vitest';

import { RunClosed } from '../src/index.js';
import { number, upTo } from './live.js';
import { attach, attached, randoms, RUN, scripted, Scripted, settled, sockets } from './scripted.js';

test('a reader that catches up before its pause is answered goes on', async () => {
  const { run, socket } = await attached();
  /** @type {number[]} */
  const seen = [];
  run.on('event', (event) => seen.push(number(event)));
  socket.events(upTo(1024)); // at once, and more than may wait
  const pause = await socket.next();
  expect([pause.type, pause.run_id]).toEqual(['pause', RUN]);
  const resume = await socket.next();
  expect([resume.type, resume.run_id]).toEqual(['resume', RUN]);
  socket.events([1025]); // was on its way
  socket.answer(pause, { type: 'paused' });
  socket.answer(resume, { type: 'resumed' });
  socket.events([1026], 1026);
  await run.result;
  expect(seen).toEqual(upTo(1026));
});

test('a server that refuses a pause goes on', async () => {
  const { run, socket } = await attached();
  const events = run[Symbol.asyncIterator]();
  socket.events(upTo(3000));
  const pause = await socket.next();
  socket.answer(pause, { type: 'error', code: 'bad_request', message: 'no' });
  const seen = [];
  for (let count = 0; count < 2900; count += 1) seen.push(number(/** @type {any} */ ((await events.next()).value)));
  const resume = await socket.next();
  expect(resume.type).toBe('resume');
  socket.answer(resume, { type: 'error', code: 'bad_request', message: 'no' });
  socket.events([3001], 3001);
  for await (const event of { [Symbol.asyncIterator]: () => events }) seen.push(number(event));
  expect(seen).toEqual(upTo(3001));
});

test('a run that ends while its pause is on its way is whole', async () => {
  const { run, socket } = await attached();
  const events = run[Symbol.asyncIterator]();
  socket.events(upTo(2000), 2000);
  const pause = await socket.next();
  expect(pause.type).toBe('pause');
  socket.answer(pause, { type: 'error', code: 'bad_request', message: 'It is followed no longer.' });
  const seen = [];
  for await (const event of { [Symbol.asyncIterator]: () => events }) seen.push(number(event));
  expect(seen).toEqual(upTo(2000));
  expect(run.status).toBe('completed');
});

test('who asked for cancel leaves for good', async () => {
  for (const [onDisconnect, leave] of /** @type {const} */ ([['cancel', true], ['cancel_after:5', undefined]])) {
    const client = scripted();
    const run = client.stream('hi', { onDisconnect });
    const socket = /** @type {Scripted} */ (await sockets.take());
    socket.answer(await socket.next(), { type: 'started' });
    await run.started;
    run.close();
    const detach = await socket.next();
    expect([detach.type, detach.run_id, detach.leave]).toEqual(['detach', RUN, leave]);
  }
});

test.each(upTo(20))('put, pause, read and resume in any order: seed %i', async (seed) => {
  const random = randoms(seed);
  const { run, socket } = await attached();
  const total = 6000;
  let [sent, read, pauses] = [0, 0, 0];
  let paused = false;
  /** @type {any[]} */
  const commands = [];
  const hear = async () => {
    for (;;) commands.push(await socket.next());
  };
  void hear();
  const obey = () => {
    const command = commands.shift();
    if (!command) return;
    paused = command.type === 'pause';
    pauses += Number(paused);
    socket.answer(command, { type: paused ? 'paused' : 'resumed' });
  };
  const serve = async () => {
    while (sent < total) {
      if (random() < 0.3) obey();
      else if (!paused) {
        const numbers = upTo(Math.min(1 + Math.floor(random() * 700), total - sent)).map((count) => sent + count);
        sent += numbers.length;
        socket.events(numbers, total);
      }
      await new Promise((resolve) => (random() < 0.5 ? setImmediate(resolve) : queueMicrotask(() => resolve(undefined))));
    }
  };
  const serving = serve();
  for await (const event of run) {
    read += 1;
    expect(number(event)).toBe(read);
    if (random() < 0.02) await new Promise((resolve) => setImmediate(resolve));
  }
  await serving;
  expect(read).toBe(total);
  expect(pauses).toBeGreaterThan(0);
  expect(run.status).toBe('completed');
});

/**
 * Plays all sockets that are opened: a log of `total` events that the clients may attach to, pause and leave, over a
 * network that breaks now and then. Returns a function that ends it.
 * @param {number} total @param {() => number} random
 */
function server(total, random) {
  let over = false;
  /** @param {Scripted} socket */
  const play = async (socket) => {
    /** @type {any[]} */
    const commands = [];
    const hear = async () => {
      for (;;) commands.push(await socket.next());
    };
    void hear();
    /** @type {number | null} */
    let cursor = null;
    let paused = false;
    while (!over && !socket.closed) {
      const dice = random();
      const command = dice < 0.4 ? commands.shift() : undefined;
      if (command) {
        if (command.type === 'attach') cursor = command.after;
        if (command.type === 'detach') cursor = null;
        paused = command.type === 'pause' || (paused && command.type !== 'resume' && command.type !== 'attach');
        socket.answer(command, { type: command.type === 'pause' ? 'paused' : `${command.type}ed`, last: total, ended: false });
      } else if (dice > 0.99 && cursor !== null) {
        socket.end([1006, 1012, 4008][Math.floor(random() * 3)] ?? 1006);
        return;
      } else if (cursor !== null && !paused && cursor < total) {
        const begin = cursor;
        const numbers = upTo(Math.min(1 + Math.floor(random() * 700), total - begin)).map((count) => begin + count);
        cursor += numbers.length;
        socket.events(numbers, total);
      }
      await (random() < 0.5 ? settled() : undefined);
    }
  };
  const listen = async () => {
    for (;;) {
      const socket = /** @type {Scripted} */ (await sockets.take());
      if (over) return;
      void play(socket);
    }
  };
  void listen();
  return () => {
    over = true;
    new Scripted(); // lets it stop listening
  };
}

test.each(upTo(40))('put, pause, drain, fail and close in any order, with and without one who awaits the result: seed %i', async (seed) => {
  const random = randoms(seed);
  const total = 4000;
  const stop = server(total, random);
  const run = scripted({ retry: { base: 0 } }).attach(RUN);
  const awaited = random() < 0.5 ? run.result.catch((error) => error) : null;
  const closes = random() < 0.5 ? 0.001 : 0;
  if (random() < 0.3) await awaited;
  let read = 0;
  /** @type {unknown} */
  let thrown = null;
  try {
    for await (const event of run) {
      read += 1;
      expect(number(event)).toBe(read);
      if (random() < 0.02) await settled();
      if (random() < closes) run.close();
    }
  } catch (error) {
    thrown = error;
  }
  if (thrown) {
    expect(thrown).toBeInstanceOf(RunClosed);
    expect(closes).toBeGreaterThan(0);
    await expect(run[Symbol.asyncIterator]().next()).rejects.toThrow(RunClosed);
  } else {
    expect(read).toBe(total);
  }
  if (run.terminal) expect(await run.result).toBe('all');
  else await expect(run.result).rejects.toThrow(RunClosed);
  expect(await (awaited ?? run.result.catch(() => 'all'))).toEqual(run.terminal ? 'all' : expect.anything());
  stop();
});

test('a run that the server has forgotten in the middle is another matter than one that never was', async () => {
  for (const [begun, said] of /** @type {[boolean, string][]} */ ([[true, 'no longer has the run'], [false, 'does not exist']])) {
    const run = scripted().attach(RUN);
    if (begun) (await attach()).socket.end(1006);
    const socket = /** @type {Scripted} */ (await sockets.take());
    const { ref } = await socket.next();
    socket.say({ type: 'error', code: 'run_not_found', message: 'The run does not exist.', ref });
    await expect(run.result).rejects.toThrow(said);
    expect(run.error).toMatchObject({ name: 'RunNotFound', code: 'run_not_found', status: 404 });
  }
});

test('a message of the server names an option as it is here', async () => {
  const run = scripted().stream('hi');
  const socket = /** @type {Scripted} */ (await sockets.take());
  const { ref } = await socket.next();
  socket.say({ type: 'error', code: 'bad_request', message: '`user_id` must be shorter.', field: 'user_id', ref });
  await expect(run.result).rejects.toMatchObject({ message: '`userId` must be shorter.', field: 'user_id', status: 400 });
});

/** How a run over WebSocket lags, on a socket that says what the test lets it say, when the test lets it. */

import { expect, onTestFinished, test } from 'vitest';

import { createClient } from '../src/index.js';
import { Mailbox } from '../src/mailbox.js';
import { number, upTo } from './live.js';

const RUN = 'a'.repeat(26);

/** The sockets that were opened. @type {Mailbox<Scripted>} */
const sockets = new Mailbox();

/** A socket with nobody behind it. */
class Scripted {
  /** @type {((event: any) => void) | null} */ onopen = null;
  /** @type {((event: any) => void) | null} */ onmessage = null;
  /** @type {((event: any) => void) | null} */ onerror = null;
  /** @type {((event: any) => void) | null} */ onclose = null;
  /** What the client said. @type {Mailbox<Record<string, any>>} */ #commands = new Mailbox();

  constructor() {
    sockets.put(this);
    queueMicrotask(() => this.onopen?.({}));
  }

  /** @param {string} text */
  send(text) {
    this.#commands.put(JSON.parse(text));
  }

  close() {}

  /** The client's next command. @returns {Promise<any>} */
  next() {
    return this.#commands.take();
  }

  /** @param {{ref: number}} command @param {Record<string, any>} reply */
  answer({ ref }, reply) {
    this.#say({ ...reply, ref, run_id: RUN });
  }

  /** Says these events, the `last` of which ends the run. @param {number[]} numbers @param {number} [last] */
  events(numbers, last) {
    for (const seq of numbers) {
      const word = { type: 'LLM_CHUNK', data: { content: 'a', delta: 'a' }, metadata: {} };
      const end = { type: 'AGENT_FINISH', data: { status: 'completed', result: '' }, metadata: { events: seq } };
      this.#say({ id: `evt-${RUN}-${seq}`, ...(seq === last ? end : word) });
    }
  }

  /** @param {Record<string, any>} message */
  #say(message) {
    this.onmessage?.({ data: JSON.stringify(message) });
  }
}

/** A run that is attached on a socket that the test plays. @param {import('../src/client.js').AttachOptions} [options] */
async function attached(options) {
  const client = createClient({ url: 'http://localhost', transport: 'ws', WebSocket: Scripted });
  onTestFinished(() => client.close());
  const run = client.attach(RUN, options);
  const socket = /** @type {Scripted} */ (await sockets.take());
  const attach = await socket.next();
  expect(attach.type).toBe('attach');
  socket.answer(attach, { type: 'attached', last: 0, ended: false });
  return { client, run, socket };
}

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
    const client = createClient({ url: 'http://localhost', transport: 'ws', WebSocket: Scripted });
    onTestFinished(() => client.close());
    const run = client.stream('hi', { onDisconnect });
    const socket = /** @type {Scripted} */ (await sockets.take());
    socket.answer(await socket.next(), { type: 'started' });
    await run.started;
    run.close();
    const detach = await socket.next();
    expect([detach.type, detach.run_id, detach.leave]).toEqual(['detach', RUN, leave]);
  }
});

/** Numbers from 0 to 1, the same for the same seed. @param {number} seed */
function randoms(seed) {
  return () => {
    seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
    return seed / 2 ** 32;
  };
}

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

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

test('a reader that has caught up before its pause is answered goes on', async () => {
  const client = createClient({ url: 'http://localhost', transport: 'ws', WebSocket: Scripted });
  onTestFinished(() => client.close());
  const run = client.attach(RUN);
  /** @type {number[]} */
  const seen = [];
  const caughtUp = new Promise((resolve) =>
    run.on('event', (event) => {
      seen.push(number(event));
      if (seen.length === 1024) resolve(undefined);
    }),
  );
  const socket = /** @type {Scripted} */ (await sockets.take());
  const attach = await socket.next();
  expect(attach.type).toBe('attach');
  socket.answer(attach, { type: 'attached', last: 0, ended: false });
  socket.events(upTo(1024)); // at once, and more than may wait
  const detach = await socket.next();
  expect(detach.type).toBe('detach');
  await caughtUp;
  socket.events([1025]); // was on its way
  socket.answer(detach, { type: 'detached' });
  const again = await socket.next();
  expect([again.type, again.after]).toEqual(['attach', 1025]);
  socket.answer(again, { type: 'attached', last: 1026, ended: true });
  socket.events([1026], 1026);
  await run.result;
  expect(seen).toEqual(upTo(1026));
});

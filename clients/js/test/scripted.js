/** A socket that says what a test lets it say, when the test lets it, and what tests of such sockets share. */

import { onTestFinished } from 'vitest';

import { createClient } from '../src/index.js';
import { Mailbox } from '../src/mailbox.js';

/** @import { AttachOptions, ClientOptions } from '../src/client.js' */

export const RUN = 'a'.repeat(26);

/** The sockets that were opened. @type {Mailbox<Scripted>} */
export const sockets = new Mailbox();

/** A socket with nobody behind it. */
export class Scripted {
  /** @type {((event: any) => void) | null} */ onopen = null;
  /** @type {((event: any) => void) | null} */ onmessage = null;
  /** @type {((event: any) => void) | null} */ onerror = null;
  /** @type {((event: any) => void) | null} */ onclose = null;
  /** True once the client has closed it. */ closed = false;
  /** The client's commands. @type {Mailbox<Record<string, any>>} */ #commands = new Mailbox();

  constructor() {
    sockets.put(this);
    queueMicrotask(() => this.onopen?.({}));
  }

  /** @param {string} text */
  send(text) {
    this.#commands.put(JSON.parse(text));
  }

  close() {
    this.closed = true;
  }

  /** The client's next command. @returns {Promise<any>} */
  next() {
    return this.#commands.take();
  }

  /** @param {{ref: number}} command @param {Record<string, any>} reply */
  answer({ ref }, reply) {
    this.say({ run_id: RUN, ...reply, ref });
  }

  /** Says these events, the `last` of which ends the run. @param {number[]} numbers @param {number} [last] @param {string} [run] */
  events(numbers, last, run = RUN) {
    for (const seq of numbers) {
      const word = { type: 'LLM_CHUNK', data: { content: 'a', delta: 'a' }, metadata: {} };
      const end = { type: 'AGENT_FINISH', data: { status: 'completed', result: 'all' }, metadata: { events: seq } };
      this.say({ id: `evt-${run}-${seq}`, ...(seq === last ? end : word) });
    }
  }

  /** @param {Record<string, any>} message */
  say(message) {
    this.onmessage?.({ data: JSON.stringify(message) });
  }

  /** The server closes it. @param {number} code */
  end(code) {
    this.onclose?.({ code, reason: '' });
  }
}

/** A client whose sockets the test plays. @param {ClientOptions} [options] */
export function scripted(options) {
  const retry = { base: 0, attempts: 3 };
  const client = createClient({ url: 'http://localhost', transport: 'ws', WebSocket: Scripted, retry, ...options });
  onTestFinished(() => client.close());
  return client;
}

/** The next socket, with the command that comes first on it answered. */
export async function attach() {
  const socket = /** @type {Scripted} */ (await sockets.take());
  const attach = await socket.next();
  socket.answer(attach, { type: 'attached', run_id: attach.run_id, last: 0, ended: false });
  return { socket, attach };
}

/** A run that is attached on a socket that the test plays. @param {AttachOptions} [options] @param {ClientOptions} [how] */
export async function attached(options, how) {
  const client = scripted(how);
  const run = client.attach(RUN, options);
  return { client, run, ...(await attach()) };
}

/** Numbers from 0 to 1, the same for the same seed. @param {number} seed */
export function randoms(seed) {
  return () => {
    seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
    return seed / 2 ** 32;
  };
}

/** Resolves when all that is due has been done. @returns {Promise<void>} */
export const settled = () => new Promise((resolve) => setImmediate(resolve));

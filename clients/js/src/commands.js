/** Cancels, answers and messages to a run, over whatever connection gets through. */

import { NEVER } from './api.js';
import { check, RULES } from './checks.js';
import { ApiError, Broken, RunNotFound } from './errors.js';
import { sleep } from './retry.js';
import { isLarge } from './socket.js';

/** @import { Api } from './api.js' */
/** @import { Sockets } from './ws.js' */

/**
 * The outcome of an answer or a message: `accepted` once it is in the run's log. `messageId` is its id; of
 * `already_answered` that of the answer that won, with `at`, when that was, and `by`, if it is known.
 * @typedef {{messageId: string, status: 'accepted' | 'already_answered' | 'expired' | 'not_found' | 'not_accepted'
 *   | 'already_finished', at?: string, by?: string}} Acknowledgement
 */
/**
 * `messageId` is the idempotency key, a fresh one by default: nothing is taken twice.
 * @typedef {{messageId?: string | undefined}} SayOptions
 */
/**
 * A command as a socket takes it, and the path and the body of the request that says the same.
 * @typedef {{command: Record<string, unknown>, path: string, body?: Record<string, unknown>}} Order
 */

/** The ms that a request may take before a socket is opened: a browser's six connections of HTTP/1.1 may be in use. */
const SOON_MS = 1_000;
/** The statuses that are errors over HTTP. @type {Record<string, Acknowledgement['status']>} */
const REFUSED = {
  input_expired: 'expired', input_not_found: 'not_found', not_accepted: 'not_accepted', run_ended: 'already_finished',
};

/** 128 random bits as hex; unlike `randomUUID` this is there on plain HTTP too. */
export function randomKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, '0')).join('');
}

export const unknown = () => new RunNotFound({ code: 'run_not_found', message: 'The run does not exist.' }, null);

export class Commands {
  #api;
  #sockets;
  #closed;

  /** @param {Api} api @param {Sockets | undefined} sockets @param {AbortSignal} closed  aborts when the client is closed */
  constructor(api, sockets, closed) {
    this.#api = api;
    this.#sockets = sockets;
    this.#closed = closed;
  }

  /** Cancels a run, also one that its client has left: `accepted` or `already_finished`. @param {string} runId */
  async cancel(runId) {
    const order = { command: { type: 'cancel', run_id: runId }, path: `/runs/${runId}/cancel` };
    const { status } = await this.#carry(order, NEVER);
    if (status === 'not_found') throw unknown();
    return String(status);
  }

  /** @param {string} runId @param {string} inputId @param {unknown} answer @param {SayOptions} [options] */
  async answer(runId, inputId, answer, options = {}) {
    check(options, RULES.say);
    const { messageId = randomKey() } = options;
    if (JSON.stringify(answer) === undefined) throw new TypeError('`value` must be JSON.');
    const body = { answer, message_id: messageId };
    const command = { type: 'answer', run_id: runId, input_id: inputId, ...body };
    return this.#say({ command, path: `/runs/${runId}/inputs/${encodeURIComponent(inputId)}`, body }, messageId);
  }

  /** @param {string} runId @param {string} content @param {SayOptions} [options] */
  async send(runId, content, options = {}) {
    check(options, RULES.say);
    const { messageId = randomKey() } = options;
    if (typeof content !== 'string') throw new TypeError('`content` must be a string.');
    const body = { content, message_id: messageId };
    return this.#say({ command: { type: 'send', run_id: runId, ...body }, path: `/runs/${runId}/messages`, body }, messageId);
  }

  /** @param {Order} order @param {string} messageId @returns {Promise<Acknowledgement>} */
  async #say(order, messageId) {
    try {
      const { message_id: id = messageId, status, at, by } = await this.#carry(order, this.#closed);
      return { messageId: id, status, ...(at && { at }), ...(by && { by }) };
    } catch (error) {
      const status = error instanceof ApiError ? REFUSED[error.code] : undefined;
      if (status === undefined) throw error;
      return { messageId, status };
    }
  }

  /**
   * The reply, asked for again and again: each order can be repeated. Rejects with `ConnectionLost`.
   * @param {Order} order @param {AbortSignal} signal
   */
  async #carry(order, signal) {
    const attempts = this.#api.attempts();
    for (;;) {
      try {
        signal.throwIfAborted();
        const reply = await this.#once(order, signal);
        attempts.worked();
        return reply;
      } catch (error) {
        if (!(error instanceof Broken)) throw error;
        await attempts.failed(error, signal);
      }
    }
  }

  /**
   * Over a socket that is open, else by a request, and over a new socket if that takes its time. A large one is always
   * a request, since a socket's runs would end with it if it is refused.
   * @param {Order} order @param {AbortSignal} signal
   */
  async #once({ command, path, body }, signal) {
    const sockets = isLarge(command) ? undefined : this.#sockets;
    const open = sockets?.open;
    try {
      if (open) return await open.ask(command);
    } catch (error) {
      if (open?.alive || !(error instanceof Broken)) throw error; // the server's own words
    }
    const answered = new AbortController();
    const request = this.#api.call('POST', path, signal, body);
    const late = sleep(SOON_MS, answered.signal).then(async () => (await sockets?.session(null))?.ask(command) ?? request);
    try {
      return await Promise.race([request, late.catch(() => request)]);
    } finally {
      answered.abort();
    }
  }
}

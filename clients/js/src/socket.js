/**
 * One WebSocket that carries many runs (PROTOCOL.md, section 5): commands and their replies, events by their run.
 *
 * A session is one connection and lives once. Whoever wants another opens another (`ws.js`).
 */

import { apiError, Broken, ProtocolError, Unauthenticated } from './errors.js';
import { isEventType, parseObject, runOf } from './events.js';
import { deadline, sleep } from './retry.js';

/** @import { Api } from './api.js' */

/**
 * The parts of the standard's WebSocket that are used, so that npm's `ws` is one too.
 * @typedef {{send: (text: string) => void, close: (code?: number) => void,
 *   onopen: ((event: any) => void) | null, onmessage: ((event: any) => void) | null,
 *   onerror: ((event: any) => void) | null, onclose: ((event: any) => void) | null}} Socket
 */
/** @typedef {new (url: string) => Socket} SocketClass */
/** What hears of a run. @typedef {{put: (event: Record<string, any>) => void, fail: (error: unknown) => void}} Channel */
/** @typedef {{answer: (reply: Record<string, any> | Promise<never>) => void, channel: Channel | undefined}} Asked */

/** Errors of a socket that HTTP would answer with 429 or 503. */
const PASSING = new Set([
  'too_many_runs',
  'rate_limited',
  'too_many_followed',
  'draining',
  'log_unavailable',
  'busy',
]);
/** How many runs a socket follows at most (PROTOCOL.md, section 6). */
const MAX_FOLLOWED = 100;
/** Close codes (RFC 6455, section 7.4.1) that say that the client is wrong. Those from 4500 are Twinwire's own. */
const FINAL = new Set([1003, 1008, 1009, 1010]);
const IDLE_MS = 10_000;
/** How much of a token's life is over when a newer one is asked for, and what is left when it is too late for that. */
const RENEW_AT = 0.8;
const LAST_MS = 1_000;

/** What an `error` or `gap` message means. @param {Record<string, any>} message */
function verdict(message) {
  const { code, message: said, retry_after: seconds } = message;
  if (PASSING.has(code)) return new Broken(said ?? code, { retryAfter: seconds > 0 ? seconds * 1000 : 0, said });
  return apiError(message.type === 'gap' ? { ...message, code: 'gap' } : message);
}

/** What a close code means. @param {number} code @param {string} reason */
function closed(code, reason) {
  const message = `The server closed the socket with ${code}${reason ? ` (${reason})` : ''}.`;
  const final = FINAL.has(code) || (code >= 4500 && code <= 4999);
  if (final) return apiError({ code: code === 4501 ? 'unauthenticated' : 'closed', message }, code);
  return new Broken(message, { said: reason || null });
}

export class Session {
  #api;
  #SocketClass;
  /** @type {Socket | null} */ #socket = null;
  /** @type {Map<number, Asked>} */ #asked = new Map();
  /** @type {Map<string, Channel>} */ #channels = new Map();
  #refs = 0;
  #heard = false;
  #over = new AbortController();
  /** @type {ReturnType<typeof setInterval> | undefined} */ #pulse;
  /** @type {ReturnType<typeof setTimeout> | undefined} */ #idle;
  /** @type {((error: unknown) => void) | null} */ #refuse = null;

  /** @param {Api} api @param {SocketClass} SocketClass */
  constructor(api, SocketClass) {
    this.#api = api;
    this.#SocketClass = SocketClass;
    /** Resolves when it can be spoken to; the token, if there is one, has been sent. */
    this.opened = this.#open();
    this.opened.catch((error) => this.fail(error));
  }

  /** Whether it can be spoken to, or will be. */
  get alive() {
    return !this.#over.signal.aborted;
  }

  /** Whether it follows as many runs as it may, or will when everything that was asked has been answered. */
  get full() {
    return this.#channels.size + this.#asked.size >= MAX_FOLLOWED;
  }

  /** Whether a run is followed here: it can be so once. @param {string | null} runId */
  follows(runId) {
    return runId !== null && this.#channels.has(runId);
  }

  /**
   * The reply to a command. Events of the run that the reply names go to the `channel`, from the first one on.
   * @param {Record<string, unknown>} command
   * @param {Channel} [channel]
   * @returns {Promise<Record<string, any>>}
   */
  async ask(command, channel) {
    if (!this.alive) throw new Broken('The connection broke.');
    clearTimeout(this.#idle);
    this.#refs += 1;
    this.#socket?.send(JSON.stringify({ ...command, ref: this.#refs }));
    const callOff = deadline(this.#api.timeout, () => this.fail(new Broken('The server was silent for too long.')));
    try {
      return await new Promise((answer) => this.#asked.set(this.#refs, { answer, channel }));
    } finally {
      callOff();
      this.#rest();
    }
  }

  /**
   * Stops following a run, if this channel still does.
   * @param {string} runId @param {Channel} channel @param {boolean} cancels  whether that ends a run that nobody follows
   */
  async leave(runId, channel, cancels) {
    if (this.#channels.get(runId) !== channel) return;
    const detach = { type: 'detach', run_id: runId, ...(cancels && { leave: true }) };
    await this.ask(detach).catch(() => {}); // then the session has failed
    this.ended(runId, channel);
  }

  /** No more comes of this run. @param {string} runId @param {Channel} channel */
  ended(runId, channel) {
    if (this.#channels.get(runId) === channel) this.#channels.delete(runId);
    this.#rest();
  }

  /** Ends it, and with it everything that waits for it. @param {unknown} error */
  fail(error) {
    if (!this.alive) return;
    this.#over.abort(error);
    clearInterval(this.#pulse);
    clearTimeout(this.#idle);
    this.#refuse?.(error);
    for (const { answer } of this.#asked.values()) answer(Promise.reject(error));
    for (const channel of this.#channels.values()) channel.fail(error);
    this.#asked.clear();
    this.#channels.clear();
    if (this.#socket) {
      this.#socket.onopen = this.#socket.onmessage = this.#socket.onclose = null;
      this.#socket.close(1000);
    }
  }

  async #open() {
    const token = await this.#api.token();
    if (!this.alive) throw new Broken('The connection was closed.');
    const socket = new this.#SocketClass(`${this.#api.url.replace(/^http/, 'ws')}/ws`);
    this.#socket = socket;
    const callOff = deadline(this.#api.timeout, () => this.fail(new Broken('The server was silent for too long.')));
    try {
      await /** @type {Promise<void>} */ (
        new Promise((resolve, reject) => {
          this.#refuse = reject;
          socket.onopen = () => resolve();
          socket.onmessage = ({ data }) => this.#message(data);
          socket.onerror = () => {}; // a close follows, and tells
          socket.onclose = ({ code, reason }) => this.fail(closed(code, reason));
        })
      );
    } finally {
      callOff();
    }
    this.#pulse = setInterval(() => this.#beat(), this.#api.heartbeat);
    this.#rest();
    if (token === undefined) return;
    this.ask({ type: 'auth', token }).then(
      (reply) => this.#renew(token, reply).catch(() => {}), // then the server closes the socket, which tells
      (error) => {
        // Any other error is of a server that asks nobody who he is.
        if (error instanceof Unauthenticated) this.fail(error);
      },
    );
  }

  /** Says who one is again, with a newer token, before the one that was taken expires. @param {string} token @param {Record<string, any>} reply */
  async #renew(token, reply) {
    const left = () => Date.parse(reply.expires_at) - Date.now();
    while (this.#api.renewable && left() > LAST_MS) {
      await sleep(RENEW_AT * left(), this.#over.signal);
      const newer = await this.#api.token();
      if (newer === undefined || newer === token) continue;
      reply = await this.ask({ type: 'auth', token: newer });
      token = newer;
    }
  }

  /** A program does not see the server's ping frames: only its own `ping` tells silence from a dead connection. */
  #beat() {
    if (!this.#heard && this.#channels.size > 0) this.ask({ type: 'ping' }).catch(() => {}); // `fail` told everybody
    this.#heard = false;
  }

  /** @param {unknown} text */
  #message(text) {
    this.#heard = true;
    try {
      const message = parseObject(String(text));
      if (isEventType(String(message.type))) this.#event(message);
      else this.#reply(message);
    } catch (error) {
      this.fail(error);
    }
  }

  /** @param {Record<string, any>} event */
  #event(event) {
    const channel = this.#channels.get(runOf(event));
    if (!channel) throw new ProtocolError('The server sent an event of a run that is not followed.');
    channel.put(event);
  }

  /** @param {Record<string, any>} message */
  #reply(message) {
    const bad = message.type === 'error' || message.type === 'gap';
    const asked = this.#asked.get(message.ref);
    const followed = this.#channels.get(message.run_id);
    if (asked) {
      this.#asked.delete(message.ref);
      if (asked.channel && !bad) {
        if (followed !== asked.channel) followed?.fail(new Broken('The run is now followed from another cursor on this socket.'));
        this.#channels.set(message.run_id, asked.channel);
      }
      asked.answer(bad ? Promise.reject(verdict(message)) : message);
    } else if (bad && message.run_id !== undefined) {
      this.#channels.delete(message.run_id);
      followed?.fail(verdict(message));
    } else if (bad) {
      throw verdict(message);
    }
  }

  /** A socket that nobody uses is closed after a while. */
  #rest() {
    clearTimeout(this.#idle);
    if (!this.alive || this.#asked.size > 0 || this.#channels.size > 0) return;
    this.#idle = setTimeout(() => this.fail(new Broken('The socket was not used.')), IDLE_MS);
  }
}

/**
 * One WebSocket that carries many runs (PROTOCOL.md, section 5): commands and their replies, events by their run.
 *
 * A session is one connection and lives once. Whoever wants another opens another (`ws.js`).
 */

import { apiError, Broken, ProtocolError, TooLarge, Unauthenticated } from './errors.js';
import { isEventType, parseObject, runOf } from './events.js';
import { broken } from './failures.js';
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
/**
 * `runId` is the run that the command names, if it names one; `size` is the command's, in characters.
 * @typedef {{answer: (reply: Record<string, any> | Promise<never>) => void, channel: Channel | undefined,
 *   runId: unknown, size: number}} Asked
 */

/** The statuses of errors after which the same command may succeed later. @type {Set<number | null>} */
const PASSING = new Set([429, 503, 504]);
/** The most runs that a socket follows (PROTOCOL.md, section 6). */
const MAX_FOLLOWED = 100;
/** The size from which on a command is a request of its own: whatever refuses it then ends no socket that others use. */
const LARGE_BYTES = 65_536;
/** Close codes (RFC 6455, section 7.4.1) that say that the client is wrong. Those from 4500 are Twinwire's own. */
const FINAL = new Set([1003, 1008, 1009, 1010]);
/** Those of them that a single message may be the reason of. */
const OF_ONE_MESSAGE = new Set([1008, 1009]);
/** The errors that close codes of Twinwire's own tell (PROTOCOL.md, section 5). */
const CODES = new Map([[4500, 'bad_request'], [4501, 'unauthenticated']]);
const IDLE_MS = 10_000;
/** How much of a token's life is over when a newer one is asked for, and what is left when it is too late for that. */
const RENEW_AT = 0.8;
const LAST_MS = 1_000;

/** What an `error` or `gap` message means. @param {Record<string, any>} message */
function verdict(message) {
  const { code, message: said = null } = message;
  const error = apiError(message.type === 'gap' ? { ...message, code: 'gap' } : message);
  const { status, retryAfter } = error;
  return PASSING.has(status) ? new Broken(said ?? code, { code, status, retryAfter, said }) : error;
}

/** What a close code means. @param {number} code @param {string} reason */
function closed(code, reason) {
  const message = `The server closed the socket with ${code}${reason ? ` (${reason})` : ''}.`;
  const final = FINAL.has(code) || (code >= 4500 && code <= 4999);
  if (final) return apiError({ code: CODES.get(code) ?? 'closed', message });
  return new Broken(message, { said: reason || null });
}

/** True if a command is to be a request of its own. @param {object} command */
export const isLarge = (command) => new TextEncoder().encode(JSON.stringify(command)).length >= LARGE_BYTES;

export class Session {
  #api;
  #SocketClass;
  #openWithin;
  /** @type {Socket | null} */ #socket = null;
  /** @type {Map<number, Asked>} */ #asked = new Map();
  /** @type {Map<string, Channel>} */ #channels = new Map();
  #refs = 0;
  #heard = false;
  #over = new AbortController();
  /** @type {ReturnType<typeof setInterval> | undefined} */ #pulse;
  /** @type {ReturnType<typeof setTimeout> | undefined} */ #idle;
  /** @type {((error: unknown) => void) | null} */ #refuse = null;

  /** @param {Api} api @param {SocketClass} SocketClass @param {number} openWithin  in ms */
  constructor(api, SocketClass, openWithin) {
    this.#api = api;
    this.#SocketClass = SocketClass;
    this.#openWithin = openWithin;
    /** True if it can be spoken to at once. */
    this.open = false;
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
    const ref = this.#refs;
    const text = JSON.stringify({ ...command, ref });
    this.#socket?.send(text);
    const callOff = deadline(this.#api.timeout, () => this.fail(new Broken('The server was silent for too long.')));
    try {
      return await new Promise((answer) => {
        this.#asked.set(ref, { answer, channel, runId: command['run_id'], size: text.length });
      });
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
    this.open = false;
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
    /** @type {unknown} */
    let why;
    const callOff = deadline(this.#openWithin, () => this.fail(new Broken('The server was silent for too long.')));
    try {
      await /** @type {Promise<void>} */ (
        new Promise((resolve, reject) => {
          this.#refuse = reject;
          socket.onopen = () => resolve();
          socket.onmessage = ({ data }) => this.#message(data);
          socket.onerror = ({ error }) => (why = error); // a close follows
          socket.onclose = ({ code, reason }) => reject(why instanceof Error ? broken(why) : closed(code, reason));
        })
      );
    } catch (error) {
      // npm's `ws` tells why, other sockets do not.
      const told = why instanceof Error && 'code' in why && typeof why.code === 'string';
      throw told || !this.alive ? error : await this.#api.whyNoSocket(error);
    } finally {
      callOff();
    }
    socket.onclose = ({ code, reason }) => this.#closed(code, reason);
    this.open = true;
    this.#pulse = setInterval(() => this.#beat(), this.#api.heartbeat);
    this.#rest();
    if (token === undefined) return;
    this.ask({ type: 'auth', token }).then(
      (reply) => this.#renew(token, reply),
      (error) => {
        // Any other error is of a server that asks nobody who he is.
        if (error instanceof Unauthenticated) this.fail(error);
      },
    );
  }

  /**
   * Says who one is again, with a newer token, before the one that was accepted expires. What goes wrong is tried again
   * while there is time; then the server closes the socket, which tells.
   * @param {string} token @param {Record<string, any>} reply
   */
  async #renew(token, reply) {
    const left = () => Date.parse(reply.expires_at) - Date.now();
    let share = RENEW_AT;
    while (this.#api.renewable && left() > LAST_MS) {
      try {
        await sleep(share * left(), this.#over.signal);
        const newer = await this.#api.token();
        if (newer === undefined || newer === token) continue;
        reply = await this.ask({ type: 'auth', token: newer });
        token = newer;
        share = RENEW_AT;
      } catch {
        if (!this.alive) return;
        share = 0.5;
      }
    }
  }

  /** A program does not see the server's ping frames: only its own `ping` tells silence from a dead connection. */
  #beat() {
    if (!this.#heard && this.#channels.size > 0) this.ask({ type: 'ping' }).catch(() => {}); // `fail` told everybody
    this.#heard = false;
  }

  /** @param {number} code @param {string} reason */
  #closed(code, reason) {
    const error = closed(code, reason);
    if (OF_ONE_MESSAGE.has(code) && this.#asked.size > 0) {
      // It was one of the commands that have no reply: the largest, for all that is known. All else goes on elsewhere.
      const [[ref, asked]] = [...this.#asked].sort(([, one], [, other]) => other.size - one.size);
      const message = `The message is larger than the server accepts. ${error.message}`;
      this.#asked.delete(ref);
      asked.answer(Promise.reject(code === 1009 ? new TooLarge({ code: 'payload_too_large', message }, null) : error));
      this.fail(new Broken(error.message, { said: reason || null }));
    } else {
      this.fail(error);
    }
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
      if (bad) asked.answer(Promise.reject(verdict(message)));
      else if (asked.runId !== undefined && message.run_id !== asked.runId) {
        asked.answer(Promise.reject(new ProtocolError("The server's answer is about another run.")));
      } else {
        if (asked.channel) this.#follow(message.run_id, asked.channel);
        asked.answer(message);
      }
    } else if (bad && message.run_id !== undefined) {
      this.#channels.delete(message.run_id);
      followed?.fail(verdict(message));
    } else if (bad) {
      throw verdict(message);
    } else if (typeof message.type !== 'string') {
      this.#channels.get(runOf(message))?.put(message); // an event without a type, which its run refuses
    }
  }

  /** @param {string} runId @param {Channel} channel */
  #follow(runId, channel) {
    const followed = this.#channels.get(runId);
    if (followed !== channel) followed?.fail(new Broken('The run is now followed from another cursor on this socket.'));
    this.#channels.set(runId, channel);
  }

  /** A socket that nobody uses is closed after a while. */
  #rest() {
    clearTimeout(this.#idle);
    if (!this.alive || this.#asked.size > 0 || this.#channels.size > 0) return;
    this.#idle = setTimeout(() => this.fail(new Broken('The socket was not used.')), IDLE_MS);
  }
}

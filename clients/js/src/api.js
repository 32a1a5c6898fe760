/**
 * Requests to one server. What goes wrong is `Broken` (try again) or an `ApiError` (the server's verdict).
 *
 * `call` and `open` make one attempt each: what a run does after a failed one is `run.js`'s.
 */

import { isToken } from './checks.js';
import { apiError, Broken, Muted, ProtocolError } from './errors.js';
import { isObject } from './events.js';
import { broken, fromPage } from './failures.js';
import { Attempts, deadline } from './retry.js';

/** @import { Backoff } from './retry.js' */

/** The most ms for finding out why a server was not reached. */
const ASK_MS = 2_000;
/** Aborts never. */
export const NEVER = new AbortController().signal;

/** Ends what is awaited when it takes too long, and with each signal it was given. */
export class Watch {
  #controller = new AbortController();
  /** @type {(() => void)[]} */ #leave = [];

  /** @param {AbortSignal[]} outer */
  constructor(...outer) {
    for (const signal of outer) {
      const abort = () => this.#controller.abort(signal.reason);
      signal.addEventListener('abort', abort);
      this.#leave.push(() => signal.removeEventListener('abort', abort));
      if (signal.aborted) abort();
    }
  }

  /** For `fetch`. */
  get signal() {
    return this.#controller.signal;
  }

  /**
   * What the network does becomes `Broken`; if it gave nothing for `ms`, `Muted`.
   * @template T
   * @param {number} ms
   * @param {() => Promise<T>} work  a request, or reading its answer
   * @returns {Promise<T>}
   */
  async within(ms, work) {
    const silent = () => this.#controller.abort(new Muted('The server was silent for too long.'));
    const callOff = deadline(ms, silent);
    try {
      return await work();
    } catch (error) {
      if (this.signal.aborted) throw this.signal.reason;
      throw broken(error);
    } finally {
      callOff();
    }
  }

  /** Ends the request, if it has not ended. */
  close() {
    for (const leave of this.#leave) leave();
    this.#controller.abort();
  }
}

/**
 * Seconds, or a date (RFC 9110, section 10.2.3), as seconds from now.
 * @param {string | null} value
 */
function seconds(value) {
  return /^[0-9]+$/.test(value ?? '') ? Number(value) : (Date.parse(value ?? '') - Date.now()) / 1000;
}

/** What an answer that is no success means. @param {Response} response @param {string} text */
function refusal(response, text) {
  /** @type {unknown} */
  let body;
  try {
    body = JSON.parse(text);
  } catch {
    // not the server's, but that of something between
  }
  const said = isObject(body) ? body : {};
  const header = response.headers.get('retry-after');
  const error = apiError(header === null ? said : { ...said, retry_after: seconds(header) }, response.status);
  if (response.status !== 429 && response.status < 500) return error;
  const { message, status, retryAfter } = error;
  return new Broken(message, { code: said.code ?? null, status, retryAfter, said: said.message ?? null });
}

/** @typedef {string | (() => string | Promise<string>)} Token */
/**
 * @typedef {object} ApiOptions
 * @property {() => string} url  it is asked for when it is needed
 * @property {Token | undefined} token
 * @property {Record<string, string>} headers
 * @property {typeof fetch} fetch
 * @property {boolean} streams  whether this `fetch` hands out a body while it comes, as far as one knows
 * @property {'omit' | 'same-origin' | 'include' | undefined} credentials
 * @property {number} timeout
 * @property {number} heartbeat
 * @property {Backoff} backoff
 */

export class Api {
  #options;

  /** @param {ApiOptions} options */
  constructor(options) {
    this.#options = options;
    this.timeout = options.timeout;
    this.heartbeat = options.heartbeat;
    this.authenticates = options.token !== undefined;
    /** Whether asking for the token again may give another one. */
    this.renewable = typeof options.token === 'function';
    /** True if `fetch` hands out a body while it comes. React Native's does not. */
    this.streams = options.streams;
    this.credentials = options.credentials;
    /** True once the server was reached: then failures are worth more patience. */
    this.reached = false;
  }

  /** The server's address. Throws `TypeError` if there is none. */
  get url() {
    return this.#options.url();
  }

  /** Counts the failures of one thing. Throws `TypeError` if there is no address. */
  attempts() {
    return new Attempts(this, this.#options.backoff);
  }

  /**
   * The token, asked for anew each time if it is a function. Whatever goes wrong with that is a failed attempt.
   * @returns {Promise<string | undefined>}
   */
  async token() {
    const { token } = this.#options;
    if (typeof token !== 'function') return token;
    let callOff = () => {};
    const late = new Promise((_, reject) => {
      callOff = deadline(this.timeout, () => reject(new Error(`It did not answer within ${this.timeout} ms.`)));
    });
    try {
      const given = await Promise.race([Promise.resolve().then(token), late]);
      if (typeof given !== 'string') throw new TypeError('It gave no string.');
      if (!isToken(given)) throw new TypeError('It gave a string that no header can have.');
      return given;
    } catch (error) {
      const why = error instanceof Error ? error.message : String(error);
      throw new Broken(`The function \`token\` failed. ${why}`, { code: 'token_failed' });
    } finally {
      callOff();
    }
  }

  /**
   * As `call`, again and again; the request must be one that can be repeated. Rejects with `ConnectionLost`.
   * @param {string} method @param {string} path @param {AbortSignal} signal @param {object} [body]
   */
  async ask(method, path, signal, body) {
    const attempts = this.attempts();
    for (;;) {
      try {
        const answer = await this.call(method, path, signal, body);
        attempts.worked();
        return answer;
      } catch (error) {
        if (!(error instanceof Broken)) throw error;
        await attempts.failed(error, signal);
      }
    }
  }

  /**
   * The JSON object that a request is answered with.
   * @param {string} method @param {string} path @param {AbortSignal} signal @param {object} [body]
   * @returns {Promise<Record<string, any>>}
   */
  async call(method, path, signal, body) {
    const watch = new Watch(signal);
    try {
      const response = await this.#send(method, path, watch, this.timeout, body);
      const value = await watch.within(this.timeout, () => response.text()).then(JSON.parse).catch((error) => {
        throw error instanceof SyntaxError ? new ProtocolError(`The server's answer to ${method} ${path} is not JSON.`) : error;
      });
      if (!isObject(value)) throw new ProtocolError(`The server's answer to ${method} ${path} is not a JSON object.`);
      return value;
    } finally {
      watch.close();
    }
  }

  /**
   * An answer whose body is still to be read, for as long as it takes; the caller closes the watch.
   * @param {string} path @param {Watch} watch @param {number} ms  for the answer to begin
   */
  open(path, watch, ms) {
    return this.#send('GET', path, watch, ms);
  }

  /**
   * The error of a socket that did not open, or what a request finds out instead: a socket tells no reason.
   * @param {unknown} error
   */
  async whyNoSocket(error) {
    if (this.reached || !(error instanceof Broken) || error.code !== null) return error;
    if (globalThis.location) return this.#whyNoAnswer(error);
    const watch = new Watch();
    try {
      await watch.within(ASK_MS, () => this.#fetch('/healthz', { signal: watch.signal }));
      return error;
    } catch (found) {
      return found instanceof Broken && found.code !== null ? found : error;
    } finally {
      watch.close();
    }
  }

  /** The reason that kept a page from a server that was never reached. @param {unknown} error */
  async #whyNoAnswer(error) {
    if (this.reached || !(error instanceof Broken) || error.code !== null) return error;
    const watch = new Watch();
    const headers = { ...this.#options.headers, 'content-type': 'application/json' }; // so that it is asked for as a start is
    try {
      return await fromPage(
        this.url,
        (mode) => {
          const how = { mode, signal: watch.signal, ...(mode === 'cors' && { headers }) };
          return watch.within(ASK_MS, () => this.#fetch('/healthz', how));
        },
        error,
      );
    } finally {
      watch.close();
    }
  }

  /** @param {string} path @param {RequestInit} how */
  #fetch(path, how) {
    const { fetch } = this.#options;
    return fetch(this.url + path, {
      ...how,
      cache: 'no-store',
      ...(this.credentials && { credentials: this.credentials }),
    });
  }

  /**
   * @param {string} method @param {string} path @param {Watch} watch @param {number} ms @param {object} [body]
   */
  async #send(method, path, watch, ms, body) {
    const headers = new Headers(this.#options.headers);
    const token = await this.token();
    if (token !== undefined) headers.set('authorization', `Bearer ${token}`);
    if (body) headers.set('content-type', 'application/json');
    const { signal } = watch;
    const how = { method, headers, signal, ...(body && { body: JSON.stringify(body) }) };
    let response;
    try {
      response = await watch.within(ms, () => this.#fetch(path, how));
    } catch (error) {
      throw signal.aborted ? error : await this.#whyNoAnswer(error);
    }
    if (response.body === undefined) this.streams = false;
    if (response.ok) return response;
    throw refusal(response, await watch.within(this.timeout, () => response.text()));
  }
}

/**
 * Requests to one server. What goes wrong is `Broken` (try again) or an `ApiError` (the server's verdict).
 *
 * `call` and `open` make one attempt each: what a run does after a failed one is `run.js`'s.
 */

import { apiError, Broken, Muted, ProtocolError } from './errors.js';
import { isObject } from './events.js';
import { Attempts, deadline } from './retry.js';

/** @import { Backoff } from './retry.js' */

/** Ends what is awaited when it takes too long, and with the signal it was given. */
export class Watch {
  #controller = new AbortController();
  #outer;
  #leave;

  /** @param {AbortSignal} outer */
  constructor(outer) {
    this.#outer = outer;
    this.#leave = () => this.#controller.abort(outer.reason);
    outer.addEventListener('abort', this.#leave);
    if (outer.aborted) this.#leave();
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
      const { message, cause } = /** @type {Error & {cause?: {message?: string}}} */ (error);
      throw new Broken(cause?.message || message);
    } finally {
      callOff();
    }
  }

  /** Ends the request, if it has not ended. */
  close() {
    this.#outer.removeEventListener('abort', this.#leave);
    this.#controller.abort();
  }
}

/**
 * Seconds, or a date (RFC 9110, section 10.2.3), as ms from now.
 * @param {string | null} value
 */
function retryAfter(value) {
  const ms = /^[0-9]+$/.test(value ?? '') ? Number(value) * 1000 : Date.parse(value ?? '') - Date.now();
  return ms > 0 ? ms : 0;
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
  const error = apiError(said, response.status);
  if (response.status !== 429 && response.status < 500) return error;
  const after = retryAfter(response.headers.get('retry-after'));
  return new Broken(error.message, { retryAfter: after, said: said.message ?? null });
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
    /** Whether `fetch` hands out a body while it comes: React Native's does not. */
    this.streams = options.streams;
    this.credentials = options.credentials;
  }

  /** The server's address. Throws `TypeError` if there is none. */
  get url() {
    return this.#options.url();
  }

  /** Counts the failures of one thing. */
  attempts() {
    return new Attempts(this.url, this.#options.backoff);
  }

  /** The token, asked for anew each time if it is a function. @returns {Promise<string | undefined>} */
  async token() {
    const { token } = this.#options;
    return typeof token === 'function' ? token() : token;
  }

  /**
   * As `call`, again and again; the request must be one that can be repeated. Rejects with `ConnectionLost`.
   * @param {string} method @param {string} path @param {AbortSignal} signal @param {object} [body]
   */
  async ask(method, path, signal, body) {
    const attempts = this.attempts();
    for (;;) {
      try {
        return await this.call(method, path, signal, body);
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
   * @param {string} method @param {string} path @param {Watch} watch @param {number} ms @param {object} [body]
   */
  async #send(method, path, watch, ms, body) {
    const headers = new Headers(this.#options.headers);
    const token = await this.token();
    if (token !== undefined) headers.set('authorization', `Bearer ${token}`);
    if (body) headers.set('content-type', 'application/json');
    const { fetch } = this.#options;
    const response = await watch.within(ms, () =>
      fetch(this.url + path, {
        method,
        headers,
        signal: watch.signal,
        cache: 'no-store',
        ...(this.credentials && { credentials: this.credentials }),
        ...(body && { body: JSON.stringify(body) }),
      }),
    );
    if (response.body === undefined) this.streams = false;
    if (response.ok) return response;
    throw refusal(response, await watch.within(this.timeout, () => response.text()));
  }
}

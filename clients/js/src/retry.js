/** When to try again, and when to give up. */

import { ConnectionLost } from './errors.js';

/** @import { Broken } from './errors.js' */

/** By how much a timer may be late on a busy machine. */
const LATE_MS = 500;

/**
 * Full jitter: 0 to min(`cap`, `base` * 2^n) ms before attempt n + 1. It is over after `attempts` failures in a row, or
 * when these have gone on for `patience` ms; and after `first` failures if the server was never reached, sooner if
 * nobody is at its address, unless one `insists`. A server that asks to wait for longer than `maxWait` ms is not waited
 * for. `random` gives a number from 0 to 1.
 * @typedef {{base: number, cap: number, attempts: number, first: number, patience: number, maxWait: number,
 *   insists: boolean, random: () => number}} Backoff
 */
/**
 * A failure, after which it is tried again in `wait` ms. `attempt` is the number of failures in a row; `code`, `status`
 * and `retryAfter` are those of a `ConnectionLost`; `reason` is for people, `said` the server's own words, if any.
 * @typedef {{attempt: number, code: string | null, status: number | null, retryAfter: number | null, wait: number,
 *   reason: string, said: string | null}} Retry
 */
/** The server that all attempts of one client are to reach. @typedef {{url: string, reached: boolean}} Server */

/** A browser alone tells whether there is a network. */
export const inBrowser = () => globalThis.navigator?.onLine !== undefined;

/**
 * In a browser attempts are made without end, since they cost little and a tab may be away for hours. Whoever chooses
 * a number of attempts insists on them.
 * @param {Partial<Backoff>} [chosen]
 * @returns {Backoff}
 */
export function backoff(chosen = {}) {
  const { base = 250, cap = 10_000, attempts = Infinity, maxWait = 60_000, random = Math.random } = chosen;
  const { first = chosen.attempts ?? 10, patience = inBrowser() ? Infinity : 300_000 } = chosen;
  const { insists = (chosen.attempts ?? chosen.first) !== undefined } = chosen;
  return { base, cap, attempts, first, patience, maxWait, insists, random };
}

/**
 * Resolves after `ms`, or rejects as soon as the signal aborts.
 * @param {number} ms
 * @param {AbortSignal} signal
 * @returns {Promise<void>}
 */
export function sleep(ms, signal) {
  return new Promise((resolve, reject) => {
    signal.throwIfAborted();
    const stop = () => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    const timer = setTimeout(() => {
      signal.removeEventListener('abort', stop);
      resolve();
    }, Math.min(ms, 2 ** 31 - 1));
    signal.addEventListener('abort', stop, { once: true });
  });
}

/**
 * The same, but it is over as soon as the network or the page comes back; whether one of them did.
 * @param {number} ms
 * @param {AbortSignal} signal
 */
async function nap(ms, signal) {
  const nap = new AbortController();
  const end = () => nap.abort();
  const wake = () => globalThis.document?.visibilityState === 'hidden' || end();
  const { document } = globalThis;
  globalThis.addEventListener?.('online', end);
  document?.addEventListener('visibilitychange', wake);
  signal.addEventListener('abort', end);
  try {
    signal.throwIfAborted();
    await sleep(ms, nap.signal);
    return false;
  } catch {
    signal.throwIfAborted();
    return true;
  } finally {
    globalThis.removeEventListener?.('online', end);
    document?.removeEventListener('visibilitychange', wake);
    signal.removeEventListener('abort', end);
  }
}

/**
 * Calls `over` after `ms` in which the program ran. A timer that fires late tells that the program stood still, at a
 * breakpoint or in a frozen tab: what has come meanwhile is still to be read, so that it waits once more. It does so
 * once only, since in a hidden tab each timer is late. Returns a function that calls it off.
 * @param {number} ms
 * @param {() => void} over
 */
export function deadline(ms, over) {
  const due = performance.now() + ms;
  let timer = setTimeout(() => {
    if (performance.now() - due > LATE_MS) timer = setTimeout(over, ms);
    else over();
  }, ms);
  return () => clearTimeout(timer);
}

/** Failures in a row, of one thing. */
export class Attempts {
  #failures = 0;
  #since = 0;
  #server;
  #url;
  #backoff;

  /** @param {Server} server @param {Backoff} backoff */
  constructor(server, backoff) {
    this.#server = server;
    this.#url = server.url;
    this.#backoff = backoff;
  }

  /** Is as patient from now on as with what has worked once, in all that is asked of this server. */
  worked() {
    this.#server.reached = true;
  }

  /** Starts counting anew. */
  succeeded() {
    this.#failures = 0;
    this.worked();
  }

  /** The same for a connection that lasted so many ms, if that is longer than any wait between. @param {number} ms */
  lasted(ms) {
    if (ms > this.#backoff.cap) this.succeeded();
  }

  /**
   * Counts a failure, tells it, and waits. Rejects with `ConnectionLost` if it was one too many, or if waiting is no
   * use. Without a network none counts.
   * @param {Broken} error
   * @param {AbortSignal} signal
   * @param {(retry: Retry) => void} [tell]
   */
  async failed(error, signal, tell = () => {}) {
    const { base, cap, random } = this.#backoff;
    const { code, status, retryAfter, message: reason, said } = error;
    if (this.#failures === 0) this.#since = performance.now();
    this.#failures += 1;
    const away = globalThis.navigator?.onLine === false;
    const wait = away ? cap : (retryAfter ?? 0) + random() * Math.min(cap, base * 2 ** (this.#failures - 1));
    const attempt = this.#failures;
    const why = away ? null : this.#enough(error, wait);
    if (why !== null) {
      this.#failures = 0;
      throw new ConnectionLost(`${why} ${reason}`, { code, status, retryAfter, attempts: attempt });
    }
    tell({ attempt, code, status, retryAfter, wait, reason, said });
    const woken = await nap(wait, signal);
    if (woken || away) this.#failures = 0;
    if (woken) await sleep(random() * base, signal); // others have woken, too
  }

  /** Why this failure is the last, or null if it is not. @param {Broken} error @param {number} wait */
  #enough({ hope, retryAfter }, wait) {
    const { attempts, first, patience, maxWait, insists } = this.#backoff;
    const url = this.#url;
    const { reached } = this.#server;
    const lasted = performance.now() - this.#since;
    const after = retryAfter ?? 0;
    if (after > maxWait) {
      return `The server at ${url} asks to wait for ${after / 1000} s, longer than \`retry.maxWait\` allows.`;
    }
    const hopeless = !reached && lasted + wait >= hope && (hope === 0 || !insists);
    if (!hopeless && this.#failures < (reached ? attempts : first) && lasted < patience) return null;
    const tries = this.#failures === 1 ? '1 attempt' : `${this.#failures} attempts`;
    return `The client could not reach ${url} and gave up after ${tries}.`;
  }
}

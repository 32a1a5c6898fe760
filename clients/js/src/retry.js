/** When to try again, and when to give up. */

import { ConnectionLost } from './errors.js';

/** @import { Broken } from './errors.js' */

/** By how much a timer may be late on a busy machine. */
const LATE_MS = 500;

/**
 * Full jitter: 0 to min(`cap`, `base` * 2^n) ms before attempt n + 1. It is over after `attempts` failures in a row, or
 * when these have gone on for `patience` ms; and after `first` failures of what never worked. `random` gives a number
 * from 0 to 1.
 * @typedef {{base: number, cap: number, attempts: number, first: number, patience: number, random: () => number}} Backoff
 */

/**
 * In a browser, which alone tells whether there is a network, attempts are made without end, since they cost little and a tab may be away for hours.
 * @param {Partial<Backoff>} [chosen]
 * @returns {Backoff}
 */
export function backoff(chosen = {}) {
  const patience = globalThis.navigator?.onLine === undefined ? 300_000 : Infinity;
  const first = chosen.attempts ?? 10;
  return { base: 250, cap: 10_000, attempts: Infinity, first, patience, random: Math.random, ...chosen };
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
  #url;
  #backoff;
  #limit;

  /** @param {string} url @param {Backoff} backoff */
  constructor(url, backoff) {
    this.#url = url;
    this.#backoff = backoff;
    this.#limit = backoff.first;
  }

  /** Is as patient from now on as with what has worked once. */
  worked() {
    this.#limit = this.#backoff.attempts;
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
   * Counts a failure and waits. Rejects with `ConnectionLost` if it was one too many. Without a network none counts.
   * @param {Broken} error
   * @param {AbortSignal} signal
   */
  async failed(error, signal) {
    const { base, cap, patience, random } = this.#backoff;
    if (this.#failures === 0) this.#since = performance.now();
    this.#failures += 1;
    const away = globalThis.navigator?.onLine === false;
    const wait = away ? cap : error.retryAfter + random() * Math.min(cap, base * 2 ** (this.#failures - 1));
    if (!away && (this.#failures >= this.#limit || performance.now() - this.#since >= patience)) {
      const tries = this.#failures === 1 ? '1 attempt' : `${this.#failures} attempts`;
      throw new ConnectionLost(`The client could not reach ${this.#url} and gave up after ${tries}. ${error.message}`);
    }
    const woken = await nap(wait, signal);
    if (woken || away) this.#failures = 0;
    if (woken) await sleep(random() * base, signal); // others have woken, too
  }
}

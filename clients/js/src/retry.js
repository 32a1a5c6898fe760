/** When to try again, and when to give up. */

import { ConnectionLost } from './errors.js';

/** @import { Broken } from './errors.js' */

/**
 * Full jitter: 0 to min(`cap`, `base` * 2^n) ms before attempt n + 1. After `attempts` failures in a row it is
 * over; `Infinity` is for ever. `random` gives a number from 0 to 1.
 * @typedef {{base: number, cap: number, attempts: number, random: () => number}} Backoff
 */

/** @type {Backoff} */
export const BACKOFF = { base: 250, cap: 10_000, attempts: 10, random: Math.random };

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

/** Failures in a row, of one thing. */
export class Attempts {
  #failures = 0;
  #url;
  #backoff;

  /** @param {string} url @param {Backoff} backoff */
  constructor(url, backoff) {
    this.#url = url;
    this.#backoff = backoff;
  }

  /** Starts counting anew. */
  succeeded() {
    this.#failures = 0;
  }

  /** The same for a connection that lasted so many ms, if that is longer than any wait between. @param {number} ms */
  lasted(ms) {
    if (ms > this.#backoff.cap) this.#failures = 0;
  }

  /**
   * Counts a failure and waits. Rejects with `ConnectionLost` if it was one too many.
   * @param {Broken} error
   * @param {AbortSignal} signal
   */
  async failed(error, signal) {
    const { base, cap, attempts, random } = this.#backoff;
    this.#failures += 1;
    if (this.#failures >= attempts) {
      const tries = attempts === 1 ? '1 attempt' : `${attempts} attempts`;
      throw new ConnectionLost(`The client could not reach ${this.#url} and gave up after ${tries}. ${error.message}`);
    }
    await sleep(error.retryAfter + random() * Math.min(cap, base * 2 ** (this.#failures - 1)), signal);
  }
}

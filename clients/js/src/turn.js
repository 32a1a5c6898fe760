/** One turn of a conversation: a question, and the run that answers it. */

import { Fold } from './fold.js';

/** @import { StartOptions } from './client.js' */
/** @import { StreamEvent } from './events.js' */
/** @import { State } from './fold.js' */
/** @import { Heard, Run, Status } from './run.js' */

/**
 * A question is `queued` while a run before it goes on. One that was never asked is `cancelled`.
 * @typedef {{id: string, role: 'user', text: string, status: 'queued' | 'sent' | 'cancelled'}} Question
 */
/**
 * The state of a run. `text` and `thinking` are of the current step, `tools` the open calls by id. `error` says why the
 * run failed, or why it could not be followed.
 * @typedef {Pick<State, 'text' | 'thinking' | 'tools' | 'step' | 'progress'>
 *   & {runId: string | null, status: Status, error: Error | null}} RunState
 */
/** @typedef {{id: string, role: 'assistant'} & RunState} Answer */
/** `id` is a key for React. @typedef {Question | Answer} Message */

export class Turn {
  /** @type {Run | null} */ run = null;
  /** The last attempt that failed, until there is a connection again. @type {Heard['retry'] | null} */ retry = null;
  /** Those of the run, or null if they are not to be kept. @type {StreamEvent[] | null} */ events = [];
  #id;
  /** @type {'waiting' | 'dropped' | 'begun'} */ #stage = 'waiting';
  #fold = new Fold();
  /** @type {Error | null} */ #error = null;
  /** @type {Question | null} */ #asked = null;
  /** @type {readonly Message[] | null} */ #messages = null;

  /**
   * `question` is null until it is known, of a run that somebody else has started.
   * @param {number} id @param {string | null} question @param {StartOptions} options
   */
  constructor(id, question, options) {
    this.#id = id;
    this.question = question;
    this.options = options;
  }

  get waiting() {
    return this.#stage === 'waiting';
  }

  get begun() {
    return this.#stage === 'begun';
  }

  /** True while its run goes on, as far as one knows. */
  get active() {
    return this.run?.active ?? false;
  }

  /** True if it ends the run that goes on in place of waiting for it. */
  get interrupts() {
    return this.options.interrupt ?? true;
  }

  /** @returns {RunState} */
  get state() {
    const { text, thinking, tools, step, progress, result } = this.#fold.state;
    return {
      text: text || (typeof result === 'string' ? result : ''), thinking, tools, step, progress,
      runId: this.run?.runId ?? null, status: this.run?.status ?? 'failed', error: this.#error,
    };
  }

  /** The question, if it is known, and the answer, if it has begun. Those that have not changed are the same objects. */
  get messages() {
    return (this.#messages ??= this.#describe());
  }

  /** Doesn't ask the question, if it waits. */
  drop() {
    if (!this.waiting) return;
    this.#stage = 'dropped';
    this.#messages = null;
  }

  /** Cancels the run, if it goes on. */
  async cancel() {
    try {
      if (this.active) await this.run?.cancel();
    } catch (error) {
      if (this.active) throw error; // else it has ended all the same
    }
  }

  /**
   * Follows the run that `start` returns. `changed` is called at each change.
   * Returns what resolves once the run has an id or never will, and once it has ended; neither rejects.
   * @param {() => Run} start @param {() => void} changed
   */
  begin(start, changed) {
    const touch = () => {
      this.#messages = null;
      changed();
    };
    /** @param {unknown} error */
    const fail = (error) => {
      if (this.run?.status !== 'closed') this.#error = error instanceof Error ? error : new Error(String(error));
      touch();
    };
    this.#stage = 'begun';
    touch();
    try {
      this.run = start();
    } catch (error) {
      fail(error);
      return { started: Promise.resolve(), ended: Promise.resolve() };
    }
    this.run.on('snapshot', ({ state }) => {
      this.#fold = new Fold(state);
      touch();
    });
    this.run.on('event', (event) => {
      if (event.type === 'AGENT_START' && typeof event.data.input === 'string') this.question ??= event.data.input;
      this.#fold.apply(event);
      this.events?.push(event);
      touch();
    });
    this.run.on('status', (status) => {
      if (status !== 'reconnecting') this.retry = null;
      touch();
    });
    this.run.on('retry', (retry) => {
      this.retry = retry;
      touch();
    });
    return { started: this.run.started.then(touch, () => {}), ended: this.run.result.then(() => {}, fail) };
  }

  /** @returns {readonly Message[]} */
  #describe() {
    const asked = this.#ask();
    if (!this.begun) return asked;
    return [...asked, { id: `${this.#id}-answer`, role: 'assistant', ...this.state }];
  }

  /** @returns {Question[]} */
  #ask() {
    const text = this.question;
    if (text === null) return [];
    const status = this.begun ? 'sent' : this.waiting ? 'queued' : 'cancelled';
    if (this.#asked?.status !== status) this.#asked = { id: `${this.#id}-question`, role: 'user', text, status };
    return [this.#asked];
  }
}

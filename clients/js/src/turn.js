/** One turn of a conversation: a message, what was said while its run went on, and the run that answers. */

import { isTerminal } from './events.js';
import { Fold } from './fold.js';

/** @import { StartOptions } from './client.js' */
/** @import { StreamEvent } from './events.js' */
/** @import { State } from './fold.js' */
/** @import { Question } from './question.js' */
/** @import { Heard, Run, Status } from './run.js' */

/**
 * A message that starts a run is `queued` while a run before it goes on, and `cancelled` if it never did. One that was said
 * to a run that went on is `unread` if its agent has ended without reading it.
 * @typedef {{id: string, role: 'user', text: string, status: 'queued' | 'sent' | 'cancelled' | 'unread'}} UserMessage
 */
/**
 * The state of a run. `text` and `thinking` are of the current step, `tools` the open calls by id, `questions` those that
 * the run asks; it is `waiting` if nothing comes of it before an answer. `error` says why the run failed, or why it could
 * not be followed.
 * @typedef {Pick<State, 'text' | 'thinking' | 'tools' | 'step' | 'progress' | 'waiting'>
 *   & {questions: readonly Question[], runId: string | null, status: Status, error: Error | null}} RunState
 */
/** @typedef {{id: string, role: 'assistant'} & RunState} Answer */
/** `id` is a key for React. @typedef {UserMessage | Answer} Message */

/** A result as a text: JSON if it is none. @param {unknown} result */
const asText = (result) => (typeof result === 'string' ? result : result == null ? '' : JSON.stringify(result));

/** @type {readonly Question[]} */
const NONE = Object.freeze([]);

export class Turn {
  /** @type {Run | null} */ run = null;
  /** The last attempt that failed, until there is a connection again. @type {Heard['retry'] | null} */ retry = null;
  /** Those of the run, or null if they are not to be kept. @type {StreamEvent[] | null} */ events = [];
  #id;
  /** @type {'queued' | 'dropped' | 'begun'} */ #stage = 'queued';
  #fold = new Fold();
  /** @type {Error | null} */ #error = null;
  /** @type {UserMessage | null} */ #sent = null;
  /** The user's messages while the run went on. @type {readonly UserMessage[]} */ #said = [];
  /** @type {readonly Message[] | null} */ #messages = null;

  /**
   * `message` is null until it is known, of a run that somebody else has started.
   * @param {number} id @param {string | null} message @param {StartOptions} options
   */
  constructor(id, message, options) {
    this.#id = id;
    this.message = message;
    this.options = options;
  }

  get queued() {
    return this.#stage === 'queued';
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
    const { text, thinking, tools, step, progress, waiting, result } = this.#fold.state;
    return {
      text: text || asText(result), thinking, tools, step, progress,
      waiting, questions: this.run?.questions ?? NONE, runId: this.run?.runId ?? null,
      status: this.run?.status ?? 'failed', error: this.#error,
    };
  }

  /** The user's, as far as they are known, and the answer, if it has begun. One that has not changed is the same object. */
  get messages() {
    return (this.#messages ??= this.#describe());
  }

  /** Starts no run, if it has not yet. */
  drop() {
    if (!this.queued) return;
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
      if (event.type === 'AGENT_START' && typeof event.data.input === 'string') this.message ??= event.data.input;
      this.#hear(event);
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

  /** Notes what was said to the run, and in the end what of it was not read. @param {StreamEvent} event */
  #hear(event) {
    const idOf = (/** @type {string} */ messageId) => `${this.#id}-said-${messageId}`;
    if (event.type === 'USER_MESSAGE') {
      const { content: text, message_id: messageId } = event.data;
      this.#said = [...this.#said, { id: idOf(messageId), role: 'user', text, status: 'sent' }];
    } else if (isTerminal(event) && event.metadata.unread) {
      const unread = event.metadata.unread.map(idOf);
      this.#said = this.#said.map((each) => (unread.includes(each.id) ? { ...each, status: 'unread' } : each));
    }
  }

  /** @returns {readonly Message[]} */
  #describe() {
    const sent = this.#send();
    if (!this.begun) return sent;
    return [...sent, ...this.#said, { id: `${this.#id}-answer`, role: 'assistant', ...this.state }];
  }

  /** @returns {UserMessage[]} */
  #send() {
    const text = this.message;
    if (text === null) return [];
    const status = this.begun ? 'sent' : this.queued ? 'queued' : 'cancelled';
    if (this.#sent?.status !== status) this.#sent = { id: `${this.#id}-message`, role: 'user', text, status };
    return [this.#sent];
  }
}

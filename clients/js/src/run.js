/// <reference lib="esnext.disposable" preserve="true" />

/**
 * One run, followed: reconnect at the cursor whatever breaks, and verify that every event comes once and in order.
 *
 * The same for all transports. What a transport adds is how to connect at a cursor (`Connect`).
 */

import { NEVER } from './api.js';
import { Backlog } from './backlog.js';
import { checkListener } from './checks.js';
import { Broken, ProtocolError, RunClosed, RunFailed, RunNotFound, Unauthenticated } from './errors.js';
import { checkEvent, isTerminal } from './events.js';
import { Position } from './position.js';
import { Questions } from './question.js';

/** @import { Api } from './api.js' */
/** @import { AttachOptions } from './client.js' */
/** @import { Commands, Acknowledgement, SayOptions } from './commands.js' */
/** @import { CustomEvent, FinishStatus, StreamEvent, TerminalEvent } from './events.js' */
/** @import { State } from './fold.js' */
/** @import { Connect, Connection } from './position.js' */
/** @import { Question } from './question.js' */
/** @import { Retry } from './retry.js' */

/** @typedef {'connecting' | 'open' | 'reconnecting' | FinishStatus | 'error' | 'failed' | 'closed'} Status */
/** @typedef {{seq: number, state: State}} Snapshot */
/**
 * @template {object} [Custom=object]
 * @typedef {{[E in StreamEvent<Custom> as E['type']]: E} & {event: StreamEvent<Custom>, status: Status,
 *   snapshot: Snapshot, retry: Retry, input: Question}} Heard
 */
/** @typedef {Pick<AttachOptions, 'signal' | 'cancelOnAbort' | 'snapshot'>} RunOptions */
/** The parts that all runs of a client share. @typedef {{api: Api, runs: Set<Run<any>>, commands: Commands}} Shared */

/** The event types that tell which questions are open. */
const NEEDED = ['INPUT_REQUESTED', 'INPUT_ANSWERED'];

const gone = () => new RunNotFound({
  code: 'run_not_found',
  message: 'The server no longer has the run, for example because it was restarted with its log in memory.',
}, null);

/**
 * An async iterable of the run's events; leaving the loop early closes it. Made by `Client`, whose `Custom` is its own.
 * @template {object} [Custom=object]
 */
export class Run {
  /**
   * `connecting`, `open`, `reconnecting`; then how the run ended (`completed`, `incomplete`, `cancelled`, `max_steps`,
   * `error`), or why it is followed no longer: `failed`, with `error`, or `closed`.
   * @type {Status}
   */
  status = 'connecting';
  /** Why it `failed`. @type {unknown} */
  error = null;
  /** What the events before the first one came to, if `attach` was asked for it. @type {Snapshot | null} */
  snapshot = null;
  /** The last event, once it was received. @type {TerminalEvent | null} */
  terminal = null;

  #shared;
  #api;
  #connect;
  #at;
  #backlog;
  /** @type {Connection | null} */ #connection = null;
  #attempts;
  #left = new AbortController();
  /** @type {(answer: any) => void} */ #resolve = () => {};
  /** @type {(error: unknown) => void} */ #reject = () => {};
  /** @type {Promise<any>} */ #result;
  #withdraw;
  #signal;
  #connectedAt = 0;
  #seen = false;
  #wantsSnapshot;
  #questions;

  /** @param {Shared} shared @param {Connect} connect @param {Position} at @param {RunOptions} options */
  constructor(shared, connect, at, { signal, cancelOnAbort = false, snapshot = false }) {
    this.#shared = shared;
    this.#api = shared.api;
    this.#connect = connect;
    this.#at = at;
    this.#attempts = this.#api.attempts();
    this.#wantsSnapshot = snapshot;
    this.#signal = signal;
    this.#questions = new Questions((...answer) => this.answer(...answer));
    this.#backlog = new Backlog(at.after, (after) => this.#again(after));
    this.#result = new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
    this.#result.catch(() => {}); // whoever wants to know asks for `result`
    /** Resolves with the run's id as soon as it is known; rejects if it never will be. @type {Promise<string>} */
    this.started = Promise.race([at.named, this.#result.then(() => at.named)]);
    this.started.catch(() => {});
    const abort = () => {
      if (this.terminal) return;
      if (cancelOnAbort) this.#cancelFromAfar().catch(() => {}); // nobody is left to be told
      this.#leave('closed', signal?.reason);
    };
    this.#withdraw = () => {
      signal?.removeEventListener('abort', abort);
      shared.runs.delete(this);
    };
    signal?.addEventListener('abort', abort);
    shared.runs.add(this);
    this.#follow().catch((error) => this.#leave('failed', error));
  }

  /** The run's id, once the server has named it. */
  get runId() {
    return this.#at.runId;
  }

  /** The number of the last event handed out; `attach(run.runId, {after: run.cursor})` goes on from here. */
  get cursor() {
    return this.#backlog.cursor;
  }

  /** The questions that are open, as far as one knows, the oldest first. The same list until one is opened or closed. */
  get questions() {
    return this.#questions.open;
  }

  /** Whether more is to come. */
  get active() {
    return !this.#left.signal.aborted;
  }

  /**
   * The answer; if the run was cancelled, as far as it came. Rejects with `RunFailed` if it ended with an ERROR
   * event, with `RunClosed` or the signal's reason if it was left, and with what made following it fail. It needs
   * nobody who reads the events, which can still be read afterwards.
   */
  get result() {
    this.#backlog.await();
    return this.#result;
  }

  /** The same as `result`. @returns {Promise<any>} */
  wait() {
    return this.result;
  }

  /**
   * Calls `listener` with each event of a type, with every `event`, each new `status`, the `snapshot`, or why there is
   * to be a `retry`; of `input` with each question that is open, or is opened. Returns what takes it off again. Events are
   * kept until a loop or a listener wants some: it hears these first. What a listener throws is reported as an uncaught
   * error, and harms nobody else.
   * @template {keyof Heard<Custom> | (string & {})} T
   * @param {T} type
   * @param {(value: T extends keyof Heard<Custom> ? Heard<Custom>[T] : CustomEvent) => void} listener
   * @returns {() => void}
   */
  on(type, listener) {
    checkListener(type, listener);
    const { types } = this.#at;
    if (type === 'input' && types && !NEEDED.every((each) => types.includes(each))) {
      throw new TypeError(`\`types\` must have ${NEEDED.join(' and ')} if there is a listener for \`input\`.`);
    }
    return this.#backlog.on(type, listener, type === 'input' ? this.#questions.told : []);
  }

  /** Cancels the run: `accepted` or `already_finished`. Its terminal event is still to come. @returns {Promise<string>} */
  async cancel() {
    return this.#shared.commands.cancel(await this.started);
  }

  /**
   * Answers a question of the run. Rejects with an `ApiError`, whose `field` is its path, if the answer does not fit.
   * @param {string} inputId @param {unknown} value @param {SayOptions} [options] @returns {Promise<Acknowledgement>}
   */
  async answer(inputId, value, options) {
    return this.#shared.commands.answer(await this.started, inputId, value, options);
  }

  /**
   * Says something to the run while it goes on.
   * @param {string} content @param {SayOptions} [options] @returns {Promise<Acknowledgement>}
   */
  async send(content, options) {
    return this.#shared.commands.send(await this.started, content, options);
  }

  /**
   * Follows it no longer; the server does what the run's `onDisconnect` says. Whoever reads it gets a `RunClosed`,
   * unless its end was received before: then all that was received is still handed out.
   */
  close() {
    if (!this.terminal) this.#leave('closed', new RunClosed('The run was closed before its end was received.'));
    this.#backlog.close();
  }

  /** For `await using`. */
  async [Symbol.asyncDispose]() {
    this.close();
  }

  /** For one loop at a time. A read that is called while another one waits is that one. @returns {AsyncIterator<StreamEvent<Custom>, undefined>} */
  [Symbol.asyncIterator]() {
    return /** @type {AsyncIterator<StreamEvent<Custom>, undefined>} */ (this.#backlog.read(() => this.close()));
  }

  /** Follows it once more, for those who want what was not kept. @param {number} after */
  #again(after) {
    const { start, runId, types } = this.#at;
    const at = new Position({ start, runId: String(runId), after, types });
    const run = new Run(this.#shared, this.#connect, at, { signal: this.#signal });
    run.on('retry', (retry) => this.#backlog.tell('retry', retry));
    run.on('status', (status) => {
      if (status !== 'failed' || this.active) return;
      this.error = run.error;
      this.#become('failed');
    });
    return run;
  }

  async #follow() {
    let renewed = false;
    while (this.active) {
      try {
        if (!this.#connection) {
          await this.#open();
          renewed = false;
        } else {
          this.#take(await this.#connection.receive());
        }
        if (this.#connection?.idle || this.#backlog.full) this.#ask();
        if (this.#backlog.full) await this.#backlog.room();
      } catch (error) {
        if (this.#connection) this.#attempts.lasted(performance.now() - this.#connectedAt);
        this.#drop();
        if (error instanceof RunNotFound && (this.#connectedAt || this.#at.start['message'] !== undefined)) throw gone();
        const renews = error instanceof Unauthenticated && this.#api.renewable && !renewed;
        if (!this.active || !(error instanceof Broken || renews)) throw error;
        if (this.status === 'open') this.#become('reconnecting');
        if (renews) {
          renewed = true;
          continue;
        }
        renewed = false;
        const tell = (/** @type {Retry} */ retry) => this.#backlog.tell('retry', retry);
        await this.#attempts.failed(/** @type {Broken} */ (error), this.#left.signal, tell);
      }
    }
  }

  async #open() {
    const { signal } = this.#left;
    if (this.#wantsSnapshot) {
      const { seq, state } = await this.#api.call('GET', `/runs/${this.runId}/snapshot`, signal);
      this.#wantsSnapshot = false;
      this.#at.after = seq;
      this.#backlog.begin(seq);
      this.snapshot = { seq, state };
      this.#questions.begin(state.questions ?? []);
      this.#backlog.tell('snapshot', this.snapshot);
    }
    this.#connection = await this.#connect(this.#at, signal);
    this.#connectedAt = performance.now();
    this.#attempts.worked();
    if (!this.active) {
      this.#drop();
    } else if (this.#connection) {
      this.#become('open');
    } else {
      if (this.#seen) throw new ProtocolError('The run has ended, but its terminal event did not come. Read the run again from 0.');
      const run = await this.#api.call('GET', `/runs/${this.runId}`, signal);
      this.#questions.begin([]);
      this.#end(run['status'], run);
    }
  }

  /** The event, if it is the one that is due. @param {Record<string, any>} value */
  #take(value) {
    const { event, runId, number } = checkEvent(value);
    const due = this.#at.after + 1;
    if (runId !== this.runId) throw new ProtocolError('The server sent an event of another run.');
    if (number < due || (number > due && this.#at.types === null)) {
      throw new ProtocolError(`The server sent event ${number}, but event ${due} was due.`);
    }
    if (isTerminal(event) && event.metadata.events !== number) {
      throw new ProtocolError(`The last event is number ${number}, but names ${event.metadata.events}.`);
    }
    this.#at.after = number;
    this.#seen = true;
    this.#attempts.succeeded();
    if (isTerminal(event)) this.terminal = event;
    this.#questions.apply(event);
    this.#backlog.put(event, number);
    if (event.type === 'ERROR') this.#end('error', event.data);
    if (event.type === 'AGENT_FINISH') this.#end(event.data.status, event.data);
  }

  /** Tells of the questions that nobody was told of. */
  #ask() {
    for (const question of this.#questions.tell()) this.#backlog.tell('input', question);
  }

  /** The run has ended. @param {Status} status @param {Record<string, any>} data */
  #end(status, data) {
    if (status !== 'error') this.#resolve(data.result ?? null);
    this.#leave(status, status === 'error' ? new RunFailed(data.error_type, data.message) : undefined);
  }

  /** @param {Status} status @param {unknown} [error] */
  #leave(status, error) {
    if (!this.active) return;
    this.#left.abort(error);
    this.#withdraw();
    this.#drop();
    this.#reject(error);
    if (status === 'closed') this.#backlog.fail(error);
    else this.#backlog.end(status === 'failed' ? error : undefined);
    if (status === 'failed') this.error = error;
    this.#become(status);
  }

  #drop() {
    this.#connection?.close();
    this.#connection = null;
  }

  /** @param {Status} status */
  #become(status) {
    this.status = status;
    this.#backlog.tell('status', status);
  }

  /** Whether the run has been started or not, it is known by its idempotency key. */
  async #cancelFromAfar() {
    const known = this.runId ?? (await this.#api.ask('POST', '/runs', NEVER, this.#at.start)).run_id;
    await this.#shared.commands.cancel(known);
  }
}

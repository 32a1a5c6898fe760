/**
 * One run, followed: reconnect at the cursor whatever breaks, and verify that every event comes once and in order.
 *
 * The same for all transports. What a transport adds is how to connect at a cursor (`Connect`).
 */

import { Broken, ProtocolError, RunClosed, RunFailed, Unauthenticated } from './errors.js';
import { checkEvent, isTerminal } from './events.js';
import { Listeners } from './listeners.js';
import { Mailbox } from './mailbox.js';

/** @import { Api } from './api.js' */
/** @import { CustomEvent, FinishStatus, StreamEvent, TerminalEvent } from './events.js' */
/** @import { State } from './fold.js' */
/** @import { Connect, Connection, Position } from './position.js' */

/** @typedef {'connecting' | 'open' | 'reconnecting' | FinishStatus | 'error' | 'failed' | 'closed'} Status */
/** @typedef {{seq: number, state: State}} Snapshot */
/** Why it is tried again: for programs, and in the server's own words if it said any. @typedef {{reason: string, said: string | null}} Retry */
/**
 * @template {object} [Custom=object]
 * @typedef {{[E in StreamEvent<Custom> as E['type']]: E} & {event: StreamEvent<Custom>, status: Status,
 *   snapshot: Snapshot, retry: Retry}} Heard
 */
/** @typedef {{signal?: AbortSignal | undefined, cancelOnAbort?: boolean, snapshot?: boolean}} RunOptions */

/** How many events wait for a slow reader before no more are taken from the connection. */
const MAX_WAITING = 256;
const NEVER = new AbortController().signal;

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
  /** The last event, once it was seen. @type {TerminalEvent | null} */
  terminal = null;

  #api;
  #connect;
  #at;
  /** @type {Connection | null} */ #connection = null;
  #attempts;
  #left = new AbortController();
  /** @type {Mailbox<{event: StreamEvent, number: number}> | null} */ #mail = new Mailbox();
  #iterated = false;
  #listeners = new Listeners();
  /** @type {(answer: string) => void} */ #resolve = () => {};
  /** @type {(error: unknown) => void} */ #reject = () => {};
  /** @type {Promise<string>} */ #result;
  #withdraw;
  #connectedAt = 0;
  #cursor;
  #seen = false;
  #wantsSnapshot;

  /**
   * @param {Api} api @param {Connect} connect @param {Position} at @param {RunOptions} options
   * @param {() => void} onEnd  called when it is followed no longer
   */
  constructor(api, connect, at, { signal, cancelOnAbort = false, snapshot = false }, onEnd) {
    this.#api = api;
    this.#connect = connect;
    this.#at = at;
    this.#attempts = api.attempts();
    this.#wantsSnapshot = snapshot;
    this.#cursor = at.after;
    this.#result = new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
    this.#result.catch(() => {}); // whoever wants to know asks for `result`
    /** Resolves with the run's id as soon as it is known; rejects if it never will be. @type {Promise<string>} */
    this.started = Promise.race([at.named, this.#result.then(() => at.named)]);
    this.started.catch(() => {});
    const abort = () => {
      if (cancelOnAbort) this.#cancelFromAfar().catch(() => {}); // nobody is left to be told
      this.#leave('closed', signal?.reason);
    };
    this.#withdraw = () => {
      signal?.removeEventListener('abort', abort);
      onEnd();
    };
    signal?.addEventListener('abort', abort);
    this.#follow().catch((error) => this.#leave('failed', error));
  }

  /** The run's id, once the server has named it. */
  get runId() {
    return this.#at.runId;
  }

  /** The number of the last event handed out; `attach(run.runId, {after: run.cursor})` goes on from here. */
  get cursor() {
    return this.#cursor;
  }

  /** Whether more is to come. */
  get active() {
    return !this.#left.signal.aborted;
  }

  /**
   * The answer; if the run was cancelled, as far as it came. Rejects with `RunFailed` if it ended with an ERROR
   * event, with `RunClosed` or the signal's reason if it was left, and with what made following it fail.
   */
  get result() {
    this.#flow();
    return this.#result;
  }

  /**
   * Calls `listener` with each event of a type, with every `event`, each new `status`, the `snapshot`, or why there is
   * to be a `retry`. Returns what takes it off again.
   * @template {keyof Heard<Custom> | (string & {})} T
   * @param {T} type
   * @param {(value: T extends keyof Heard<Custom> ? Heard<Custom>[T] : CustomEvent) => void} listener
   * @returns {() => void}
   */
  on(type, listener) {
    this.#flow();
    return this.#listeners.add(type, listener);
  }

  /** Cancels the run: `accepted` or `already_finished`. Its terminal event is still to come. @returns {Promise<string>} */
  async cancel() {
    const runId = await this.started;
    try {
      if (this.#connection?.cancel) return await this.#connection.cancel();
    } catch (error) {
      if (!(error instanceof Broken)) throw error;
    }
    return this.#cancelByPost(runId);
  }

  /** Follows it no longer; the server does what the run's `onDisconnect` says. */
  close() {
    this.#leave('closed', new RunClosed('The run was left before it ended.'));
  }

  /** @returns {AsyncIterator<StreamEvent<Custom>, undefined>} */
  [Symbol.asyncIterator]() {
    this.#iterated = true;
    const mail = (this.#mail ??= new Mailbox());
    if (!this.active) mail.end();
    return {
      next: async () => {
        const taken = await mail.take();
        if (!taken) return { done: true, value: undefined };
        this.#cursor = taken.number;
        return { done: false, value: taken.event };
      },
      return: async () => {
        this.close();
        return { done: true, value: undefined };
      },
    };
  }

  /** Somebody listens: events need not wait for a loop that may never come. */
  #flow() {
    if (this.#iterated) return;
    this.#mail?.end();
    this.#mail = null;
    this.#cursor = this.#at.after;
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
          if (this.#mail && this.#mail.size >= MAX_WAITING) await this.#mail.room(MAX_WAITING);
        }
      } catch (error) {
        if (this.#connection) this.#attempts.lasted(performance.now() - this.#connectedAt);
        this.#drop();
        const renews = error instanceof Unauthenticated && this.#api.renewable && !renewed;
        if (!this.active || !(error instanceof Broken || renews)) throw error;
        if (this.status === 'open') this.#become('reconnecting');
        if (renews) {
          renewed = true;
          continue;
        }
        const broken = /** @type {Broken} */ (error);
        this.#listeners.tell('retry', { reason: broken.message, said: broken.said });
        await this.#attempts.failed(broken, this.#left.signal);
      }
    }
  }

  async #open() {
    const { signal } = this.#left;
    if (this.#wantsSnapshot) {
      const { seq, state } = await this.#api.call('GET', `/runs/${this.runId}/snapshot`, signal);
      this.#wantsSnapshot = false;
      this.#at.after = this.#cursor = seq;
      this.snapshot = { seq, state };
      this.#listeners.tell('snapshot', this.snapshot);
    }
    this.#connection = await this.#connect(this.#at, signal);
    this.#connectedAt = performance.now();
    this.#attempts.worked();
    if (!this.active) {
      this.#drop();
    } else if (this.#connection) {
      this.#become('open');
    } else {
      if (this.#seen) throw new ProtocolError('The run has ended, but its terminal event did not come.');
      const run = await this.#api.call('GET', `/runs/${this.runId}`, signal);
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
    if (this.#mail) this.#mail.put({ event, number });
    else this.#cursor = number;
    if (isTerminal(event)) this.terminal = event;
    this.#listeners.tell(event.type, event);
    this.#listeners.tell('event', event);
    if (event.type === 'ERROR') this.#end('error', event.data);
    if (event.type === 'AGENT_FINISH') this.#end(event.data.status, event.data);
  }

  /** The run has ended. @param {Status} status @param {Record<string, any>} data */
  #end(status, data) {
    if (status !== 'error') this.#resolve(data.result);
    this.#leave(status, status === 'error' ? new RunFailed(data.error_type, data.message) : undefined);
  }

  /** @param {Status} status @param {unknown} [error] */
  #leave(status, error) {
    if (!this.active) return;
    this.#left.abort(error);
    this.#withdraw();
    this.#drop();
    this.#reject(error);
    const said = error === undefined || error instanceof RunClosed || error instanceof RunFailed;
    this.#mail?.end(said ? undefined : error);
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
    this.#listeners.tell('status', status);
  }

  /** Whether the run has been started or not, it is known by its idempotency key. */
  async #cancelFromAfar() {
    const known = this.runId ?? (await this.#api.ask('POST', '/runs', NEVER, this.#at.start)).run_id;
    await this.#cancelByPost(known);
  }

  /** @param {string} runId @returns {Promise<string>} */
  async #cancelByPost(runId) {
    return (await this.#api.ask('POST', `/runs/${runId}/cancel`, NEVER)).status;
  }
}

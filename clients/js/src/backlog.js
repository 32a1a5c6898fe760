/**
 * The hand-out of a run's events. They are kept until a loop or a listener asks for some; then all are handed out in
 * order, each once. Listeners hear at once, a loop when it asks.
 */

import { RunClosed } from './errors.js';
import { isEventType } from './events.js';
import { call, Listeners } from './listeners.js';
import { Mailbox } from './mailbox.js';

/** @import { StreamEvent } from './events.js' */
/** @import { Listener } from './listeners.js' */
/** @typedef {{event: StreamEvent, number: number}} Numbered */
/**
 * A run that reads again what was not kept.
 * @typedef {AsyncIterable<StreamEvent, undefined> & {cursor: number, close: () => void,
 *   on: (type: string, listener: (value: any) => void) => unknown}} Rest
 */

/** The number of events that wait for a slow reader before no more are taken from the connection. */
const MAX_WAITING = 256;
/** The ms for which a loop may be busy with one event before an awaited result no longer waits for it. */
const BUSY_MS = 1_000;

/** True if a promise is settled within so many ms. @param {Promise<unknown>} promise @param {number} ms */
function within(promise, ms) {
  return /** @type {Promise<boolean>} */ (
    new Promise((resolve) => {
      const timer = setTimeout(resolve, ms, false);
      void promise.then(() => {
        clearTimeout(timer);
        resolve(true);
      });
    })
  );
}

export class Backlog {
  /** @type {Mailbox<Numbered>} */ #mail = new Mailbox();
  #listeners = new Listeners();
  /** Listeners that are first to hear what was kept, and that. @type {{listeners: Listener[], events: Numbered[]} | null} */
  #late = null;
  /** True while events go into the mailbox. */
  #keeping = true;
  /** True while a loop takes them out. */
  #reading = false;
  /** True once somebody awaits the result. */
  #awaited = false;
  /** True once somebody listens for the status or for questions. */
  #watched = false;
  #over = false;
  /** Why nothing is handed out any more. @type {{error: unknown} | null} */ #closed = null;
  /** The last event before those that were not kept. @type {number | null} */ #keptTo = null;
  /** True if no loop was there for those. */
  #untold = false;
  /** @type {Rest | null} */ #rest = null;
  #readOn;
  #cursor;

  /**
   * @param {number} cursor
   * @param {(after: number) => Rest} readOn  begins to read from the server what comes after an event
   */
  constructor(cursor, readOn) {
    this.#cursor = cursor;
    this.#readOn = readOn;
  }

  /** The number of the last event that was handed out. */
  get cursor() {
    return this.#rest ? Math.max(this.#cursor, this.#rest.cursor) : this.#cursor;
  }

  /** Whatever comes is after this. @param {number} cursor */
  begin(cursor) {
    this.#cursor = cursor;
  }

  /** True if no more is to be put for now. */
  get full() {
    return this.#keeping && this.#mail.size >= MAX_WAITING;
  }

  /** @param {StreamEvent} event @param {number} number */
  put(event, number) {
    if (this.#keeping) this.#mail.put({ event, number });
    if (this.#untold) return;
    if (!this.#reading && !this.#keeping) this.#cursor = number;
    this.#late?.events.push({ event, number });
    this.#listeners.tell(event.type, event);
    this.#listeners.tell('event', event);
  }

  /** Resolves when more may be put. */
  async room() {
    while (this.full && !this.#over) {
      const room = this.#mail.room(MAX_WAITING);
      if (!this.#reading && (this.#awaited || this.#watched)) this.#keepNoMore();
      else if (!this.#awaited) await room;
      else if (!(await within(room, BUSY_MS))) this.#keepNoMore();
    }
  }

  /** Somebody awaits the result, and need not wait for a reader who may never come. */
  await() {
    this.#awaited = true;
    this.#mail.stir();
  }

  /** Nothing more comes: what is there is handed out, then the error if there is one. @param {unknown} [error] */
  end(error) {
    this.#over = true;
    if (error !== undefined) this.#keptTo = null;
    this.#mail.end(error);
  }

  /** Nothing more is handed out, but the error. @param {unknown} error */
  fail(error) {
    this.#over = true;
    this.#closed = { error };
    this.#mail.clear();
    this.#mail.end(error);
    this.#rest?.close();
  }

  /** Whoever had all handed out that was kept gets no more. */
  close() {
    if (this.#keptTo !== null) this.fail(new RunClosed('The run was closed before its events were read anew.'));
  }

  /**
   * Calls the listener with what is told or, of events, with all that were kept and that come. Returns what takes it off.
   * @param {string} type @param {(value: any) => void} listener
   * @param {readonly unknown[]} [before]  what it missed of what is told
   * @returns {() => void}
   */
  on(type, listener, before = []) {
    const added = { type, listener, off: false };
    if (type !== 'event' && !isEventType(type)) {
      this.#listeners.add(added);
      if (before.length > 0) queueMicrotask(() => before.forEach((value) => call(added, value)));
      if (type === 'status' || type === 'input') {
        this.#watched = true; // as more is to come
        this.#mail.stir();
      }
    } else {
      if (!this.#late) {
        const whole = this.#keptTo === null || this.#untold;
        this.#late = { listeners: [], events: whole ? this.#mail.items : [] };
        queueMicrotask(() => this.#catchUp());
      }
      this.#late.listeners.push(added);
    }
    return () => this.#listeners.remove(added);
  }

  /** @param {string} type @param {unknown} value */
  tell(type, value) {
    this.#listeners.tell(type, value);
  }

  /**
   * The one loop there is at a time.
   * @param {() => void} close  called when it is left
   * @returns {AsyncIterator<StreamEvent, undefined>}
   */
  read(close) {
    if (this.#reading) {
      throw new TypeError('The run is read by another loop already. Attach to it with `client.attach` for a second one.');
    }
    this.#reading = true;
    if (this.#keptTo === null) this.#keeping = true;
    /** @type {AsyncIterator<StreamEvent, undefined> | null} */
    let rest = null;
    /** @type {Promise<IteratorResult<StreamEvent, undefined>> | null} */
    let waiting = null;
    const next = async () => {
      try {
        if (this.#closed) throw this.#closed.error;
        if (this.#keptTo !== null && this.#mail.size === 0) {
          rest ??= this.#again(this.#keptTo)[Symbol.asyncIterator]();
          const result = await rest.next();
          if (result.done) this.#reading = false;
          return result;
        }
        const taken = await this.#mail.take();
        if (taken) {
          this.#cursor = taken.number;
          return { done: /** @type {const} */ (false), value: taken.event };
        }
        this.#reading = false;
        return { done: /** @type {const} */ (true), value: undefined };
      } catch (error) {
        this.#reading = false;
        throw error;
      } finally {
        waiting = null;
      }
    };
    return {
      next: () => (waiting ??= next()), // whoever gave up waiting loses nothing
      return: async () => {
        this.#reading = false;
        close();
        return { done: true, value: undefined };
      },
    };
  }

  /** Lets late listeners hear what was kept. They hear an event each before any hears the next. */
  #catchUp() {
    while (this.#late) {
      const { listeners, events } = this.#late;
      this.#late = null;
      for (const { event, number } of events) {
        if (this.#closed) break;
        if (!this.#reading) this.#cursor = number;
        for (const listener of listeners) {
          if (listener.type === 'event' || listener.type === event.type) call(listener, event);
        }
      }
      const rest = this.#untold && this.#keptTo !== null && !this.#closed ? this.#again(this.#keptTo) : null;
      for (const listener of listeners) {
        if (rest) rest.on(listener.type, (event) => call(listener, event));
        else this.#listeners.add(listener);
      }
    }
    if (this.#reading) return;
    this.#keeping = false;
    this.#mail.clear();
  }

  /** Hands on what comes without keeping it: it can be read again. */
  #keepNoMore() {
    const last = this.#mail.items.at(-1);
    this.#keeping = false;
    this.#keptTo = last?.number ?? this.#cursor;
    this.#untold = !this.#reading;
  }

  /** @param {number} after */
  #again(after) {
    return (this.#rest ??= this.#readOn(after));
  }
}

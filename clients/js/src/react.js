/**
 * `useRun`: one run at a time in a React component, rendered once per animation frame at most, however fast it comes.
 *
 * Safe in StrictMode, and closed on unmount. It renders nothing itself.
 */

'use client';

import { useEffect, useState, useSyncExternalStore } from 'react';

import { Fold } from './fold.js';

/** @import { AttachOptions, Client, StartOptions } from './client.js' */
/** @import { StreamEvent } from './events.js' */
/** @import { State } from './fold.js' */
/** @import { Run, Status } from './run.js' */

/**
 * `text` and `thinking` are of the current step, `tools` the open calls by id; `status` is the run's, or `idle`.
 * `error` is why it could not be followed, or an Error with the text of the run's own ERROR.
 * @typedef {Pick<State, 'text' | 'thinking' | 'tools' | 'step' | 'progress'>
 *   & {events: readonly StreamEvent[], status: Status | 'idle', error: Error | null}} RunView
 */

/** @param {() => void} draw */
const nextFrame = (draw) => (globalThis.requestAnimationFrame ?? ((later) => setTimeout(later, 16)))(draw);

/** A run as an external store of React's: an unchanging view until the next frame. */
class RunStore {
  /** @type {Run | null} */ #run = null;
  #fold = new Fold();
  /** @type {StreamEvent[]} */ #events = [];
  #scheduled = false;
  /** @type {Set<() => void>} */ #readers = new Set();
  /** @type {RunView} */ #view;

  /** @param {Client} client */
  constructor(client) {
    this.client = client;
    this.#view = this.#look();
  }

  /** @param {() => void} reader */
  subscribe = (reader) => {
    this.#readers.add(reader);
    return () => void this.#readers.delete(reader);
  };

  view = () => this.#view;

  /**
   * Leaves the run before, and starts another, which interrupts the one that its session has going on.
   * @param {string} message @param {StartOptions} [options]
   */
  send = (message, options) => this.#use(this.client.stream(message, { interrupt: true, ...options }));

  /** Leaves the run before, and follows this one. @param {string} runId @param {AttachOptions} [options] */
  attach = (runId, options) => this.#use(this.client.attach(runId, options));

  /** Cancels the run, if one goes on; its events tell how it ended. */
  cancel = async () => {
    if (this.#run?.active) await this.#run.cancel();
  };

  close = () => this.#run?.close();

  /** @param {Run} run */
  #use(run) {
    this.close();
    this.#run = run;
    this.#fold = new Fold();
    this.#events = [];
    run.on('snapshot', ({ state }) => {
      this.#fold = new Fold(state);
    });
    run.on('event', (event) => {
      if (run !== this.#run) return;
      this.#fold.apply(event);
      this.#events.push(event);
      this.#changed();
    });
    run.on('status', () => this.#changed());
    this.#changed();
    return run;
  }

  #changed() {
    if (this.#scheduled) return;
    this.#scheduled = true;
    nextFrame(() => {
      this.#scheduled = false;
      this.#view = this.#look();
      for (const reader of this.#readers) reader();
    });
  }

  /** @returns {RunView} */
  #look() {
    const { text, thinking, tools, step, progress, error } = this.#fold.state;
    const failed = /** @type {Error | null} */ (this.#run?.error ?? null);
    return {
      text, thinking, tools, step, progress,
      events: this.#events.slice(),
      status: this.#run?.status ?? 'idle',
      error: failed ?? (error === null ? null : new Error(error)),
    };
  }
}

/**
 * The view of the run that `send` started or `attach` found, and what one can do with it. All four functions stay the
 * same from render to render.
 * @param {Client} client  made once, outside of the component
 * @returns {RunView & Pick<RunStore, 'send' | 'attach' | 'cancel' | 'close'>}
 */
export function useRun(client) {
  const [store, setStore] = useState(() => new RunStore(client));
  if (store.client !== client) setStore(new RunStore(client));
  const view = useSyncExternalStore(store.subscribe, store.view, store.view);
  useEffect(() => store.close, [store]);
  const { send, attach, cancel, close } = store;
  return { ...view, send, attach, cancel, close };
}

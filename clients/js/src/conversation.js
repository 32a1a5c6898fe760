/**
 * A conversation: messages, and the runs that answer them one after another. It is an external store of React's, which
 * outlives its components: one that comes back finds the run where it is.
 */

import { randomKey } from './commands.js';
import { Turn } from './turn.js';

/** @import { AttachOptions, Client, StartOptions } from './client.js' */
/** @import { Acknowledgement, SayOptions } from './commands.js' */
/** @import { StreamEvent } from './events.js' */
/** @import { Heard, Run, Status } from './run.js' */
/** @import { Message, RunState } from './turn.js' */

/**
 * `messages` are those of all turns, the other fields those of the last run. `status` is `idle` before the first one.
 * `active` says whether a run goes on or a message waits; `retry`, while the connection is away, why.
 * @template {object} [Custom=object]
 * @typedef {Omit<RunState, 'status'> & {messages: readonly Message[], events: readonly StreamEvent<Custom>[],
 *   status: Status | 'idle', active: boolean, retry: Heard['retry'] | null}} RunView
 */

/** The ms for which a run is followed without a component: as long as it then goes on without a follower by default. */
const GRACE_MS = 300_000;
/** The number of conversations without a component that are kept. */
const MOST = 32;
/** The number of turns of a conversation that are kept. */
const MAX_TURNS = 1000;
const FRAME_MS = 16;

/** Before anything was sent, and on a server. @type {RunView} */
export const IDLE = Object.freeze({
  text: '', thinking: '', tools: {}, step: null, progress: null, waiting: false, questions: [], runId: null,
  error: null, messages: [], events: [], status: 'idle', active: false, retry: null,
});

/**
 * Calls `draw` before the next frame; a hidden page has none, nor has Node. Returns a function that calls it off.
 * @param {() => void} draw
 */
function nextFrame(draw) {
  if (globalThis.document?.hidden === false) {
    const frame = requestAnimationFrame(draw);
    return () => cancelAnimationFrame(frame);
  }
  const timer = setTimeout(draw, FRAME_MS);
  return () => clearTimeout(timer);
}

export class Conversation {
  #grace;
  #onLeave;
  /** @type {readonly Turn[]} */ #turns = [];
  /** Those whose run goes on, also after another took their place. @type {Set<Turn>} */ #going = new Set();
  #count = 0;
  /** @type {Set<() => void>} */ #readers = new Set();
  #view = IDLE;
  #stale = false;
  /** Calls off the next drawing. @type {(() => void) | null} */ #callOff = null;
  /** @type {ReturnType<typeof setTimeout> | undefined} */ #timer;
  #deserted = false;
  /** The messages of this tick. @type {string[]} */ #sent = [];
  /** Those of them whose component has gone since. @type {string[]} */ #echoes = [];

  /**
   * @param {Client} client @param {number} [grace]  how long it goes on without a reader, in ms
   * @param {() => void} [onLeave]  called when it doesn't any longer
   */
  constructor(client, grace = 0, onLeave = () => {}) {
    this.client = client;
    this.#grace = grace;
    this.#onLeave = onLeave;
  }

  /** True while a component shows it. */
  get read() {
    return this.#readers.size > 0;
  }

  /** True if components have shown it, and none does now. */
  get deserted() {
    return this.#deserted;
  }

  /** @param {() => void} reader */
  subscribe = (reader) => {
    if (!this.read) {
      clearTimeout(this.#timer);
      this.view(); // it may have changed since it was rendered
      globalThis.document?.addEventListener('visibilitychange', this.#catchUp);
    }
    this.#readers.add(reader);
    this.#deserted = false;
    return () => {
      this.#readers.delete(reader);
      this.#echoes = this.#sent.splice(0);
      if (this.read) return;
      globalThis.document?.removeEventListener('visibilitychange', this.#catchUp);
      this.#callOff?.();
      this.#callOff = null;
      this.#deserted = true;
      this.expire();
    };
  };

  /** The same until the next drawing. */
  view = () => {
    if (!this.read) this.#look();
    return this.#view;
  };

  /**
   * Starts a run. It interrupts the one that goes on, and drops what waits; with `interrupt: false` it waits its turn.
   * @param {string} message @param {StartOptions} [options]
   */
  send = (message, options = {}) => {
    if (typeof message !== 'string') {
      throw new TypeError("`send` needs the message as a text. For a button, write onClick={() => send('…')}.");
    }
    if (this.#echoed(message)) return;
    const turn = this.#turn(message, options);
    if (turn.interrupts) this.#interrupt();
    this.#add(turn);
  };

  /**
   * Says something to the run that goes on. If none does, it is `already_finished`, as if it had ended just now.
   * @param {string} content @param {SayOptions} [options] @returns {Promise<Acknowledgement>}
   */
  say = async (content, options = {}) => {
    const run = this.#turns.findLast(({ begun }) => begun)?.run;
    return run?.active ? run.send(content, options) : { messageId: options.messageId ?? randomKey(), status: 'already_finished' };
  };

  /** Sends the last message again, in place of its answer. @param {StartOptions} [options] */
  regenerate = (options = {}) => {
    const last = this.#turns.findLast(({ message }) => message !== null);
    if (!last) return;
    const { idempotencyKey: _, ...same } = last.options;
    this.#interrupt();
    this.#turns = this.#turns.filter((turn) => turn !== last);
    this.#add(this.#turn(last.message, { ...options, ...same, interrupt: true }));
  };

  /** Follows this run in place of what goes on. @param {string} runId @param {AttachOptions} [options] */
  attach = (runId, options) => {
    const known = this.#turns.find(({ run }) => run && run.runId === runId);
    if (known?.active) return;
    this.close();
    this.#turns = this.#turns.filter((turn) => turn !== known);
    const turn = this.#turn(known?.message ?? null, known?.options ?? {});
    this.#begin(turn, () => this.client.attach(runId, options));
    this.#add(turn);
  };

  /** Cancels the run that goes on, and drops what waits. Resolves once the server has been told. */
  cancel = async () => {
    this.#drop();
    await Promise.all(Array.from(this.#going, (turn) => turn.cancel()));
  };

  /** Follows nothing any longer, and drops what waits. The server does what the run's `onDisconnect` says. */
  close = () => {
    this.#drop();
    for (const { run } of this.#going) run?.close();
  };

  /** Is left if no component shows it within the grace. */
  expire() {
    this.#timer = setTimeout(() => this.leave(), this.#grace);
  }

  /** Closes it for good. */
  leave() {
    clearTimeout(this.#timer);
    this.close();
    this.#onLeave();
  }

  /** @param {string | null} message @param {StartOptions} options */
  #turn(message, options) {
    return new Turn((this.#count += 1), message, options);
  }

  /** @param {Turn} turn */
  #add(turn) {
    this.#turns = [...this.#turns.slice(1 - MAX_TURNS), turn];
    this.#next();
    this.#changed();
  }

  #drop() {
    for (const turn of this.#turns) turn.drop();
    this.#changed();
  }

  /** Nobody is told of a cancel that fails: the run is seen to go on, and the next start of its session ends it. */
  #interrupt() {
    this.cancel().catch(() => {});
  }

  /**
   * True if the message is one of this tick's that a component sent, which has gone and is back: StrictMode runs each
   * effect twice.
   * @param {string} message
   */
  #echoed(message) {
    if (this.#echoes[0] === message) {
      this.#echoes.shift();
      return true;
    }
    this.#sent.push(message);
    queueMicrotask(() => {
      this.#sent = [];
      this.#echoes = [];
    });
    return false;
  }

  /**
   * Sends what waits, as soon as nothing hinders it. Even one that interrupts waits until the run before it has an id:
   * else the server may get both starts in the other order.
   */
  #next = () => {
    const turn = this.#turns.find(({ queued }) => queued);
    if (!turn) return;
    const { message, options, interrupts } = turn;
    for (const { run } of this.#going) if (run?.active && !(interrupts && run.runId)) return;
    const before = this.#turns.findLast(({ begun }) => begun)?.run?.status;
    const interrupt = interrupts || before === 'closed' || before === 'failed'; // as that run may go on
    this.#begin(turn, () => this.client.stream(message ?? '', { ...options, interrupt }));
  };

  /** @param {Turn} turn @param {() => Run} start */
  #begin(turn, start) {
    const before = this.#turns.findLast(({ begun }) => begun);
    if (before) before.events = null;
    this.#going.add(turn);
    const { started, ended } = turn.begin(start, this.#changed);
    started.then(this.#next);
    ended.then(() => {
      this.#going.delete(turn);
      this.#next();
      this.#changed();
      this.#draw();
    });
  }

  #changed = () => {
    this.#stale = true;
    if (this.read) this.#callOff ??= nextFrame(this.#draw);
  };

  #draw = () => {
    this.#callOff?.();
    this.#callOff = null;
    if (this.read) this.#look();
    for (const reader of this.#readers) reader();
  };

  /** A frame that was asked for may never come, if the page is hidden now. */
  #catchUp = () => {
    if (this.#callOff) this.#draw();
  };

  #look() {
    if (!this.#stale) return;
    const turn = this.#turns.findLast(({ begun }) => begun);
    this.#view = {
      ...IDLE,
      ...turn?.state,
      retry: turn?.retry ?? null,
      events: turn?.events?.slice() ?? [],
      messages: this.#turns.flatMap(({ messages }) => messages),
      active: this.#turns.some(({ active, queued }) => active || queued),
    };
    this.#stale = false;
  }
}

/** The conversations of a client by their names. */
export class Conversations {
  /** The one that was shown last comes last. @type {Map<string, Conversation>} */ #byName = new Map();
  #client;
  #grace;
  #most;

  /** @param {Client} client @param {{grace?: number, most?: number}} [bounds] */
  constructor(client, { grace = GRACE_MS, most = MOST } = {}) {
    this.#client = client;
    this.#grace = grace;
    this.#most = most;
  }

  /** The conversation of this name, which is new if there is none. @param {string} name */
  find(name) {
    const found = this.#byName.get(name) ?? this.#make(name);
    this.#byName.delete(name);
    this.#byName.set(name, found);
    return found;
  }

  /** @param {string} name */
  #make(name) {
    const deserted = [...this.#byName.values()].filter((each) => each.deserted);
    if (deserted.length >= this.#most) deserted[0]?.leave();
    const made = new Conversation(this.#client, this.#grace, () => {
      if (this.#byName.get(name) === made) this.#byName.delete(name);
    });
    made.expire();
    return made;
  }
}

/** One run, followed over whatever transport is chosen at the time: started, joined, moved to another, tried again. */

/** @import { Client, Run, StartOptions, State, StreamEvent, Transport } from '/client/index.js' */

/** A run there is, or a new one. @typedef {{runId: string} | {message: string, sessionId: string}} Subject */
/**
 * `state` is what the events before the first one came to, if those are kept no longer.
 * @typedef {{event: (event: StreamEvent) => void, state: (state: State, seq: number) => void, status: () => void,
 *   retry: (said: string | null) => void}} Hear
 */

/** 128 random bits as hex. */
export function randomKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, '0')).join('');
}

export class Follow {
  /** @type {string | null} */ runId = null;
  /** How many events came; the server's last number if all did. */
  received = 0;
  /** How often a connection broke. */
  breaks = 0;
  cancelling = false;
  /** Whether it was this page that started it. */
  started;

  #client;
  #hear;
  /** @type {Run} */ #run;
  #start;
  #base = 0;
  #joins = false;
  #joinedAt = -1;

  /**
   * @param {() => Client} client  asked for each time, as signing in takes a new one
   * @param {Subject} subject @param {Transport} transport @param {Hear} hear
   */
  constructor(client, subject, transport, hear) {
    this.#client = client;
    this.#hear = hear;
    this.started = 'message' in subject;
    if ('runId' in subject) this.runId = subject.runId;
    // What one leaves goes on, as one may come back to it; a question in between ends the answer that goes on.
    this.#start = { onDisconnect: 'continue', interrupt: true, idempotencyKey: randomKey(), ...subject };
    this.transport = transport;
    this.#run = this.#begin();
  }

  get status() {
    return this.#run.status;
  }

  get error() {
    return this.#run.error;
  }

  /** The number of the last event seen. */
  get cursor() {
    return Math.max(this.#base, this.#run.cursor);
  }

  /** True if the run's last event came. */
  get ended() {
    return this.#run.terminal !== null;
  }

  /** Whether more is to come. */
  get active() {
    return this.#run.active;
  }

  /** Goes on over another transport, at the cursor. @param {Transport} transport */
  use(transport) {
    this.transport = transport;
    if (this.active) this.again();
  }

  /** Goes on at the cursor, with a connection of its own. */
  again() {
    const left = this.#run;
    this.#base = this.cursor;
    this.#run = this.#begin();
    left.close();
  }

  /** Goes on from what the events so far came to, as they are not all kept; or returns false if that was no help. */
  join() {
    if (this.#joinedAt === this.cursor) return false;
    this.#joinedAt = this.cursor;
    this.#joins = true;
    this.again();
    return true;
  }

  /** Asks the server to end the run, whose terminal event tells when it has. */
  async cancel() {
    this.cancelling = true;
    this.#hear.status();
    try {
      await this.#run.cancel();
    } catch {
      this.cancelling = false; // the run's own status tells why, or it had ended
      this.#hear.status();
    }
  }

  /** Answers a question of the run's. @param {string} inputId @param {unknown} answer @param {string} messageId */
  answer(inputId, answer, messageId) {
    return this.#run.answer(inputId, answer, { messageId });
  }

  /** Says something to the run. @param {string} content @param {string} messageId */
  send(content, messageId) {
    return this.#run.send(content, { messageId });
  }

  /** Leaves: nothing is heard of this run any more. */
  close() {
    this.#hear = { event: () => {}, state: () => {}, status: () => {}, retry: () => {} };
    this.#run.close();
  }

  #begin() {
    const { message, ...options } = /** @type {StartOptions & {message: string}} */ (this.#start);
    const { transport } = this;
    const run = this.runId
      ? this.#client().attach(this.runId, { ...(this.#joins ? { snapshot: true } : { after: this.#base }), transport })
      : this.#client().stream(message, { ...options, transport });
    run.on('snapshot', ({ seq, state }) => {
      if (run !== this.#run) return;
      this.#joins = false;
      this.#hear.state(state, seq);
    });
    run.on('event', (event) => {
      if (run !== this.#run) return;
      this.received += 1;
      this.#hear.event(event);
    });
    run.on('status', (status) => {
      if (run !== this.#run) return;
      if (status === 'reconnecting') this.breaks += 1;
      this.#hear.status();
    });
    run.on('retry', ({ said }) => run === this.#run && this.#hear.retry(said));
    run.started.then(
      (runId) => {
        this.runId = runId;
        if (run === this.#run) this.#hear.status();
      },
      () => {}, // its status tells
    );
    return run;
  }
}

/**
 * One run, from its start to its terminal event, over Server-Sent Events or a WebSocket (PROTOCOL.md).
 *
 * A `Run` owns the run's id and cursor and decides when to connect again. A link (`sse.js`, `websocket.js`) is one
 * connection and knows nothing of the ones before it. Nothing here touches the page.
 */

import { openSse } from './sse.js';
import { openWebSocket } from './websocket.js';

/**
 * An event as the protocol's section 1 has it. `data`'s keys depend on `type`.
 * @typedef {{type: string, data: Record<string, any>, timestamp: string, id: string,
 *   metadata: {step?: number, events?: number}}} StreamEvent
 */
/** @typedef {'sse' | 'websocket'} TransportName */
/** @typedef {{code: string, message: string}} Refusal */

/**
 * What a link connects to: the run `id` after event number `cursor` or, where there is no id yet, a new run. Starting
 * it twice with one `idempotencyKey` is starting it once.
 * @typedef {{base: string, message: string, sessionId: string, idempotencyKey: string, id: string | null,
 *   cursor: number}} Target
 */
/**
 * What a link tells its run. After `lost` it is of no more use, unless it is `retrying` by itself.
 * @typedef {object} Listener
 * @property {() => void} opened
 * @property {(runId: string) => void} started
 * @property {(event: StreamEvent) => void} event
 * @property {(retrying: boolean) => void} lost
 * @property {(refusal: Refusal) => void} refused  there is no use in trying again
 */
/**
 * `close` silences it at once. `cancel` says whether it could ask for a cancel.
 * @typedef {{close: () => void, cancel: () => boolean}} Link
 */
/**
 * `lost` connects again by itself; `ended` saw the terminal event; `failed` has an `error`; `closed` was left.
 * @typedef {'connecting' | 'open' | 'lost' | 'ended' | 'failed' | 'closed'} State
 */

/** @type {Record<TransportName, (target: Target, listener: Listener) => Link>} */
const LINKS = { sse: openSse, websocket: openWebSocket };
const EVENT_ID = /^evt-([a-z2-7]{26})-([0-9]+)$/;
const BACKOFF_MS = 500;
const MAX_BACKOFF_MS = 10_000;

/** Whether the event is its run's last. @param {StreamEvent} event */
export const isTerminal = (event) => event.type === 'AGENT_FINISH' || event.type === 'ERROR';

/** 128 random bits as hex; unlike `randomUUID` this is there on plain HTTP too. */
export function randomKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, '0')).join('');
}

export class Run {
  /** @type {string | null} */ id = null;
  /** The number of the last event seen. */
  cursor = 0;
  /** How many events came; with the terminal event's `metadata.events` it tells whether they are all there. */
  received = 0;
  /** @type {State} */ state = 'connecting';
  /** @type {Refusal | null} */ error = null;
  cancelling = false;

  /** @type {Link | null} */ #link = null;
  /** @type {ReturnType<typeof setTimeout> | undefined} */ #timer;
  #attempts = 0;
  #idempotencyKey = randomKey();
  #options;

  /**
   * Starts a run. `onEvent` gets each event once and in order; `onState` is called when `state` has changed.
   * @param {{message: string, sessionId: string, transport: TransportName, base?: string,
   *   onEvent: (event: StreamEvent) => void, onState: () => void}} options
   */
  constructor(options) {
    this.#options = options;
    this.transport = options.transport;
    this.#connect();
  }

  /** Whether more is to come. */
  get active() {
    return this.state === 'connecting' || this.state === 'open' || this.state === 'lost';
  }

  /** Asks the server to end the run, whose terminal event tells when it has; leaves where there is nobody to ask. */
  cancel() {
    if (!this.active) return;
    this.cancelling = true;
    if (!this.#askToCancel()) this.close();
  }

  /** Drops the connection, as a bad network would. */
  cut() {
    this.#link?.close();
    this.#lost(false);
  }

  /** Goes on over another transport, at the cursor. @param {TransportName} transport */
  use(transport) {
    this.transport = transport;
    this.cut();
    clearTimeout(this.#timer);
    this.#connect();
  }

  /** Leaves: nothing is heard of this run any more, and the server does what its `on_disconnect` says. */
  close() {
    this.#leave('closed');
  }

  #connect() {
    const { message, sessionId, base = location.origin } = this.#options;
    const { id, cursor } = this;
    this.#link = LINKS[this.transport](
      { base, message, sessionId, idempotencyKey: this.#idempotencyKey, id, cursor },
      {
        opened: () => this.#opened(),
        started: (runId) => {
          this.id = runId;
        },
        event: (event) => this.#event(event),
        lost: (retrying) => this.#lost(retrying),
        refused: (refusal) => this.#leave('failed', refusal),
      },
    );
  }

  #opened() {
    this.#become('open');
    if (this.cancelling) this.#askToCancel();
  }

  /** @param {StreamEvent} event */
  #event(event) {
    const [, runId, digits] = EVENT_ID.exec(event.id) ?? [];
    const number = Number(digits);
    if (!runId || number <= this.cursor || (this.id ?? runId) !== runId) {
      this.#leave('failed', { code: 'out_of_order', message: `event ${event.id} came after number ${this.cursor}` });
      return;
    }
    this.id = runId;
    this.cursor = number;
    this.received += 1;
    this.#attempts = 0;
    this.#options.onEvent(event);
    if (isTerminal(event)) this.#leave('ended');
  }

  /** @param {boolean} retrying */
  #lost(retrying) {
    if (!retrying) {
      // Full jitter, so that the clients of a server that restarts do not come back all at once.
      const delay = Math.random() * Math.min(MAX_BACKOFF_MS, BACKOFF_MS * 2 ** this.#attempts);
      this.#attempts += 1;
      this.#link = null;
      this.#timer = setTimeout(() => this.#connect(), delay);
    }
    this.#become('lost');
  }

  /** @param {State} state @param {Refusal | null} error */
  #leave(state, error = null) {
    clearTimeout(this.#timer);
    this.#link?.close();
    this.#link = null;
    this.error = error;
    this.#become(state);
  }

  /** False where neither a socket is open nor the run's id is known. */
  #askToCancel() {
    if (this.#link?.cancel()) return true;
    if (this.id === null) return false;
    const url = `${this.#options.base ?? location.origin}/runs/${this.id}/cancel`;
    fetch(url, { method: 'POST' }).catch(() => {}); // no network: asked again as soon as there is a connection
    return true;
  }

  /** @param {State} state */
  #become(state) {
    if (state === this.state) return;
    this.state = state;
    this.#options.onState();
  }
}

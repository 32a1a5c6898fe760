/**
 * A run over Server-Sent Events by `fetch`: start it with `POST /runs`, follow it with `GET /runs/{run_id}/events`.
 *
 * Two requests instead of one: so the run's id is known before the first event, and a start whose answer was lost is
 * repeated with its idempotency key, never confused with a resumption.
 */

import { Watch } from './api.js';
import { Broken, Muted, ProtocolError } from './errors.js';
import { parseObject } from './events.js';
import { SseParser } from './sse-parser.js';

/** @import { Api } from './api.js' */
/** @import { Connection, Position } from './position.js' */
/** @import { SseMessage } from './sse-parser.js' */

/** Where a run's events are. @param {Position} at */
export function eventsPath(at) {
  const query = new URLSearchParams({ after: String(at.after), envelope: '1' });
  if (at.types) query.set('types', at.types.join());
  return `/runs/${at.runId}/events?${query}`;
}

/** Starts the run if it has no id yet. @param {Api} api @param {Position} at @param {AbortSignal} signal */
export async function startByPost(api, at, signal) {
  if (at.runId === null) at.found((await api.call('POST', '/runs', signal, at.start)).run_id);
}

/** @param {Api} api */
function checkStreams(api) {
  if (!api.streams) throw new Muted('This `fetch` hands out no body while it comes: events need a WebSocket.');
}

/** @implements {Connection} */
class SseConnection {
  #reader;
  #watch;
  #silence;
  #decoder = new TextDecoder();
  #parser = new SseParser();
  /** @type {SseMessage[]} */ #messages = [];
  #next = 0;

  /** @param {ReadableStream<Uint8Array>} body @param {Watch} watch @param {number} silence  in ms */
  constructor(body, watch, silence) {
    this.#reader = body.getReader();
    this.#watch = watch;
    this.#silence = silence;
  }

  /** See `Connection`. */
  async receive() {
    while (this.idle) await this.read(this.#silence);
    this.#next += 1;
    return parseObject(this.#messages[this.#next - 1].data);
  }

  /** See `Connection`. */
  get idle() {
    return this.#next === this.#messages.length;
  }

  /** See `Connection`. */
  close() {
    this.#watch.close();
  }

  /** Waits for more, but no longer than `ms`; the watch stands still while the program takes its time. @param {number} ms */
  async read(ms) {
    const { done, value } = await this.#watch.within(ms, () => this.#reader.read());
    if (done) throw new Broken('The stream ended before the run did.');
    this.#messages = this.#parser.feed(this.#decoder.decode(value, { stream: true }));
    this.#next = 0;
  }
}

/**
 * See `Connect`. `within` ms after the request something must have come, else it is `Muted`: an opening block comes at
 * once, unless something between holds it back.
 * @param {Api} api @param {Position} at @param {AbortSignal} signal @param {number} [within]
 * @returns {Promise<Connection | null>}
 */
export async function connectSse(api, at, signal, within) {
  if (api.streams) await startByPost(api, at, signal);
  checkStreams(api);
  const watch = new Watch(signal);
  const asked = performance.now();
  try {
    const response = await api.open(eventsPath(at), watch, within ?? api.timeout);
    if (response.status === 204) {
      watch.close();
      return null;
    }
    checkStreams(api);
    if (!response.body || !response.headers.get('content-type')?.startsWith('text/event-stream')) {
      throw new ProtocolError("The server's answer is not an event stream.");
    }
    const announced = Number(response.headers.get('twinwire-heartbeat')) * 1000;
    const silence = 2 * (announced > 0 ? announced : api.heartbeat);
    const connection = new SseConnection(response.body, watch, silence);
    await connection.read(within === undefined ? silence : Math.max(0, within - (performance.now() - asked)));
    return connection;
  } catch (error) {
    watch.close();
    throw error;
  }
}

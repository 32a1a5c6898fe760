/** A run over WebSocket: all runs of a client share one socket, which each of them asks for again when it broke. */

import { Broken, ProtocolError } from './errors.js';
import { isTerminal, runOf } from './events.js';
import { Mailbox } from './mailbox.js';
import { isLarge, Session } from './socket.js';
import { startByPost } from './sse.js';

/** @import { Api } from './api.js' */
/** @import { Connection, Position } from './position.js' */
/** @import { SocketClass } from './socket.js' */

/** How many events wait for a slow reader before the run is paused, and how few are left when it is resumed. */
const MAX_WAITING = 1024;
const FEW_WAITING = 256;
let requests = 0;

/** The sockets of one client: one, unless a run is followed twice, or more runs than a socket follows. */
export class Sockets {
  /** @type {Set<Session>} */ #sessions = new Set();
  #SocketClass;

  /** @param {Api} api @param {SocketClass} SocketClass */
  constructor(api, SocketClass) {
    this.api = api;
    this.#SocketClass = SocketClass;
  }

  /**
   * A socket that is open, does not follow this run, and has room for one more.
   * @param {string | null} runId @param {number} [within]  how many ms a new one may take to open
   */
  async session(runId, within = this.api.timeout) {
    let found;
    for (const session of this.#sessions) {
      if (!session.alive) this.#sessions.delete(session);
      else if (!session.full && !session.follows(runId)) found ??= session;
    }
    if (!found) {
      found = new Session(this.api, this.#SocketClass, within);
      this.#sessions.add(found);
    }
    await found.opened;
    return found;
  }

  /** A socket that can be spoken to at once, if there is one. */
  get open() {
    return [...this.#sessions].find((session) => session.open);
  }

  close() {
    for (const session of this.#sessions) session.fail(new Broken('The client was closed.'));
    this.#sessions.clear();
  }
}

/** @implements {Connection} */
class WsConnection {
  /** @type {Mailbox<Record<string, any>>} */ #mail = new Mailbox();
  #paused = false;
  #ended = false;
  /** The run that the server says is followed. @type {string | null} */ #runId = null;
  #session;
  #at;

  /** @param {Session} session @param {Position} at */
  constructor(session, at) {
    this.#session = session;
    this.#at = at;
  }

  /** Starts the run or attaches to it; false if it has ended at the cursor. */
  async follow() {
    const { runId, after, start, types } = this.#at;
    const how = types ? { types } : {};
    requests += 1;
    const command =
      runId === null
        ? { type: 'start', request_id: `r${requests}`, ...start, ...how }
        : { type: 'attach', run_id: runId, after, ...how };
    const reply = await this.#session.ask(command, this);
    this.#runId = reply.run_id;
    if (reply.type !== (runId === null ? 'started' : 'attached')) throw new ProtocolError(`The server answered "${reply.type}", which was not due.`);
    this.#at.found(reply.run_id);
    return !(reply.ended && reply.last === after);
  }

  /** See `Connection`. */
  async receive() {
    const event = /** @type {Record<string, any>} */ (await this.#mail.take());
    if (this.#paused && this.#mail.size <= FEW_WAITING) this.#pause(false, event);
    return event;
  }

  /** See `Connection`. */
  get idle() {
    return this.#mail.size === 0;
  }

  /** See `Connection`. */
  close() {
    this.#mail.end(new Broken('The connection was closed.'));
    const cancels = this.#at.start['on_disconnect'] === 'cancel';
    if (this.#runId !== null && this.#ended) this.#session.ended(this.#runId, this);
    else if (this.#runId !== null) void this.#session.leave(this.#runId, this, cancels);
  }

  /** See `Channel`. A reader that is far behind lags in the server's log, not here. @param {Record<string, any>} event */
  put(event) {
    this.#mail.put(event);
    this.#ended ||= isTerminal(/** @type {{type: string}} */ (event));
    if (!this.#paused && this.#mail.size >= MAX_WAITING && !this.#ended) this.#pause(true, event);
  }

  /**
   * Commands are obeyed in order, so that nothing waits for the answer. An error is no matter: the run has ended, or
   * the server, which does not know these commands, goes on.
   * @param {boolean} paused @param {Record<string, any>} event  one of the run, whose id may not have been found yet
   */
  #pause(paused, event) {
    this.#paused = paused;
    this.#session.ask({ type: paused ? 'pause' : 'resume', run_id: runOf(event) }).catch(() => {});
  }

  /** See `Channel`. @param {unknown} error */
  fail(error) {
    this.#mail.end(error);
  }
}

/**
 * See `Connect`. A large start is a request: a socket's other runs would end with it if it is refused.
 * @param {Sockets} sockets @param {Position} at @param {AbortSignal} signal
 * @param {number} [within]  how many ms a new socket may take to open
 * @returns {Promise<Connection | null>}
 */
export async function connectWs(sockets, at, signal, within) {
  if (at.runId === null && isLarge(at.start)) await startByPost(sockets.api, at, signal);
  const connection = new WsConnection(await sockets.session(at.runId, within), at);
  signal.throwIfAborted();
  let going = false;
  try {
    going = await connection.follow();
  } finally {
    if (!going) connection.close();
  }
  return going ? connection : null;
}

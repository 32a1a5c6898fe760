/** SSE by `fetch`, or WebSocket: whatever gets through. */

import { Broken, Muted } from './errors.js';

/** @import { Connect, Connection, Position } from './position.js' */
/** @typedef {(at: Position, signal: AbortSignal, within?: number) => Promise<Connection | null>} ConnectWithin */

/** The most ms for opening a socket that is tried first. */
const SOCKET_MS = 1_000;

/**
 * See `Connect`. One for all runs of a client: what one has found out serves the next. SSE comes first and must begin
 * within `mute` ms; then WebSocket, at the same cursor; if that fails, SSE again, which now may take its time.
 * @param {ConnectWithin} sse
 * @param {ConnectWithin} ws
 * @param {number} mute
 * @param {() => boolean} socketFirst  whether WebSocket comes first, as event streams use up a browser's connections
 * @returns {Connect}
 */
export function auto(sse, ws, mute, socketFirst) {
  let muted = false;
  let noSocket = false;
  return async (at, signal) => {
    const first = socketFirst();
    if (noSocket || !(muted || first)) {
      try {
        return await (noSocket ? sse(at, signal) : sse(at, signal, mute));
      } catch (error) {
        noSocket = false;
        if (!(error instanceof Muted)) throw error;
        muted = true;
      }
    }
    try {
      return await (first ? ws(at, signal, Math.min(mute, SOCKET_MS)) : ws(at, signal));
    } catch (error) {
      noSocket = error instanceof Broken;
      throw error;
    }
  };
}

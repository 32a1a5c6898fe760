/** SSE by `fetch`, or WebSocket if something between holds an event stream back. */

import { Broken, Muted } from './errors.js';

/** @import { Connect, Connection, Position } from './position.js' */

/**
 * See `Connect`. One for all runs of a client: what one has found out serves the next. SSE comes first and must begin
 * within `mute` ms; then WebSocket, at the same cursor; if that fails, SSE again, which now may take its time.
 * @param {(at: Position, signal: AbortSignal, within?: number) => Promise<Connection | null>} sse
 * @param {Connect} ws
 * @param {number} mute
 * @returns {Connect}
 */
export function auto(sse, ws, mute) {
  let muted = false;
  let noSocket = false;
  return async (at, signal) => {
    if (!muted || noSocket) {
      try {
        return await (noSocket ? sse(at, signal) : sse(at, signal, mute));
      } catch (error) {
        noSocket = false;
        if (!(error instanceof Muted)) throw error;
        muted = true;
      }
    }
    try {
      return await ws(at, signal);
    } catch (error) {
      noSocket = error instanceof Broken;
      throw error;
    }
  };
}

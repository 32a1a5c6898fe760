/** Where a client stands in a run, and what a transport makes of it: the seam between `run.js` and the transports. */

import { ProtocolError } from './errors.js';
import { isRunId } from './events.js';

/**
 * A connection that is open at a cursor. `receive` gives the next event's JSON; it rejects with `Broken`, even if
 * the connection ended, and with `TwinwireError`s. It is `idle` if all events that have come were received. `close` is
 * for any state.
 * @typedef {{receive: () => Promise<Record<string, any>>, close: () => void, readonly idle: boolean}} Connection
 */
/** Null if the run has ended at the cursor. @typedef {(at: Position, signal: AbortSignal) => Promise<Connection | null>} Connect */

/** The run (or how to start it, while it has no id) and the last event seen of it. */
export class Position {
  #named;

  /** @param {{start?: Record<string, unknown>, runId?: string, after?: number, types: string[] | null}} at */
  constructor({ start = {}, runId, after = 0, types }) {
    this.start = start;
    /** @type {string | null} */
    this.runId = runId ?? null;
    this.after = after;
    this.types = types;
    /** @type {(runId: string) => void} */
    let resolve = () => {};
    /** @type {Promise<string>} */
    this.named = new Promise((named) => {
      resolve = named;
    });
    this.#named = resolve;
    if (isRunId(runId)) resolve(runId); // there is no run of any other
  }

  /** The server says that this is the run. Throws `ProtocolError` if it cannot be. @param {unknown} runId */
  found(runId) {
    if (!isRunId(runId)) throw new ProtocolError("The server's answer does not name a run.");
    if (this.runId !== null && this.runId !== runId) throw new ProtocolError("The server's answer is about another run.");
    this.runId = runId;
    this.#named(runId);
  }
}

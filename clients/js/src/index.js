/** What `twinwire-client` gives: `createClient`, and what one meets through it. */

export { Client, createClient } from './client.js';
export {
  AgentNotFound, ApiError, ConnectionLost, GapError, ProtocolError, RunClosed, RunFailed, RunNotFound, SessionBusy,
  TwinwireError, Unauthenticated,
} from './errors.js';
export { EVENT_TYPES, isTerminal } from './events.js';
export { Fold } from './fold.js';
export { Run } from './run.js';

/** @import * as client from './client.js' */
/** @import * as events from './events.js' */
/** @typedef {client.AttachOptions} AttachOptions */
/** @typedef {client.ClientOptions} ClientOptions */
/** @typedef {client.StartOptions} StartOptions */
/** @typedef {client.Transport} Transport */
/** @typedef {events.CustomEvent} CustomEvent */
/** @typedef {events.StreamEvent} StreamEvent */
/** @typedef {events.TerminalEvent} TerminalEvent */

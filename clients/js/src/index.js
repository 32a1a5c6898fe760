/** What `twinwire-client` gives: `createClient`, and what one meets through it. */

export { Client, createClient } from './client.js';
export {
  AgentNotFound, ApiError, ConnectionLost, Gap, ProtocolError, RunClosed, RunFailed, RunNotFound, SessionBusy, TooLarge,
  TwinwireError, Unauthenticated,
} from './errors.js';
export { EVENT_TYPES, isTerminal } from './events.js';
export { Fold } from './fold.js';
export { Question } from './question.js';
export { Run } from './run.js';

/** @import * as api from './api.js' */
/** @import * as client from './client.js' */
/** @import * as commands from './commands.js' */
/** @import * as events from './events.js' */
/** @import * as eventsource from './eventsource.js' */
/** @import * as fold from './fold.js' */
/** @import * as retry from './retry.js' */
/** @import * as run from './run.js' */
/** @import * as socket from './socket.js' */
/** @typedef {client.AttachOptions} AttachOptions */
/** @typedef {client.ClientOptions} ClientOptions */
/** @typedef {client.FollowOptions} FollowOptions */
/** @typedef {client.StartOptions} StartOptions */
/** @typedef {client.Part} Part */
/** @typedef {client.RunInfo} RunInfo */
/** @typedef {client.Transport} Transport */
/** @typedef {commands.Acknowledgement} Acknowledgement */
/** @typedef {commands.SayOptions} SayOptions */
/** @typedef {api.Token} Token */
/** @typedef {retry.Backoff} Backoff */
/** @typedef {socket.SocketClass} SocketClass */
/** @typedef {eventsource.SourceClass} SourceClass */
/** @typedef {retry.Retry} Retry */
/** @typedef {run.Snapshot} Snapshot */
/** @typedef {run.Status} Status */
/** @typedef {fold.State} State */
/** @typedef {events.AnswerSchema} AnswerSchema */
/** @typedef {events.CustomEvent} CustomEvent */
/** @typedef {events.EndReason} EndReason */
/** @typedef {events.FinishStatus} FinishStatus */
/** @typedef {events.QuestionData} QuestionData */
/** @typedef {events.TerminalEvent} TerminalEvent */
/** @typedef {events.Usage} Usage */
/** @typedef {events.ValueSchema} ValueSchema */
/**
 * @template {object} [Custom=object]
 * @typedef {events.StreamEvent<Custom>} StreamEvent
 */
/**
 * @template {string} T
 * @template {object} D
 * @typedef {events.EventOf<T, D>} EventOf
 */

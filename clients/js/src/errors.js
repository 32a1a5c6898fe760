/**
 * Every error the client raises on purpose.
 *
 * TwinwireError
 *  · ConnectionLost       the server could not be reached, attempt after attempt
 *  · ProtocolError        what came is not what PROTOCOL.md promises
 *  · ApiError             the server's verdict; trying again would not change it
 *     · Unauthenticated   there is no token, or it is not taken
 *     · RunNotFound
 *     · AgentNotFound
 *     · SessionBusy       a run of this session is still going
 *     · GapError          the events after the cursor are kept no longer, or are not there yet
 *  · RunFailed            the run ended with an ERROR event; only `Run.result` rejects with it
 *  · RunClosed            the run was left before its end; only `Run.result` rejects with it
 *
 * An AbortSignal's own reason is passed on as it is.
 */

export class TwinwireError extends Error {
  get name() {
    return this.constructor.name;
  }
}

export class ConnectionLost extends TwinwireError {}

export class ProtocolError extends TwinwireError {}

export class RunClosed extends TwinwireError {}

/** An error the server answered with (PROTOCOL.md, section 2). */
export class ApiError extends TwinwireError {
  /**
   * `status` is the HTTP status or the WebSocket close code; null for an error told on a socket that lives on.
   * @param {Record<string, any>} body
   * @param {number | null} status
   */
  constructor(body, status) {
    const message = body.message || `The server answered ${status}.`;
    super(message);
    /** The machine code. @type {string} */
    this.code = body.code || 'unknown';
    /** The part of the input that was wrong, if one was. @type {string | null} */
    this.field = body.field ?? null;
    this.status = status;
  }
}

export class Unauthenticated extends ApiError {}

export class RunNotFound extends ApiError {}

export class AgentNotFound extends ApiError {}

export class SessionBusy extends ApiError {}

/** The cursor cannot be served: the server has events `first` to `last`. */
export class GapError extends ApiError {
  /** @param {Record<string, any>} body @param {number | null} status */
  constructor(body, status) {
    super({ message: `The log holds events ${body.first} to ${body.last}.`, ...body, code: 'gap' }, status);
    /** @type {number} */
    this.first = body.first;
    /** @type {number} */
    this.last = body.last;
  }
}

export class RunFailed extends TwinwireError {
  /** @param {string} errorType @param {string} message */
  constructor(errorType, message) {
    super(`The run failed with ${errorType}. ${message}`);
    this.errorType = errorType;
  }
}

/**
 * Something that another attempt may mend, not before `retryAfter` ms have passed. `said` is what the server said of it,
 * if it did. Never leaves this package.
 */
export class Broken extends Error {
  /** @param {string} reason @param {{retryAfter?: number, said?: string | null}} [told] */
  constructor(reason, { retryAfter = 0, said = null } = {}) {
    super(reason);
    this.retryAfter = retryAfter;
    this.said = said;
  }
}

/** A stream on which nothing came at all: what is between may hold it back. */
export class Muted extends Broken {}

/** @type {Map<string, typeof ApiError>} */
const KINDS = new Map([
  ['unauthenticated', Unauthenticated],
  ['run_not_found', RunNotFound],
  ['agent_not_found', AgentNotFound],
  ['session_busy', SessionBusy],
  ['gap', GapError],
]);

/**
 * The error in the body of an answer, or in an `error` or `gap` reply on a socket.
 * @param {Record<string, any>} body
 * @param {number | null} [status]
 */
export function apiError(body, status = null) {
  const kind = status === 401 || status === 4501 ? Unauthenticated : (KINDS.get(body.code) ?? ApiError);
  if (kind === GapError && !(Number.isInteger(body.first) && Number.isInteger(body.last))) {
    return new ApiError(body, status);
  }
  return new kind(body, status);
}

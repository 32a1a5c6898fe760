/**
 * Every error the client raises on purpose.
 *
 * TwinwireError
 *  · ConnectionLost       the server could not be reached, attempt after attempt, or it was no use to go on
 *  · ProtocolError        what came is not what PROTOCOL.md promises
 *  · ApiError             the server's verdict; trying again would not change it
 *     · Unauthenticated   there is no token, or it was not accepted
 *     · RunNotFound
 *     · AgentNotFound
 *     · SessionBusy       a run of this session is still going
 *     · Gap               the events after the cursor are kept no longer, or are not there yet
 *     · TooLarge          the message is larger than the server accepts
 *  · RunFailed            the run ended with an ERROR event; only `Run.result` and `Run.wait` reject with it
 *  · RunClosed            the run was closed before its end was received
 *
 * A call that could not succeed on any server throws a `TypeError`, such as one on a closed client. An AbortSignal's
 * own reason is passed on as it is.
 */

/** The HTTP status of each code that a socket tells (PROTOCOL.md, section 2), as it tells none. @type {Map<unknown, number>} */
const STATUSES = new Map([
  ['bad_request', 400], ['unauthenticated', 401], ['forbidden', 403], ['origin_not_allowed', 403],
  ['run_not_found', 404], ['agent_not_found', 404], ['input_not_found', 404], ['session_busy', 409],
  ['input_expired', 409], ['run_ended', 409], ['not_accepted', 409], ['gap', 410], ['payload_too_large', 413],
  ['idempotency_mismatch', 422], ['too_many_runs', 429], ['rate_limited', 429], ['too_many_followed', 429],
  ['too_many_messages', 429], ['draining', 503], ['log_unavailable', 503], ['busy', 503], ['model_unavailable', 503],
  ['authentication_unavailable', 503],
  ['unknown_outcome', 504],
]);

/** A name of the wire's, as options have it. @param {string} name */
export const camel = (name) => name.replace(/_([a-z])/g, (_, letter) => letter.toUpperCase());

/** The server's message, which names the option. @param {Record<string, any>} body @param {number | null} status */
function told({ message, field }, status) {
  if (typeof message !== 'string' || message === '') return `The server answered ${status}.`;
  return typeof field === 'string' ? message.replaceAll(`\`${field}\``, `\`${camel(field)}\``) : message;
}

export class TwinwireError extends Error {}

/**
 * The attributes are those of the last of the `attempts`. `code` is the machine code that the server gave
 * (`rate_limited`, `draining`, …), or the client's own: `token_failed`, `unknown_host`, `connection_refused`,
 * `certificate_not_trusted`, `not_https`; null for another failure of the network. `status` is the HTTP status, on a
 * socket that of the `code`, `retryAfter` the ms that the server asked to wait; null if there was none.
 */
export class ConnectionLost extends TwinwireError {
  /**
   * @param {string} message
   * @param {{code: string | null, status: number | null, retryAfter: number | null, attempts: number}} last
   */
  constructor(message, { code, status, retryAfter, attempts }) {
    super(message);
    this.code = code;
    this.status = status;
    this.retryAfter = retryAfter;
    this.attempts = attempts;
  }
}

export class ProtocolError extends TwinwireError {}

/** The run was closed, by `close`, by leaving its loop or with its client, before its end was received. */
export class RunClosed extends TwinwireError {}

/** An error the server answered with (PROTOCOL.md, section 2). */
export class ApiError extends TwinwireError {
  /**
   * `status` is the HTTP status, on a socket that of the `code`; null if it has none. `message` names an option as it is
   * here, `field` as the wire does.
   * @param {Record<string, any>} body
   * @param {number | null} status
   */
  constructor(body, status) {
    super(told(body, status));
    /** The machine code. @type {string} */
    this.code = body.code || 'unknown';
    /** The part of the input that was wrong, if one was. @type {string | null} */
    this.field = body.field ?? null;
    /** @type {number | null} */
    this.status = status ?? STATUSES.get(this.code) ?? null;
    /** In how many ms another try makes sense, if the server said so. @type {number | null} */
    this.retryAfter = body.retry_after > 0 ? body.retry_after * 1000 : null;
  }
}

export class Unauthenticated extends ApiError {}

export class RunNotFound extends ApiError {}

export class AgentNotFound extends ApiError {}

export class SessionBusy extends ApiError {}

/** The cursor cannot be served: the server has events `first` to `last`. */
export class Gap extends ApiError {
  /** @param {Record<string, any>} body @param {number | null} status */
  constructor(body, status) {
    super({ message: `The log holds events ${body.first} to ${body.last}.`, ...body, code: 'gap' }, status);
    /** @type {number} */
    this.first = body.first;
    /** @type {number} */
    this.last = body.last;
  }
}

export class TooLarge extends ApiError {}

export class RunFailed extends TwinwireError {
  /** @param {string} errorType @param {string} message */
  constructor(errorType, message) {
    super(`The run failed with ${errorType}. ${message}`);
    this.errorType = errorType;
  }
}

const NAMED = {
  TwinwireError, ConnectionLost, ProtocolError, RunClosed, ApiError, Unauthenticated, RunNotFound, AgentNotFound,
  SessionBusy, Gap, TooLarge, RunFailed,
};
for (const [name, kind] of Object.entries(NAMED)) kind.prototype.name = name; // a bundler shortens those of the classes

/**
 * Something that another attempt may mend, not before `retryAfter` ms have passed. `code`, `status` and `retryAfter`
 * are those of a `ConnectionLost`, `said` is what the server said of it. If the server was never reached, this is no
 * fault of the network's after `hope` ms in a row, and waiting mends nothing. Never leaves this package.
 */
export class Broken extends Error {
  /**
   * @param {string} reason
   * @param {{code?: string | null, status?: number | null, retryAfter?: number | null, said?: string | null,
   *   hope?: number}} [told]
   */
  constructor(reason, { code = null, status = null, retryAfter = null, said = null, hope = Infinity } = {}) {
    super(reason);
    this.code = code;
    this.status = status;
    this.retryAfter = retryAfter;
    this.said = said;
    this.hope = hope;
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
  ['gap', Gap],
  ['payload_too_large', TooLarge],
]);
/** @type {Map<number | null, typeof ApiError>} */
const BY_STATUS = new Map([[401, Unauthenticated], [413, TooLarge]]);

/**
 * The error in the body of an answer, or in an `error` or `gap` reply on a socket.
 * @param {Record<string, any>} body
 * @param {number | null} [status]
 */
export function apiError(body, status = null) {
  const kind = BY_STATUS.get(status) ?? KINDS.get(body.code) ?? ApiError;
  if (kind === Gap && !(Number.isInteger(body.first) && Number.isInteger(body.last))) {
    return new ApiError(body, status);
  }
  return new kind(body, status);
}

/// <reference lib="esnext.disposable" preserve="true" />

/** The client: one server, any number of runs. */

import { Api, NEVER, Watch } from './api.js';
import { auto } from './auto.js';
import { address, check, checkId, RULES } from './checks.js';
import { Commands, randomKey, unknown } from './commands.js';
import { ProtocolError } from './errors.js';
import { isRunId, parseEventId } from './events.js';
import { connectEventSource } from './eventsource.js';
import { Position } from './position.js';
import { backoff, inBrowser } from './retry.js';
import { Run } from './run.js';
import { connectSse } from './sse.js';
import { connectWs, Sockets } from './ws.js';

/** @import { Token } from './api.js' */
/** @import { Acknowledgement, SayOptions } from './commands.js' */
/** @import { EndReason, FinishStatus, QuestionData, Usage } from './events.js' */
/** @import { SourceClass } from './eventsource.js' */
/** @import { Connect } from './position.js' */
/** @import { Backoff } from './retry.js' */
/** @import { Shared } from './run.js' */
/** @import { SocketClass } from './socket.js' */

/** @typedef {'auto' | 'sse' | 'ws' | 'eventsource'} Transport */
/**
 * Times are in milliseconds.
 * @typedef {object} ClientOptions
 * @property {string | undefined} [url]  the server, `http://host:port`; by default where the page came from, which is
 *   looked up at the first request, so that a page can be rendered on a server, too
 * @property {Transport | undefined} [transport]  default `auto`: SSE, and WebSocket if something between holds SSE
 *   back; in a browser over plain HTTP, WebSocket first, as six streams use up its connections
 * @property {Token | undefined} [token]  who one is; a function is asked for each request and each socket, again if it
 *   is refused and, for a socket, before it expires
 * @property {Record<string, string> | undefined} [headers]  for every HTTP request
 * @property {'omit' | 'same-origin' | 'include' | undefined} [credentials]  as `fetch` has it: `include` sends cookies
 *   to a server of another origin, too, also from an EventSource; a browser sends them with a WebSocket in any case
 * @property {number | undefined} [timeout]  for connecting, for an answer to begin, and for a function `token`;
 *   default 10,000
 * @property {number | undefined} [heartbeat]  how long a socket may be silent before the server is asked whether it is
 *   there, and what to expect of an SSE stream that announces no interval; default 15,000
 * @property {number | undefined} [muted]  how soon an SSE stream must begin, else `auto` takes a WebSocket; default 3,000
 * @property {Partial<Backoff> | undefined} [retry]  when to try again, and how often. By default what never worked is
 *   given up after 10 attempts, or 2 s if nobody is at the address, and what has worked never in a browser, elsewhere
 *   after 5 minutes
 * @property {typeof fetch | undefined} [fetch]
 * @property {SocketClass | undefined} [WebSocket]  for a runtime that has none, such as Node before version 22: npm's `ws`
 * @property {SourceClass | undefined} [EventSource]
 */
/**
 * @typedef {object} FollowOptions
 * @property {Transport | undefined} [transport]  for this run
 * @property {string[] | undefined} [types]  the event types to send beside the terminal event
 * @property {AbortSignal | undefined} [signal]  follows the run no longer when it aborts; its reason is thrown if it
 *   has already
 * @property {boolean | undefined} [cancelOnAbort]  cancels the run then, too
 */
/**
 * `onDisconnect` is `continue`, `cancel` or `cancel_after:<seconds>` (the default, with 300). `interrupt` ends the run
 * that the session has going on, which else is a `SessionBusy`. A start whose answer is lost is repeated with its
 * `idempotencyKey`, a fresh one by default, so that it never is two runs. `traceparent` is the span that the run is a
 * part of (W3C Trace Context). `params` are settings of the run, and `parts` images, files and more texts behind the
 * message, which the server refuses unless the agent accepts them. `metadata` are labels of the run.
 * @typedef {FollowOptions & {agent?: string | undefined, userId?: string | undefined, sessionId?: string | undefined,
 *   onDisconnect?: string | undefined, interrupt?: boolean | undefined, idempotencyKey?: string | undefined,
 *   traceparent?: string | undefined, params?: Record<string, unknown> | undefined,
 *   metadata?: Record<string, string> | undefined, parts?: Part[] | undefined}} StartOptions
 */
/**
 * A part of a message, in OpenAI's form.
 * @typedef {{type: 'text', text: string} | {type: 'image_url', image_url: {url: string, detail?: string}}
 *   | {type: 'file', file: {file_data?: string, file_id?: string, filename?: string}}} Part
 */
/** @typedef {FollowOptions & {after?: number | string | undefined, snapshot?: boolean | undefined}} AttachOptions */
/**
 * A run, as the server tells of it. `questions` are those that are open; the run is `waiting` if nothing comes of it before
 * an answer. The fields after these are there once the run has ended; `result` is in no list.
 * @typedef {{run_id: string, agent: string, created: string, user_id?: string, session_id?: string,
 *   metadata?: Record<string, string>,
 *   status: 'running' | FinishStatus | 'error', first: number, last: number, waiting: boolean,
 *   questions: QuestionData[], usage?: Usage, reason?: EndReason, duration?: number, result?: unknown,
 *   error_type?: string, message?: string}} RunInfo
 */

/** It goes into a path. @param {string} runId */
function checkRunId(runId) {
  checkId(runId);
  if (!isRunId(runId)) throw unknown();
  return runId;
}

/** @param {number | string} after @param {string} runId */
function checkAfter(after, runId) {
  const number = typeof after === 'string' ? Number(/^(0|[1-9][0-9]*)$/.test(after) ? after : NaN) : after;
  if (Number.isSafeInteger(number) && number >= 0) return number;
  const cursor = parseEventId(after);
  if (cursor?.runId !== runId) throw new TypeError('`after` must be a number or the id of an event of this run.');
  return cursor.number;
}

/** The address of the page's own server. */
function ofPage() {
  const found = address(globalThis.location?.origin);
  if (found === null) throw new TypeError('`url` is required, as there is no page to take it from.');
  return found;
}

/** The class that each transport needs and that an environment may lack. @type {Record<Transport, string>} */
const NEEDS = {
  auto: 'a `WebSocket`', sse: 'a `fetch` that streams', ws: 'a `WebSocket`', eventsource: 'an `EventSource`',
};

/** @param {unknown} message */
function checkMessage(message) {
  if (typeof message === 'string') return;
  throw new TypeError('`message` must be a string. A handler of a button is `() => client.stream(text)`, as it is given an event.');
}

/** A copy, so that a start that is repeated is the same. @template T @param {T} json @returns {T} */
const plain = (json) => json && JSON.parse(JSON.stringify(json));

/** True if `fetch` here hands out a body while it comes. React Native's does not, and Jest's pages have none. */
const streams = () => 'body' in (globalThis.Response?.prototype ?? {});

/**
 * One server, and runs on it. `Custom` has the data of its agents' own event types by their names.
 * @template {object} [Custom=object]
 */
export class Client {
  #api;
  #sockets;
  #connects;
  #transport;
  /** @type {Shared} */ #shared;
  #closed = new AbortController();

  /** @param {ClientOptions} options */
  constructor(options) {
    check(options, RULES.client);
    const { WebSocket = globalThis.WebSocket, EventSource = globalThis.EventSource, muted = 3_000 } = options;
    const url = address(options.url);
    const api = new Api({
      url: () => url ?? ofPage(),
      token: options.token,
      headers: options.headers ?? {},
      fetch: options.fetch ?? ((...request) => fetch(...request)),
      streams: options.fetch !== undefined || streams(),
      credentials: options.credentials,
      timeout: options.timeout ?? 10_000,
      heartbeat: options.heartbeat ?? 15_000,
      backoff: backoff(options.retry),
    });
    const sockets = WebSocket && new Sockets(api, WebSocket);
    this.#api = api;
    this.#sockets = sockets;
    this.#shared = { api, runs: new Set(), commands: new Commands(api, sockets, this.#closed.signal) };
    /** @type {Connect | undefined} */
    const sse = api.streams ? (at, signal) => connectSse(api, at, signal) : undefined;
    /** @type {Connect | undefined} */
    const ws = sockets && ((at, signal) => connectWs(sockets, at, signal));
    /** @type {Connect | undefined} */
    const eventsource = EventSource && ((at, signal) => connectEventSource(api, EventSource, at, signal));
    const socketFirst = () => inBrowser() && api.url.startsWith('http:');
    const either =
      sockets && auto((...args) => connectSse(api, ...args), (...args) => connectWs(sockets, ...args), muted, socketFirst);
    /** @type {Record<Transport, Connect | undefined>} */
    this.#connects = { auto: either ?? sse, sse, ws, eventsource };
    this.#transport = options.transport ?? 'auto';
  }

  /** Starts a run and follows it. @param {string} message @param {StartOptions} [options] @returns {Run<Custom>} */
  stream(message, options = {}) {
    checkMessage(message);
    check(options, RULES.stream);
    const { agent, userId, sessionId, onDisconnect, interrupt, traceparent, params, metadata, parts } = options;
    const start = {
      message,
      agent,
      user_id: userId,
      session_id: sessionId,
      on_disconnect: onDisconnect,
      idempotency_key: options.idempotencyKey ?? randomKey(),
      traceparent,
      params: plain(params),
      metadata: plain(metadata),
      parts: plain(parts),
      interrupt,
    };
    return this.#run(new Position({ start, types: options.types ?? null }), options);
  }

  /**
   * Follows a run from the event after `after`, a number or an event's id; or, with `snapshot`, from the state that
   * its events so far come to, which `run.snapshot` then has.
   * @param {string} runId @param {AttachOptions} [options] @returns {Run<Custom>}
   */
  attach(runId, options = {}) {
    checkId(runId);
    check(options, RULES.attach);
    const after = checkAfter(options.after ?? 0, runId);
    return this.#run(new Position({ runId, after, types: options.types ?? null }), options);
  }

  /**
   * Asks the server about a run.
   * @param {string} runId @param {AbortSignal} [signal] @returns {Promise<RunInfo>}
   */
  async get(runId, signal = NEVER) {
    return /** @type {RunInfo} */ (await this.#ask(`/runs/${checkRunId(runId)}`, signal));
  }

  /** Cancels a run: `accepted` or `already_finished`. @param {string} runId @returns {Promise<string>} */
  async cancel(runId) {
    this.#check();
    return this.#shared.commands.cancel(checkRunId(runId));
  }

  /**
   * Answers a question of a run, as `Run.answer` does.
   * @param {string} runId @param {string} inputId @param {unknown} value @param {SayOptions} [options] @returns {Promise<Acknowledgement>}
   */
  async answer(runId, inputId, value, options) {
    this.#check();
    return this.#shared.commands.answer(checkRunId(runId), inputId, value, options);
  }

  /**
   * Says something to a run while it goes on, as `Run.send` does.
   * @param {string} runId @param {string} content @param {SayOptions} [options] @returns {Promise<Acknowledgement>}
   */
  async send(runId, content, options) {
    this.#check();
    return this.#shared.commands.send(checkRunId(runId), content, options);
  }

  /**
   * The user's newest runs, the newest first, each as `get` gives it but without its result. `userId` names the user
   * if the server authenticates nobody; `limit` is 20 by default.
   * @param {{userId?: string | undefined, limit?: number | undefined, signal?: AbortSignal | undefined}} [of]
   * @returns {Promise<RunInfo[]>}
   */
  async runs(of = {}) {
    check(of, RULES.runs);
    const { userId, limit = 20, signal = NEVER } = of;
    const query = new URLSearchParams({ limit: String(limit), ...(userId !== undefined && { user_id: userId }) });
    const { runs } = await this.#ask(`/runs?${query}`, signal);
    if (!Array.isArray(runs)) throw new ProtocolError("The server's answer is not a list of runs.");
    return runs;
  }

  /** Closes all runs and the socket. A call that waits for an answer, and each later one, throws a `TypeError`. */
  close() {
    this.#closed.abort(new TypeError('The client is closed.'));
    for (const run of this.#shared.runs) run.close();
    this.#sockets?.close();
  }

  /** For `await using`. */
  async [Symbol.asyncDispose]() {
    this.close();
  }

  /** Throws `TypeError` if it is closed. */
  #check() {
    this.#closed.signal.throwIfAborted();
  }

  /** As patient as a run. @param {string} path @param {AbortSignal} signal */
  async #ask(path, signal) {
    this.#check();
    const watch = new Watch(signal, this.#closed.signal);
    try {
      return await this.#api.ask('GET', path, watch.signal);
    } finally {
      watch.close();
    }
  }

  /** @param {Position} at @param {AttachOptions} options @returns {Run<Custom>} */
  #run(at, options) {
    this.#check();
    options.signal?.throwIfAborted();
    const { runId } = at;
    if (runId !== null && !isRunId(runId)) return new Run(this.#shared, () => Promise.reject(unknown()), at, {});
    return new Run(this.#shared, this.#connect(options.transport), at, options);
  }

  /** @param {Transport} [transport] */
  #connect(transport = this.#transport) {
    const connect = this.#connects[transport];
    if (connect) return connect;
    throw new TypeError(`\`transport\` is ${transport}, which needs ${NEEDS[transport]}. Give one as an option.`);
  }
}

/**
 * Makes a client. It asks for nothing until a run is started or followed.
 * @template {object} [Custom=object]
 * @param {ClientOptions} [options]
 * @returns {Client<Custom>}
 */
export const createClient = (options = {}) => new Client(options);

/** The rules of what a program gives to the client: a bad option is a `TypeError` where it is given, which names it. */

import { camel } from './errors.js';
import { isEventType, isObject } from './events.js';

/** The words for an option's values, and a test of one. @typedef {[string, (value: any) => unknown]} Rule */
/** @typedef {Record<string, Rule>} Rules */

/** The most ms that a timer takes. */
const MAX_MS = 2 ** 31 - 1;
const MAX_TYPES = 32;
const MAX_TYPE = 64;

/** @param {string} url */
function parse(url) {
  try {
    return new URL(url);
  } catch {
    return null;
  }
}

/** The base of all addresses, or null if this is none. @param {unknown} url */
export function address(url) {
  const parsed = typeof url === 'string' ? parse(url) : null;
  if (parsed?.protocol !== 'http:' && parsed?.protocol !== 'https:') return null;
  return parsed.origin + parsed.pathname.replace(/\/+$/, '');
}

/** True if this can stand in a header. @param {unknown} text */
export const isToken = (text) => typeof text === 'string' && /^[ -~]*[!-~][ -~]*$/.test(text);

/** @param {HeadersInit} headers */
function areHeaders(headers) {
  try {
    return typeof headers === 'object' && new Headers(headers);
  } catch {
    return false;
  }
}

/** @param {string} type @returns {(value: unknown) => boolean} */
const is = (type) => (value) => typeof value === type;
/** @param {string[]} names @returns {Rule} */
const oneOf = (...names) => [`one of ${names.join(', ')}`, (name) => names.includes(name)];
/** @type {Rule} */
const TEXT = ['a string that is not empty', (text) => text !== '' && is('string')(text)];
/** @type {Rule} */
const FLAG = ['true or false', is('boolean')];
/** @type {Rule} */
const FUNCTION = ['a function', is('function')];
/** @type {Rule} */
const TIMER = ['a number of ms above 0, and at most 2^31 - 1', (ms) => is('number')(ms) && ms > 0 && ms <= MAX_MS];
/** @type {Rule} */
const MS = ['a number of ms that is not negative', (ms) => is('number')(ms) && ms >= 0];
/** @type {Rule} */
const COUNT = ['a whole number above 0', (count) => count === Infinity || (Number.isInteger(count) && count > 0)];
/** @type {Rule} */
const SIGNAL = ['an AbortSignal', (signal) => typeof signal?.aborted === 'boolean'];
const TRANSPORT = oneOf('auto', 'sse', 'ws', 'eventsource');

/** @type {Rules} */
const FOLLOW = {
  transport: TRANSPORT,
  types: ['a list of event types such as LLM_CHUNK', (types) => Array.isArray(types)
    && types.length > 0 && types.length <= MAX_TYPES && types.every((type) => isEventType(type) && type.length <= MAX_TYPE)],
  signal: SIGNAL,
  cancelOnAbort: FLAG,
};
/** @type {Rules} */
const RETRY = {
  base: MS, cap: MS, attempts: COUNT, first: COUNT, patience: MS, maxWait: MS, insists: FLAG, random: FUNCTION,
};

/** The options of each call. */
export const RULES = /** @satisfies {Record<string, Rules>} */ ({
  client: {
    url: ['an address that begins with http:// or https://, such as http://127.0.0.1:8000', address],
    transport: TRANSPORT,
    token: ['a string in ASCII without control characters, or a function that gives one',
      (token) => is('function')(token) || isToken(token)],
    headers: ['an object of names and values that HTTP allows', areHeaders],
    credentials: oneOf('omit', 'same-origin', 'include'),
    timeout: TIMER,
    heartbeat: TIMER,
    muted: TIMER,
    retry: ['an object', (retry) => check(retry, RETRY, 'retry.')],
    fetch: FUNCTION,
    WebSocket: FUNCTION,
    EventSource: FUNCTION,
  },
  stream: {
    ...FOLLOW, agent: TEXT, userId: TEXT, sessionId: TEXT,
    onDisconnect: ['continue, cancel or cancel_after:<seconds>',
      (policy) => /^(continue|cancel|cancel_after:\d{1,6}(\.\d{1,3})?)$/.test(policy)],
    interrupt: FLAG, idempotencyKey: TEXT, traceparent: TEXT,
    params: ['an object', isObject],
    metadata: ['an object of strings', (labels) => isObject(labels) && Object.values(labels).every(is('string'))],
    parts: ['a list of parts', (parts) => Array.isArray(parts) && parts.every(isObject)],
  },
  attach: { ...FOLLOW, after: ['the number of an event, or its id', (after) => is('number')(after) || is('string')(after)], snapshot: FLAG },
  runs: { userId: TEXT, limit: COUNT, signal: SIGNAL },
  say: { messageId: TEXT },
});

/** The names that options have in the Python client, and here. @type {Record<string, string>} */
const RENAMED = {
  first_attempts: 'retry.first', max_attempts: 'retry.attempts', max_wait: 'retry.maxWait', patience: 'retry.patience',
  backoff: 'retry', on_retry: "run.on('retry', …)", http_client: 'fetch',
};

/** A value as a message may show it. @param {unknown} value */
function shown(value) {
  if (value === undefined || value === null || typeof value === 'number') return String(value);
  return typeof value === 'string' ? JSON.stringify(value.slice(0, 60)) : `of the type ${typeof value}`;
}

/**
 * True if these are such options. Throws `TypeError` if one of them is not.
 * @param {unknown} given @param {Rules} rules @param {string} [path]  of the object that they are in
 */
export function check(given, rules, path = '') {
  const names = Object.keys(rules);
  if (typeof given !== 'object' || given === null) {
    throw new TypeError(`${path ? `\`${path.slice(0, -1)}\`` : 'The options'} must be an object, such as \`{ ${names[0]}: … }\`, not ${shown(given)}.`);
  }
  for (const [name, value] of Object.entries(given)) {
    if (!names.includes(name)) {
      const right = RENAMED[name] ?? [camel(name)].find((known) => names.includes(known));
      throw new TypeError(`\`${path}${name}\` is not an option. ${right ? `It is \`${right}\` here.` : `Options are ${names.join(', ')}.`}`);
    }
    const [said, good] = rules[name];
    if (value !== undefined && !good(value)) {
      throw new TypeError(`\`${path}${name}\` must be ${said}${name === 'token' ? '' : `, not ${shown(value)}`}.`);
    }
  }
  return true;
}

/** The id of a run. Throws `TypeError` if it is none at all. @param {unknown} runId */
export function checkId(runId) {
  if (is('string')(runId) && runId !== '') return;
  throw new TypeError(`\`runId\` must be the id of a run, not ${shown(runId)}. \`await run.started\` gives it once it is known.`);
}

/** The names that `run.on` knows, beside the types of events. */
const HEARD = ['event', 'status', 'snapshot', 'retry', 'input'];

/** Throws `TypeError` for a type that is never told, and for no function. @param {string} type @param {unknown} listener */
export function checkListener(type, listener) {
  if (!HEARD.includes(type) && !isEventType(type)) {
    const said = `an event's, such as LLM_CHUNK, or one of ${HEARD.join(', ')}`;
    throw new TypeError(`\`type\` must be ${said}, not ${shown(type)}. \`run.result\` tells of an error, and of the end.`);
  }
  if (!is('function')(listener)) throw new TypeError(`\`listener\` must be a function, not ${shown(listener)}.`);
}

/** The events of PROTOCOL.md, section 1: their types, their ids, and the check that something is one. Pure. */

import { ProtocolError } from './errors.js';

/**
 * @template {string} T
 * @template {object} D
 * @typedef {{type: T, data: D, timestamp: string, metadata: {step?: number, events?: number, unread?: string[],
 *   [key: string]: unknown}, id: string}} EventOf
 */
/**
 * @typedef {{prompt_tokens: number, completion_tokens: number, total_tokens: number, cached_tokens?: number,
 *   reasoning_tokens?: number, voided_tokens?: number}} Usage
 */
/** @typedef {'completed' | 'incomplete' | 'cancelled' | 'max_steps'} FinishStatus */
/** Who or what ended a run from outside. @typedef {'user' | 'nobody_followed' | 'deadline' | 'shutdown'} EndReason */
/**
 * The form of an answer: one value, or an object of such (PROTOCOL.md, section 10).
 * @typedef {{type: 'string' | 'number' | 'integer' | 'boolean', title?: string, description?: string, default?: unknown,
 *   enum?: string[], minLength?: number, maxLength?: number, format?: 'email' | 'uri' | 'date' | 'date-time',
 *   minimum?: number, maximum?: number}} ValueSchema
 */
/**
 * @typedef {ValueSchema | {type: 'object', properties: Record<string, ValueSchema>, required?: string[], title?: string,
 *   description?: string, default?: unknown}} AnswerSchema
 */
/**
 * A question of a run; an approval is of a tool call.
 * @typedef {{input_id: string, kind: 'approval' | 'question', prompt: string, schema?: AnswerSchema, expires_at?: string,
 *   tool_call_id?: string, tool_name?: string, parameters?: Record<string, unknown>}} QuestionData
 */

/**
 * An event of one of the protocol's own types, or of one of `Custom`, which has the data of an agent's own types by
 * their names, as in `{LIFT_OFF: {asked: string}}`. `switch (event.type)` narrows `event.data`.
 * @template {object} [Custom=object]
 * @typedef {EventOf<'AGENT_START', {input: unknown, config: Record<string, unknown>, max_steps: number | null}>
 *   | EventOf<'STEP_START', {step: number, max_steps: number}>
 *   | EventOf<'STEP_FINISH', {step: number, action: 'tool_calls' | 'answer'}>
 *   | EventOf<'THINKING', {content: string}>
 *   | EventOf<'LLM_CHUNK', {content: string, delta: string}>
 *   | EventOf<'TOOL_CALL_START', {tool_call_id: string, tool_name: string, parameters: Record<string, unknown>}>
 *   | EventOf<'TOOL_CALL_FINISH', {tool_call_id: string, tool_name: string, result: unknown, status: 'ok' | 'error',
 *       duration: number}>
 *   | EventOf<'PROGRESS', {progress: number, step: number, total: number}>
 *   | EventOf<'INPUT_REQUESTED', QuestionData>
 *   | EventOf<'INPUT_ANSWERED', {input_id: string, answer?: unknown, message_id?: string, by?: string, expired?: true}>
 *   | EventOf<'USER_MESSAGE', {content: string, message_id: string, by?: string}>
 *   | EventOf<'RUN_RESUMED', {epoch: number, step: number | null, void_after: number | null, text?: string,
 *       thinking?: string}>
 *   | EventOf<'AGENT_FINISH', {result: string, duration: number, status: FinishStatus, usage: Usage,
 *       finish_reason?: string, reason?: EndReason}>
 *   | EventOf<'ERROR', {error_type: string, message: string, error: string, retry_after?: number,
 *       usage?: Usage, reason?: EndReason}>
 *   | {[T in keyof Custom & string]: EventOf<T, Extract<Custom[T], object>>}[keyof Custom & string]} StreamEvent
 */
/** An event of a type that `Custom` does not name. @typedef {EventOf<string, Record<string, any>>} CustomEvent */
/** @typedef {Extract<StreamEvent, {type: 'AGENT_FINISH' | 'ERROR'}>} TerminalEvent */

/** The protocol's own types: EventSource hands out only those that one names. */
export const EVENT_TYPES = Object.freeze([
  'AGENT_START', 'STEP_START', 'STEP_FINISH', 'THINKING', 'LLM_CHUNK', 'TOOL_CALL_START', 'TOOL_CALL_FINISH',
  'PROGRESS', 'INPUT_REQUESTED', 'INPUT_ANSWERED', 'USER_MESSAGE', 'RUN_RESUMED', 'AGENT_FINISH', 'ERROR',
]);

/** The types of questions to the user, their answers, and messages to the run. @type {ReadonlySet<string>} */
export const INPUT_TYPES = new Set(['INPUT_REQUESTED', 'INPUT_ANSWERED', 'USER_MESSAGE']);

const RUN_ID = /^[a-z2-7]{26}$/;
const TYPE = /^[A-Z][A-Z0-9_]*$/;

/** Whether the event is its run's last. @param {{type: string}} event @returns {event is TerminalEvent} */
export const isTerminal = (event) => event.type === 'AGENT_FINISH' || event.type === 'ERROR';

/** @param {unknown} text @returns {text is string} */
export const isRunId = (text) => typeof text === 'string' && RUN_ID.test(text);

/** @param {string} text */
export const isEventType = (text) => TYPE.test(text);

/**
 * The run and the number that an event's id names, or null if it is none or JavaScript cannot count so far.
 * @param {unknown} id
 * @returns {{runId: string, number: number} | null}
 */
export function parseEventId(id) {
  const [, runId, digits] = typeof id === 'string' ? (/^evt-([^-]+)-(0|[1-9][0-9]{0,18})$/.exec(id) ?? []) : [];
  const number = Number(digits);
  return isRunId(runId) && Number.isSafeInteger(number) ? { runId, number } : null;
}

/** The run that an event's id names, if it is one. @param {Record<string, any>} event */
export const runOf = ({ id }) => String(id).slice(4, 30);

/** @param {unknown} value @returns {value is Record<string, any>} */
export const isObject = (value) => typeof value === 'object' && value !== null && !Array.isArray(value);

/**
 * The JSON object in a text. Throws `ProtocolError`.
 * @param {string} text
 * @returns {Record<string, any>}
 */
export function parseObject(text) {
  let value;
  try {
    value = JSON.parse(text);
  } catch {
    // the next line tells
  }
  if (!isObject(value)) throw new ProtocolError('The server sent a message that is not a JSON object.');
  return value;
}

/**
 * The same, if it is an event. Throws `ProtocolError`.
 * @param {Record<string, any>} value
 * @returns {{event: StreamEvent, runId: string, number: number}}
 */
export function checkEvent(value) {
  const id = parseEventId(value.id);
  if (typeof value.type !== 'string' || !isEventType(value.type)) throw new ProtocolError('The server sent an event without a type.');
  if (!id) throw new ProtocolError('The server sent an event without an event id.');
  if (!isObject(value.data)) throw new ProtocolError('The server sent an event whose `data` is not an object.');
  if (!isObject(value.metadata)) throw new ProtocolError('The server sent an event whose `metadata` is not an object.');
  return { event: /** @type {StreamEvent} */ (value), ...id };
}

/** The questions that a run asks its user (PROTOCOL.md, section 10). */

import { isObject, isTerminal } from './events.js';

/** @import { Acknowledgement, SayOptions } from './commands.js' */
/** @import { AnswerSchema, QuestionData, StreamEvent } from './events.js' */
/** @typedef {(inputId: string, value: unknown, options?: SayOptions) => Promise<Acknowledgement>} Answer */

/** An object that is no other thing's, such as an event's. @param {unknown} value */
const isPlain = (value) => isObject(value) && [Object.prototype, null].includes(Object.getPrototypeOf(value));

/**
 * A question of a run: any, which `schema` says how to answer, or an `approval` of a tool call. What it does not have is
 * null. The methods can be handed on as they are.
 */
export class Question {
  #answer;

  /** @param {QuestionData} data @param {Answer} answer */
  constructor(data, answer) {
    this.#answer = answer;
    this.inputId = data.input_id;
    /** @type {'approval' | 'question'} */
    this.kind = data.kind;
    this.prompt = data.prompt;
    /** The form of an answer; without one it is a text. @type {AnswerSchema | null} */
    this.schema = data.schema ?? null;
    /** When it is closed without an answer (RFC 3339). @type {string | null} */
    this.expiresAt = data.expires_at ?? null;
    /** @type {string | null} */
    this.toolCallId = data.tool_call_id ?? null;
    /** @type {string | null} */
    this.toolName = data.tool_name ?? null;
    /** Those that the tool is to be called with. @type {Record<string, unknown> | null} */
    this.parameters = data.parameters ?? null;
  }

  /**
   * Answers it. Rejects with an `ApiError`, whose `field` is its path, if the answer does not fit.
   * @param {unknown} value @param {SayOptions} [options]
   */
  answer = (value, options) => this.#answer(this.inputId, value, options);

  /**
   * Approves the tool call, with other parameters if some are given.
   * @param {Record<string, unknown>} [parameters] @param {SayOptions} [options]
   */
  approve = async (parameters, options) => {
    if (parameters !== undefined && !isPlain(parameters)) {
      throw new TypeError('`approve` needs the parameters as an object. For a button, write onClick={() => question.approve()}.');
    }
    return this.answer({ decision: 'approve', ...(parameters && { parameters }) }, options);
  };

  /**
   * Rejects the tool call. The agent is told the reason, if there is one.
   * @param {string} [reason] @param {SayOptions} [options]
   */
  reject = async (reason, options) => {
    if (reason !== undefined && typeof reason !== 'string') {
      throw new TypeError('`reject` needs the reason as a text. For a button, write onClick={() => question.reject()}.');
    }
    return this.answer({ decision: 'reject', ...(reason && { reason }) }, options);
  };
}

/**
 * The questions of a run. They are told of once all that has come is taken in, so that of a run's past only those are
 * that are still open.
 */
export class Questions {
  /** The open ones, the oldest first: another list at each change. @type {readonly Question[]} */
  open = Object.freeze([]);
  /** @type {readonly Question[]} */ #untold = [];
  #answer;

  /** @param {Answer} answer */
  constructor(answer) {
    this.#answer = answer;
  }

  /** The open ones that were told of. */
  get told() {
    return this.open.filter((question) => !this.#untold.includes(question));
  }

  /** The open ones that are to be told of now. */
  tell() {
    const due = this.#untold.filter((question) => this.open.includes(question));
    this.#untold = [];
    return due;
  }

  /** Begins with these, of a snapshot. @param {readonly QuestionData[]} questions */
  begin(questions) {
    this.open = this.#untold = questions.map((data) => new Question(data, this.#answer));
  }

  /** Takes in the run's next event. @param {StreamEvent} event */
  apply(event) {
    const { type, data } = event;
    if (type === 'INPUT_REQUESTED' && typeof data.input_id === 'string') {
      if (this.open.some(({ inputId }) => inputId === data.input_id)) return; // asked once more
      const asked = new Question(data, this.#answer);
      this.open = [...this.open, asked];
      this.#untold = [...this.#untold, asked];
    } else if (type === 'INPUT_ANSWERED') {
      this.open = this.open.filter(({ inputId }) => inputId !== data.input_id);
    } else if (isTerminal(event)) {
      this.begin([]);
    }
  }
}

/** The questions that a run asks its user (PROTOCOL.md, section 10). */

import { isObject, isTerminal } from './events.js';

/** @import { Said } from './commands.js' */
/** @import { AnswerSchema, QuestionData, StreamEvent } from './events.js' */
/** @typedef {(inputId: string, value: unknown) => Promise<Said>} Answer */

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
   * @param {unknown} value
   */
  answer = (value) => this.#answer(this.inputId, value);

  /** Lets the tool be called, with other parameters if some are given. @param {Record<string, unknown>} [parameters] */
  approve = async (parameters) => {
    if (parameters !== undefined && !isPlain(parameters)) {
      throw new TypeError('`approve` needs the parameters as an object. For a button, write onClick={() => question.approve()}.');
    }
    return this.answer({ decision: 'approve', ...(parameters && { parameters }) });
  };

  /** Has the tool not called; the model is told the reason. @param {string} [reason] */
  reject = async (reason) => {
    if (reason !== undefined && typeof reason !== 'string') {
      throw new TypeError('`reject` needs the reason as a text. For a button, write onClick={() => question.reject()}.');
    }
    return this.answer({ decision: 'reject', ...(reason && { reason }) });
  };
}

/** Those of a run. */
export class Questions {
  /** The open ones, the oldest first: another list at each change. @type {readonly Question[]} */
  open = Object.freeze([]);
  #answer;

  /** @param {Answer} answer */
  constructor(answer) {
    this.#answer = answer;
  }

  /** These are the open ones. @param {readonly QuestionData[]} questions */
  begin(questions) {
    this.open = questions.map((data) => new Question(data, this.#answer));
  }

  /** Takes in the run's next event. Returns the question that it opens, if it opens one. @param {StreamEvent} event */
  apply(event) {
    const { type, data } = event;
    if (type === 'INPUT_REQUESTED') {
      const asked = new Question(data, this.#answer);
      this.open = [...this.open, asked];
      return asked;
    }
    if (type === 'INPUT_ANSWERED') this.open = this.open.filter(({ inputId }) => inputId !== data.input_id);
    else if (isTerminal(event)) this.begin([]);
    return null;
  }
}

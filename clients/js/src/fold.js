/**
 * The state of a run so far, folded from its events: what `GET /runs/{run_id}/snapshot` gives. Pure, and total: an odd
 * event of somebody's own agent changes what can be read from it and never throws. It does not check the order.
 */

import { INPUT_TYPES, isObject } from './events.js';

/** @import { QuestionData, Usage } from './events.js' */

/**
 * `text` and `thinking` are of the current step; `tools` are the open calls by id, `questions` the open ones, oldest
 * first; `waiting` is true if nothing can come of the run before an answer. What is unknown is null.
 * @typedef {{text: string, thinking: string, step: number | null, max_steps: number | null, progress: number | null,
 *   tools: Record<string, {name: string, parameters: Record<string, unknown>}>, usage: Usage | null,
 *   status: 'running' | 'completed' | 'incomplete' | 'cancelled' | 'max_steps' | 'error', result: unknown,
 *   error_type: string | null, error: string | null, reason: string | null, questions: QuestionData[],
 *   waiting: boolean}} State
 */

/** The first of these that is a text. @param {unknown[]} values */
const text = (...values) => /** @type {string | undefined} */ (values.find((value) => typeof value === 'string'));

/** @param {unknown} value @param {number | null} otherwise */
const count = (value, otherwise) => (Number.isInteger(value) ? /** @type {number} */ (value) : otherwise);

/** Open tool calls, without the names that an object has. @param {State['tools'][]} calls @returns {State['tools']} */
const table = (...calls) => Object.assign(Object.create(null), ...calls);

/** The id of the tool call that a question is about, if it is an approval. @param {Record<string, any>} question */
const callOf = (question) => (question['kind'] === 'approval' ? text(question['tool_call_id']) : undefined);

const ENDED = ['incomplete', 'cancelled', 'max_steps'];

export class Fold {
  /** @type {State} */
  state = {
    text: '', thinking: '', step: null, max_steps: null, progress: null, tools: table(), usage: null,
    status: 'running', result: null, error_type: null, error: null, reason: null,
    questions: [], waiting: false,
  };
  /**
   * Nothing but input and ends of tool calls has come since the newest question. A snapshot does not tell that while a
   * call is at work beside it; then it is taken to be so.
   */
  #quiet = false;

  /** Goes on from a snapshot's state, if there is one. @param {State} [state] */
  constructor(state) {
    if (!state) return;
    this.state = { ...this.state, ...state, tools: table(state.tools) };
    this.#quiet = this.state.waiting || !this.#covered();
  }

  /** Takes in the run's next event; after the terminal event nothing changes. @param {{type: string, data: unknown}} event */
  apply({ type, data: given }) {
    const { state } = this;
    const data = isObject(given) ? given : {};
    if (state.status !== 'running') return;
    if (INPUT_TYPES.has(type)) {
      this.#hear(type, data);
      this.#wait();
      return;
    }
    if (type === 'RUN_RESUMED' && count(data['void_after'], null) === null) return; // all counts
    this.#quiet &&= type === 'TOOL_CALL_FINISH';
    state.waiting = false;
    switch (type) {
      case 'LLM_CHUNK':
        state.text += text(data['content'], data['delta']) ?? '';
        break;
      case 'THINKING':
        state.thinking += text(data['content']) ?? '';
        break;
      case 'STEP_START':
        state.text = state.thinking = '';
        state.step = count(data['step'], state.step);
        state.max_steps = count(data['max_steps'], state.max_steps);
        break;
      case 'AGENT_START':
        state.max_steps = count(data['max_steps'], state.max_steps);
        break;
      case 'TOOL_CALL_START':
        this.#open(data);
        break;
      case 'TOOL_CALL_FINISH':
        this.#close(data);
        this.#wait();
        break;
      case 'PROGRESS':
        if (typeof data['progress'] === 'number' && data['progress'] >= 0 && data['progress'] <= 100) {
          state.progress = data['progress'];
        }
        break;
      case 'RUN_RESUMED':
        state.tools = table();
        state.text = text(data['text']) ?? '';
        state.thinking = text(data['thinking']) ?? '';
        break;
      case 'AGENT_FINISH':
      case 'ERROR':
        state.questions = [];
        state.tools = table();
        state.usage = isObject(data['usage']) ? /** @type {Usage} */ (data['usage']) : null;
        state.reason = text(data['reason']) ?? null;
        if (type === 'ERROR') {
          state.status = 'error';
          state.error_type = text(data['error_type']) ?? 'agent_error';
          state.error = text(data['message'], data['error']) ?? '';
        } else {
          state.status = ENDED.includes(data['status']) ? data['status'] : 'completed';
          state.result = data['result'] ?? null;
        }
        break;
    }
  }

  /** A new `questions` each time, as of `tools`. @param {string} type @param {Record<string, any>} data */
  #hear(type, data) {
    const { state } = this;
    const id = text(data['input_id']);
    const asked = state.questions.find((question) => question.input_id === id);
    const others = state.questions.filter((question) => question !== asked);
    if (type === 'INPUT_REQUESTED' && id !== undefined) {
      state.questions = [...others, /** @type {QuestionData} */ (data)];
      this.#quiet = true;
    } else if (type === 'INPUT_ANSWERED' && asked) {
      state.questions = others;
      this.#edit(callOf(asked), data['answer']);
    }
  }

  /** Has an open tool call, which was approved with other parameters, show those. @param {string | undefined} id @param {unknown} answer */
  #edit(id, answer) {
    const call = id === undefined ? undefined : this.state.tools[id];
    if (id === undefined || !call || !isObject(answer) || !isObject(answer['parameters'])) return;
    this.state.tools = table(this.state.tools, { [id]: { ...call, parameters: answer['parameters'] } });
  }

  /** Finds out whether the run waits: each open call must have a question of its own. */
  #wait() {
    const { state } = this;
    state.waiting = this.#quiet && state.questions.length > 0 && this.#covered();
  }

  /** True if each open tool call has an open approval. */
  #covered() {
    const asked = new Set(this.state.questions.map(callOf));
    return Object.keys(this.state.tools).every((id) => asked.has(id));
  }

  /** A new `tools` each time, so that who keeps the old one sees the difference. @param {Record<string, unknown>} data */
  #open({ tool_call_id: id, tool_name: name, parameters }) {
    if (typeof id !== 'string') return;
    const call = { name: text(name) ?? '', parameters: isObject(parameters) ? parameters : {} };
    this.state.tools = table(this.state.tools, { [id]: call });
  }

  /** @param {Record<string, unknown>} data */
  #close({ tool_call_id: id }) {
    const left = table(this.state.tools);
    delete left[text(id) ?? ''];
    this.state.tools = left;
  }
}

/**
 * One question and its answer in the output pane. Whatever a model or a tool says becomes text nodes and nothing else.
 */

/** @import { StreamEvent } from './connection.js' */

const MAX_SHORT = 90;

/** @param {number} seconds */
export const seconds = (seconds) => (seconds < 1 ? `${Math.round(seconds * 1000)} ms` : `${seconds.toFixed(1)} s`);

/** One line, of a bounded length. @param {string} text */
function short(text) {
  const line = text.replace(/\s+/g, ' ').trim();
  return line.length > MAX_SHORT ? `${line.slice(0, MAX_SHORT - 1)}…` : line;
}

/** @param {Record<string, unknown>} parameters */
function shortParameters(parameters) {
  const shown = Object.entries(parameters ?? {}).map(
    ([name, value]) => `${name}: ${typeof value === 'string' ? value : JSON.stringify(value)}`,
  );
  return short(shown.join(', '));
}

/** @param {string} tag @param {string} className @param {string} text */
function element(tag, className, text = '') {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = text;
  return made;
}

export class Turn {
  element = element('article', 'turn');
  /** The text that grows, until something else comes between. @type {{kind: string, text: Text} | null} */ #growing = null;
  /** Where the result of each open tool call goes. @type {Map<string, HTMLElement>} */ #open = new Map();
  #answered = false;

  /** @param {string} question */
  constructor(question) {
    this.#add('p', 'question', question);
  }

  /** @param {StreamEvent} event */
  show({ type, data }) {
    switch (type) {
      case 'STEP_START':
        this.#add('p', 'step', `Step ${data.step}${data.max_steps ? ` of ${data.max_steps}` : ''}`);
        break;
      case 'THINKING':
        this.#grow('thinking', data.content);
        break;
      case 'LLM_CHUNK':
        this.#answered = true;
        this.#grow('answer', data.content);
        break;
      case 'TOOL_CALL_START':
        this.#toolStarted(data);
        break;
      case 'TOOL_CALL_FINISH':
        this.#toolFinished(data);
        break;
      case 'AGENT_FINISH':
        if (!this.#answered && typeof data.result === 'string') this.#grow('answer', data.result);
        break;
      case 'ERROR':
        this.fail(data.message ?? data.error);
        break;
    }
  }

  /** @param {string} message */
  fail(message) {
    this.#add('p', 'error', message);
  }

  /** Nothing more comes: says how it ended. @param {string} outcome */
  end(outcome) {
    for (const result of this.#open.values()) result.textContent = 'not finished';
    this.#open.clear();
    this.#add('p', 'outcome', outcome);
  }

  /** @param {Record<string, any>} data */
  #toolStarted({ tool_call_id, tool_name, parameters }) {
    const line = this.#add('p', 'tool');
    const result = element('span', 'result', '…');
    line.append(element('b', 'name', tool_name), ' ', element('span', 'parameters', shortParameters(parameters)), ' ', result);
    this.#open.set(tool_call_id, result);
  }

  /** @param {Record<string, any>} data */
  #toolFinished({ tool_call_id, status, duration, result: said }) {
    const result = this.#open.get(tool_call_id);
    if (!result) return;
    this.#open.delete(tool_call_id);
    const failed = status === 'error';
    const facts = [failed ? 'failed' : 'ok'];
    if (typeof duration === 'number') facts.push(seconds(duration));
    if (failed && said) facts.push(short(String(said)));
    result.classList.add(facts[0]);
    result.textContent = facts.join(' · ');
  }

  /** @param {string} kind @param {string} text */
  #grow(kind, text) {
    if (this.#growing?.kind !== kind) {
      const block = this.#add('p', kind);
      this.#growing = { kind, text: block.appendChild(document.createTextNode('')) };
    }
    this.#growing.text.appendData(text); // not `textContent +=`, which copies all of it for every token
  }

  /** @param {string} tag @param {string} className @param {string} text */
  #add(tag, className, text = '') {
    this.#growing = null;
    const made = element(tag, className, text);
    this.element.append(made);
    return made;
  }
}

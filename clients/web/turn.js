/** One question and its answer: what the run's events look like. It measures nothing and knows no connection. */

import { button, copy, duration, element, line, readable } from './dom.js';
import { Markdown } from './markdown.js';

/** @import { StreamEvent } from '/client/index.js' */

/**
 * What grows until something else comes between.
 * @typedef {{add: (text: string) => void, draw: (deadline: number) => boolean}} Growing
 */

const TAIL = 120;
const NOTABLE_MS = 100;

/** The model's reasoning, folded; its last words show while it goes on. */
class Thinking {
  element = element('details', 'thinking');
  #label = element('span', 'label', 'Thinking');
  #latest = element('span', 'latest');
  #text = document.createTextNode('');
  #waiting = '';
  #began;

  /** @param {number} at */
  constructor(at) {
    this.#began = at;
    const text = element('p', 'text', this.#text);
    text.dir = 'auto';
    this.element.append(element('summary', '', this.#label, this.#latest), text);
  }

  /** @param {string} text */
  add(text) {
    this.#waiting += text;
  }

  draw() {
    if (this.#waiting) {
      this.#text.appendData(this.#waiting); // not `textContent +=`, which copies all of it
      this.#latest.textContent = this.#text.data.slice(-TAIL);
      this.#waiting = '';
    }
    return true;
  }

  /** @param {number} at */
  close(at) {
    this.draw();
    const took = at - this.#began;
    this.#label.textContent = took < NOTABLE_MS ? 'Thought' : `Thought for ${duration(took)}`;
    this.#latest.remove();
  }
}

/** A tool call: folded, a line that tells what was asked and how it went; unfolded, all of it. */
class Tool {
  element = element('details', 'tool');
  #outcome = element('span', 'outcome', 'running');

  /** @param {string} name @param {Record<string, unknown>} parameters */
  constructor(name, parameters) {
    const asked = Object.entries(parameters ?? {}).map(([key, value]) => `${key}: ${readable(value)}`);
    const summary = element('summary', '', element('b', 'name', name), ' ', element('code', '', line(asked.join(', '))));
    summary.append(' ', this.#outcome);
    this.element.append(summary, ...part('Parameters', readable(parameters)));
    this.element.dataset.state = 'running';
  }

  /** @param {{status: string, duration?: unknown, result?: unknown}} finish */
  finish({ status, duration: took, result }) {
    const failed = status !== 'ok';
    const time = typeof took === 'number' ? [duration(took * 1000)] : [];
    this.#outcome.textContent = [failed ? 'failed' : 'ok', ...time].join(' · ');
    this.element.dataset.state = failed ? 'failed' : 'ok';
    this.element.append(...part(failed ? 'Error' : 'Result', readable(result)));
  }

  /** Its result never came. */
  abandon() {
    this.#outcome.textContent = 'not finished';
    this.element.dataset.state = 'abandoned';
  }
}

/** @param {string} title @param {string} text */
function part(title, text) {
  const pre = element('pre', '', text);
  pre.tabIndex = 0; // it scrolls
  return [element('p', 'part', title), pre];
}

/** An event of a type that only its agent knows. @param {string} type @param {unknown} data */
const note = (type, data) => element('details', 'note', element('summary', '', type), element('pre', '', readable(data)));

/** The increment, whichever of the two an agent of somebody's own has sent. @param {{content?: unknown, delta?: unknown}} data */
const words = ({ content, delta }) => [content, delta].find((value) => typeof value === 'string') ?? '';

export class Turn {
  element = element('article', 'turn');
  /** The answer as the model wrote it. */ answer = '';
  #heading = element('h2', 'question');
  #flow = element('div', 'flow');
  /** @type {Thinking | null} */ #thinking = null;
  /** @type {Markdown | null} */ #markdown = null;
  /** Those that may have something to draw. @type {Set<Growing>} */ #growing = new Set();
  /** @type {Map<string, Tool>} */ #open = new Map();

  /** @param {string | null} question  null if only the run knows it */
  constructor(question) {
    this.question = question ?? '';
    this.#heading.dir = 'auto';
    this.#heading.textContent = this.question;
    this.element.append(this.#heading, this.#flow);
  }

  /** @param {StreamEvent} event */
  show({ type, data, timestamp }) {
    const at = Date.parse(timestamp);
    switch (type) {
      case 'AGENT_START':
        if (!this.question && typeof data.input === 'string') this.#heading.textContent = this.question = data.input;
        break;
      case 'STEP_START':
        this.#add(at, element('p', 'step', `Step ${data.step}${data.max_steps ? ` of ${data.max_steps}` : ''}`));
        break;
      case 'THINKING':
        this.#thinking ??= this.#grow(at, new Thinking(at));
        this.#thinking.add(words(data));
        break;
      case 'LLM_CHUNK':
        this.#say(at, words(data));
        break;
      case 'TOOL_CALL_START': {
        const tool = new Tool(data.tool_name, data.parameters);
        this.#open.set(data.tool_call_id, tool);
        this.#add(at, tool.element);
        break;
      }
      case 'TOOL_CALL_FINISH':
        this.#open.get(data.tool_call_id)?.finish(data);
        this.#open.delete(data.tool_call_id);
        break;
      case 'AGENT_FINISH':
        if (!this.answer && typeof data.result === 'string') this.#say(at, data.result);
        this.#close(at);
        break;
      case 'ERROR':
        this.#close(at);
        this.fail(data.message ?? data.error);
        break;
      case 'STEP_FINISH':
      case 'PROGRESS':
        break;
      default: // an agent's own
        this.#add(at, note(type, data));
    }
  }

  /** Draws what came, as far as there is time; returns whether that is all. @param {number} deadline */
  draw(deadline) {
    for (const growing of this.#growing) {
      if (!growing.draw(deadline)) return false;
      if (growing !== this.#markdown && growing !== this.#thinking) this.#growing.delete(growing);
    }
    return true;
  }

  /** @param {string} message */
  fail(message) {
    this.#flow.append(element('p', 'error', message));
  }

  /** What was said of it that is no longer so. */
  reopen() {
    for (const said of this.element.querySelectorAll(':scope > .outcome, :scope > .flow > .error')) said.remove();
  }

  /**
   * Nothing more comes: says how it ended, and what one can do now.
   * @param {string} outcome @param {() => void} regenerate @param {string | null} url  of the run
   */
  end(outcome, regenerate, url) {
    for (const tool of this.#open.values()) tool.abandon();
    this.#open.clear();
    const footer = element('footer', 'outcome', element('span', 'facts', outcome));
    if (this.answer) footer.append(button('quiet', 'Copy', (self) => void copy(self, this.answer)));
    if (url) footer.append(button('quiet', 'Copy link', (self) => void copy(self, url)));
    footer.append(button('quiet', 'Regenerate', regenerate));
    this.element.append(footer);
  }

  /** @param {number} at @param {string} text */
  #say(at, text) {
    this.answer += text;
    this.#markdown ??= this.#grow(at, new Markdown());
    this.#markdown.add(text);
  }

  /** @template {Growing & {element: HTMLElement}} T @param {number} at @param {T} growing @returns {T} */
  #grow(at, growing) {
    this.#add(at, growing.element);
    this.#growing.add(growing);
    return growing;
  }

  /** @param {number} at @param {HTMLElement} child */
  #add(at, child) {
    this.#close(at);
    this.#flow.append(child);
  }

  /** What grew does so no more; it may not be drawn yet. @param {number} at */
  #close(at) {
    this.#thinking?.close(at);
    this.#markdown?.end();
    this.#thinking = this.#markdown = null;
  }
}

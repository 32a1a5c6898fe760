/** One question and its answer: what the run's events look like. It measures nothing and knows no connection. */

import { Ask } from './ask.js';
import { button, copy, duration, element, line, readable } from './dom.js';
import { Markdown } from './markdown.js';

/** @import { QuestionData, State, StreamEvent } from '/client/index.js' */
/** @typedef {(inputId: string, answer: unknown) => Promise<{status: string}>} Answer */
/**
 * The thing that an event began to show; `start` is the length of the answer before it.
 * @typedef {{child: HTMLElement, number: number, start: number}} Shown
 */

/**
 * The thing that grows until something else comes between.
 * @typedef {{add: (text: string) => void, draw: (deadline: number) => boolean}} Growing
 */

/** A result as Markdown: JSON in a block of code, if it is no text. @param {unknown} result */
function asMarkdown(result) {
  if (typeof result === 'string' || result === null || result === undefined) return result ?? '';
  return `\`\`\`json\n${readable(result)}\n\`\`\``;
}

/** The number of the event of this id. @param {string} id */
const numberOf = (id) => Number(id.split('-')[2]);

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
  #asked = element('code');
  #outcome = element('span', 'outcome');

  /** @param {string} name @param {Record<string, unknown>} parameters */
  constructor(name, parameters) {
    const summary = element('summary', '', element('b', 'name', name), ' ', this.#asked, ' ', this.#outcome);
    this.#asked.textContent = brief(parameters);
    this.element.append(summary, ...part('Parameters', readable(parameters)));
    this.#state('running');
  }

  /** @param {{status: string, duration?: unknown, result?: unknown}} finish */
  finish({ status, duration: took, result }) {
    const failed = status !== 'ok';
    const time = typeof took === 'number' ? [duration(took * 1000)] : [];
    this.#state(failed ? 'failed' : 'ok', ...time);
    this.element.append(...part(failed ? 'Error' : 'Result', readable(result)));
  }

  /** It may not begin yet. */
  hold() {
    this.#state('asking');
  }

  /** It begins, or has been rejected and will not. @param {unknown} decision @param {unknown} edited  the parameters */
  decide(decision, edited) {
    this.#state(decision === 'approve' ? 'running' : 'rejected');
    if (!edited) return;
    this.#asked.textContent = brief(edited);
    this.element.append(...part('Parameters as approved', readable(edited)));
  }

  /** Its result never came. */
  abandon() {
    this.#state('abandoned');
  }

  /** @param {keyof typeof TOOL_STATES} state @param {string[]} facts */
  #state(state, ...facts) {
    if (state === 'failed' && this.element.dataset.state === 'rejected') return;
    this.element.dataset.state = state;
    this.#outcome.textContent = [TOOL_STATES[state], ...facts].join(' · ');
  }
}

const TOOL_STATES = {
  running: 'running', asking: 'needs approval', rejected: 'rejected', ok: 'ok', failed: 'failed',
  abandoned: 'not finished',
};

/** @param {unknown} parameters */
function brief(parameters) {
  return line(Object.entries(parameters ?? {}).map(([key, value]) => `${key}: ${readable(value)}`).join(', '));
}

/** @param {string} title @param {string} text */
function part(title, text) {
  const pre = element('pre', '', text);
  pre.tabIndex = 0; // it scrolls
  return [element('p', 'part', title), pre];
}

/** An event of a type that only its agent knows. @param {string} type @param {unknown} data */
const note = (type, data) => element('details', 'note', element('summary', '', type), element('pre', '', readable(data)));

/** Where another process went on: what does not count, folded. @param {HTMLElement[]} lost */
function interruption(lost) {
  const said = 'Interrupted here; going on.';
  return lost.length ? element('details', 'void', element('summary', '', said), ...lost) : element('p', 'hint', said);
}

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
  /** The open questions, by their ids. @type {Map<string, Ask>} */ #asks = new Map();
  /** The user's messages meanwhile, by their ids. @type {Map<string, HTMLElement>} */ #said = new Map();
  /** All but what the user said. @type {Shown[]} */ #shown = [];
  /** The number of each event that told of the answer, and the answer's length after it. @type {[number, number][]} */ #lengths = [];
  /** The number of the event that is shown. */ #number = 0;
  /** The number of the last event that came only as part of a state. */ #restored = 0;
  #answer;

  /** @param {string | null} question  null if only the run knows it @param {Answer} answer */
  constructor(question, answer) {
    this.#answer = answer;
    this.question = question ?? '';
    this.#heading.dir = 'auto';
    this.#heading.textContent = this.question;
    this.element.append(this.#heading, this.#flow);
  }

  /** @param {StreamEvent} event @param {string} who  said it, if its user did: `you`, a name, or '' */
  show({ type, data, timestamp, metadata, id }, who) {
    const at = Date.parse(timestamp);
    this.#number = numberOf(id);
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
      case 'TOOL_CALL_START':
        this.#call(at, data.tool_call_id, new Tool(data.tool_name, data.parameters));
        break;
      case 'TOOL_CALL_FINISH':
        this.#open.get(data.tool_call_id)?.finish(data);
        this.#open.delete(data.tool_call_id);
        break;
      case 'INPUT_REQUESTED':
        this.#ask(data);
        break;
      case 'INPUT_ANSWERED':
        this.#answered(at, data, who);
        break;
      case 'USER_MESSAGE':
        this.#hear(data, who);
        break;
      case 'RUN_RESUMED':
        if (typeof data.void_after === 'number') this.#resume(at, data.void_after, data.text ?? '');
        break;
      case 'AGENT_FINISH':
        this.#conclude(at, asMarkdown(data.result));
        this.#close(at);
        this.#over(metadata.unread);
        break;
      case 'ERROR':
        this.#close(at);
        this.#over(metadata.unread);
        this.fail(data.message ?? data.error);
        break;
      case 'STEP_FINISH':
      case 'PROGRESS':
        break;
      default: // an agent's own
        this.#add(at, note(type, data));
    }
  }

  /** Shows what its events up to number `seq` came to, as they are not all kept. @param {State} state @param {number} seq */
  restore({ thinking, text, tools, questions, result, error }, seq) {
    const now = Date.now();
    this.#number = this.#restored = seq;
    this.#shown = [];
    this.#lengths = [];
    this.#flow.replaceChildren(element('p', 'hint', 'The server keeps the beginning of this run no longer.'));
    this.#growing.clear();
    this.#open.clear();
    this.#asks.clear();
    this.#thinking = this.#markdown = null;
    this.answer = '';
    if (thinking) (this.#thinking = this.#grow(now, new Thinking(now))).add(thinking);
    const said = text || asMarkdown(result);
    if (said) this.#say(now, said);
    for (const [id, { name, parameters }] of Object.entries(tools)) this.#call(now, id, new Tool(name, parameters));
    for (const question of questions) this.#ask(question);
    if (error) this.fail(error);
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
    this.#abandon();
    const footer = element('footer', 'outcome', element('span', 'facts', outcome));
    if (this.answer) footer.append(button('quiet', 'Copy', (self) => void copy(self, this.answer)));
    if (url) footer.append(button('quiet', 'Copy link', (self) => void copy(self, url)));
    footer.append(button('quiet', 'Regenerate', regenerate));
    this.element.append(footer);
  }

  /** No call that is open has a result. */
  #abandon() {
    for (const tool of this.#open.values()) tool.abandon();
    this.#open.clear();
  }

  /** Shows a card to answer; what grows goes on above it. @param {QuestionData} question */
  #ask(question) {
    const id = question.input_id;
    if (this.#asks.has(id)) return;
    const asked = new Ask(question, (answer) => this.#answer(id, answer));
    this.#asks.set(id, asked);
    this.#open.get(asked.callId ?? '')?.hold();
    this.#flow.append(asked.element);
  }

  /** @param {number} at @param {{input_id: string, answer?: any, expired?: boolean}} closing @param {string} who */
  #answered(at, closing, who) {
    const asked = this.#asks.get(closing.input_id);
    this.#asks.delete(closing.input_id);
    asked?.close({ ...closing, at }, who);
    this.#open.get(asked?.callId ?? '')?.decide(closing.answer?.decision, closing.answer?.parameters);
  }

  /**
   * Its user said something while the run went on; what grows goes on above it.
   * @param {{content: string, message_id: string}} message @param {string} who
   */
  #hear({ content, message_id: id }, who) {
    const text = element('p', 'text', content);
    text.dir = 'auto';
    const other = who && who !== 'you';
    const by = other ? element('p', 'who', who) : element('p', 'unseen', who ? 'You said:' : 'The user said:');
    const said = element('div', 'said', by, text);
    this.#said.set(id, said);
    this.#flow.append(said);
  }

  /** The run has ended. @param {unknown} unread  the ids of the messages that its agent has not read */
  #over(unread) {
    for (const asked of this.#asks.values()) asked.close(null, '');
    this.#asks.clear();
    for (const id of Array.isArray(unread) ? unread : []) {
      this.#said.get(id)?.append(element('p', 'unread', 'The agent did not read this.'));
    }
  }

  /** @param {number} at @param {string} text */
  #say(at, text) {
    this.#markdown ??= this.#grow(at, new Markdown());
    this.#markdown.add(text);
    this.answer += text;
    this.#lengths.push([this.#number, this.answer.length]);
  }

  /**
   * Another process goes on: folds what came after event number `after`, which does not count.
   * @param {number} at @param {number} after @param {string} text  what of the step's answer counts
   */
  #resume(at, after, text) {
    this.#close(at);
    this.#abandon();
    this.#lengths = this.#lengths.filter(([number]) => number <= after);
    const length = this.#lengths.at(-1)?.[1] ?? 0;
    const answers = this.#shown.filter(({ child }) => child.matches('.answer'));
    const cut = answers.find(({ number }, index) => {
      return number <= after && length < (answers[index + 1]?.start ?? this.answer.length);
    });
    const counts = this.#restored > after ? text : this.answer.slice(cut?.start ?? length, length);
    const lost = this.#shown.filter((each) => each === cut || each.number > after);
    this.#shown = this.#shown.filter((each) => !lost.includes(each));
    this.answer = this.answer.slice(0, cut?.start ?? length);
    this.#flow.append(interruption(lost.map(({ child }) => child)));
    this.#number = after; // it counts, whatever becomes of this process
    if (counts) this.#say(at, counts);
  }

  /** Shows an answer that is in the result alone. @param {number} at @param {string} said */
  #conclude(at, said) {
    if (said && !this.answer) this.#say(at, said);
  }

  /** @param {number} at @param {string} id @param {Tool} tool */
  #call(at, id, tool) {
    this.#open.set(id, tool);
    this.#add(at, tool.element);
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
    this.#shown.push({ child, number: this.#number, start: this.answer.length });
    this.#flow.append(child);
  }

  /** What grew does so no more; it may not be drawn yet. @param {number} at */
  #close(at) {
    this.#thinking?.close(at);
    this.#markdown?.end();
    this.#thinking = this.#markdown = null;
  }
}

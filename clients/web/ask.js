/** A question to the user: a card while the question is open, then a line that says what was decided. */

import { button, disable, element, line, readable } from './dom.js';
import { Complaint, Fields } from './fields.js';

/** @import { QuestionData } from '/client/index.js' */

/** Sends an answer; returns what comes of it. @typedef {(answer: unknown) => Promise<{status: string}>} Send */
/**
 * The end of a question, `at` a time in ms; null is the end of its run.
 * @typedef {{answer?: any, expired?: boolean, at: number} | null} Closing
 */

const LONG = 60;
/** The time by which two clocks of one server may differ, in ms. */
const CLOCK_MS = 100;
/** Why nothing can be answered; the event that says so may be still to come. @type {Record<string, string>} */
const TOO_LATE = {
  expired: 'This can no longer be answered: nobody did so in time.',
  already_finished: 'This can no longer be answered: the run has ended.',
  not_found: 'The server does not know this question.',
};

/** @param {string} text */
function scrolling(text) {
  const pre = element('pre', '', text);
  pre.tabIndex = 0;
  return pre;
}

/** Each parameter with its name; a long one, or one of several lines, in a box. @param {Record<string, unknown>} given */
function parameters(given) {
  const list = element('dl', 'parameters');
  for (const [name, value] of Object.entries(given)) {
    const text = readable(value);
    const short = text.length <= LONG && !text.includes('\n');
    list.append(element('dt', '', name), element('dd', '', short ? element('code', '', text) : scrolling(text)));
  }
  return list;
}

/** The time, and the day if it is another one. @param {string} timestamp */
function clock(timestamp) {
  const at = new Date(timestamp);
  const today = at.toDateString() === new Date().toDateString();
  return at.toLocaleString([], today ? { timeStyle: 'short' } : { dateStyle: 'medium', timeStyle: 'short' });
}

/** @param {string} label */
function submit(label) {
  const made = button('primary', label, () => {});
  made.type = 'submit';
  return made;
}

/** An answer in a few words. @param {unknown} answer @returns {string} */
function brief(answer) {
  if (typeof answer === 'boolean') return answer ? 'Yes' : 'No';
  if (typeof answer !== 'object' || answer === null) return line(readable(answer));
  return line(Object.entries(answer).map(([name, value]) => `${name}: ${brief(value)}`).join(', '));
}

export class Ask {
  /** @type {HTMLElement} */ element = element('div', 'ask');
  /** The id of the tool call that it is about, if it is an approval. */ callId;
  #question;
  #send;
  #form = element('form');
  #body = element('div', 'fields');
  #complaint = new Complaint();
  #actions = element('div', 'actions');
  /** Called if the form is sent. */ #submit = () => {};
  /** An answer is under way, or there is nothing to answer any more. */ #closed = false;

  /** @param {QuestionData} question @param {Send} send */
  constructor(question, send) {
    const { kind, prompt, tool_name: tool = 'A call', tool_call_id: callId, expires_at: until } = question;
    this.#question = question;
    this.#send = send;
    this.callId = kind === 'approval' ? callId : undefined;
    const title = kind === 'approval' ? `${tool} needs your approval` : 'A question for you';
    this.element.setAttribute('role', 'group');
    this.element.ariaLabel = line(`${title} ${prompt}`);
    this.element.append(element('p', 'title', title));
    if (prompt) this.element.append(element('p', 'prompt', prompt));
    for (const text of this.element.children) /** @type {HTMLElement} */ (text).dir = 'auto';
    this.#form.noValidate = true;
    this.#form.append(this.#body, this.#complaint.element, this.#actions);
    this.#form.addEventListener('submit', (event) => {
      event.preventDefault();
      if (!this.#closed) this.#submit();
    });
    this.#form.addEventListener('keydown', (event) => {
      const { target, key, shiftKey, isComposing, repeat } = event;
      if (!(target instanceof HTMLTextAreaElement) || target.dataset.code) return;
      if (key !== 'Enter' || shiftKey || isComposing) return; // as in the message below
      event.preventDefault();
      if (!repeat) this.#form.requestSubmit();
    });
    this.element.append(this.#form);
    if (until) this.element.append(element('p', 'hint', `Open until ${clock(until)}`));
    if (kind === 'approval') this.#decide();
    else this.#fill();
  }

  /** Folds the card to one line. @param {Closing} closing @param {string} who  answered: `you`, a name, or '' */
  close(closing, who) {
    const { kind, prompt, tool_name: tool = '' } = this.#question;
    const { said, state, details } = this.#decided(closing, who);
    const about = kind === 'approval' ? `${tool}${prompt && ` · ${prompt}`}` : prompt;
    const summary = element('summary', '', element('b', '', said), ' ', element('span', 'about', line(about)));
    const folded = element('details', 'asked', summary);
    folded.dataset.state = state;
    if (prompt) folded.append(element('p', 'prompt', prompt));
    folded.append(...details);
    for (const text of folded.querySelectorAll('.prompt, .about')) /** @type {HTMLElement} */ (text).dir = 'auto';
    const focused = this.element.contains(document.activeElement);
    this.element.replaceWith(folded);
    this.element = folded;
    if (focused) summary.focus({ preventScroll: true });
  }

  /** @param {Closing} closing @param {string} who */
  #decided(closing, who) {
    const by = who && ` by ${who}`;
    if (!closing) return { said: 'Not answered: the run ended', state: 'unanswered', details: [] };
    const { answer, expired, at } = closing;
    if (expired) {
      const late = at >= Date.parse(this.#question.expires_at ?? '') - CLOCK_MS; // else the agent asks no longer
      return { said: late ? 'Nobody answered in time' : 'Closed without an answer', state: 'unanswered', details: [] };
    }
    if (this.#question.kind !== 'approval') {
      return { said: `Answered${by}: ${brief(answer)}`, state: 'answered', details: [scrolling(readable(answer))] };
    }
    const { decision, reason, parameters: edited } = answer ?? {};
    if (decision !== 'approve') {
      const why = reason ? [scrolling(reason)] : [];
      return { said: `Rejected${by}${reason ? `: ${line(reason)}` : ''}`, state: 'rejected', details: why };
    }
    const used = parameters(edited ?? this.#question.parameters ?? {});
    return { said: `Approved${edited ? ' with changes' : ''}${by}`, state: 'approved', details: [used] };
  }

  #fill() {
    const fields = new Fields(this.#question.schema);
    this.#show(fields.elements, [submit('Answer')], () => {
      const { answer } = fields;
      if (answer !== undefined) void this.#answer(answer, (path, message) => fields.complain(path, message));
    });
  }

  #decide() {
    const edit = button('', 'Edit', () => this.#edit());
    const reject = button('', 'Reject', () => this.#reject());
    this.#show([parameters(this.#question.parameters ?? {})], [submit('Approve'), edit, reject], () => {
      void this.#answer({ decision: 'approve' });
    });
  }

  #edit() {
    const before = JSON.stringify(this.#question.parameters ?? {}, null, 2);
    const area = element('textarea', '', before);
    area.spellcheck = false;
    area.dataset.code = 'json';
    const complaint = this.#ask('Parameters, as a JSON object', area);
    const complain = (/** @type {string} */ message) => {
      complaint.say(message);
      complaint.focus();
      return true;
    };
    this.#with('Edit', submit('Approve with changes'), () => {
      let edited;
      try {
        edited = JSON.parse(area.value);
      } catch (error) {
        complain(`The parameters are not JSON yet: ${/** @type {Error} */ (error).message}.`);
        return;
      }
      if (typeof edited !== 'object' || edited === null || Array.isArray(edited)) {
        complain('The parameters must be a JSON object: names and values in braces, such as {"path": "notes.txt"}.');
        return;
      }
      const same = JSON.stringify(edited, null, 2) === before;
      const answer = same ? { decision: 'approve' } : { decision: 'approve', parameters: edited };
      void this.#answer(answer, (path, message) => path.startsWith('answer.parameters') && complain(message));
    });
    area.focus();
  }

  #reject() {
    const area = element('textarea');
    area.rows = 1;
    const complaint = this.#ask('Reason (optional): the agent is told', area);
    this.#with('Reject', submit('Reject'), () => {
      const reason = area.value.trim();
      void this.#answer({ decision: 'reject', ...(reason && { reason }) }, (path, message) => {
        if (path !== 'answer.reason') return false;
        complaint.say(message);
        complaint.focus();
        return true;
      });
    });
    area.focus();
  }

  /** A field below what is asked. @param {string} label @param {HTMLTextAreaElement} area */
  #ask(label, area) {
    const complaint = new Complaint(area);
    const field = element('div', 'field', element('label', '', element('span', '', label), area), complaint.element);
    this.#body.replaceChildren(...(area.dataset.code ? [] : [parameters(this.#question.parameters ?? {})]), field);
    return complaint;
  }

  /**
   * Has the buttons of a decision that needs more than a click.
   * @param {string} from @param {HTMLButtonElement} send @param {() => void} act
   */
  #with(from, send, act) {
    const back = button('', 'Back', () => {
      this.#decide();
      [...this.#actions.querySelectorAll('button')].find((each) => each.textContent === from)?.focus();
    });
    this.#show([...this.#body.children], [send, back], act);
    this.element.scrollIntoView({ block: 'nearest' });
  }

  /** @param {Element[]} body @param {HTMLButtonElement[]} actions @param {() => void} act */
  #show(body, actions, act) {
    this.#body.replaceChildren(...body);
    this.#actions.replaceChildren(...actions);
    this.#complaint.say('');
    this.#submit = act;
  }

  /**
   * The card is folded by the event that closes the question, which comes to each who follows the run.
   * @param {unknown} answer
   * @param {(path: string, message: string) => boolean} complain  says at its field what is wrong, if it has that field
   */
  async #answer(answer, complain = () => false) {
    this.#complaint.say('');
    this.#close(true);
    try {
      const { status } = await this.#send(answer);
      if (TOO_LATE[status]) this.#fail(TOO_LATE[status]);
    } catch (error) {
      this.#close(false);
      const { message, field } = /** @type {Error & {field?: string | null}} */ (error);
      if (!field || !complain(field, message)) this.#fail(message);
    }
  }

  /** @param {boolean} closed */
  #close(closed) {
    this.#closed = closed;
    for (const each of this.#actions.querySelectorAll('button')) disable(each, closed);
    this.#form.ariaBusy = String(closed);
  }

  /** @param {string} message */
  #fail(message) {
    this.#complaint.say(message);
    this.#complaint.focus();
  }
}

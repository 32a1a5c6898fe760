/** The field at the bottom: what is typed starts a run, or is said to the one that goes on. */

import { byId, disable, line } from './dom.js';

/** @import { Exchange } from './exchange.js' */

/**
 * `ask` starts a run, in place of one that goes on; `current` is the newest turn; `draw` is for what has changed.
 * @typedef {{ask: (message: string) => void, current: () => Exchange | null, draw: () => void}} Page
 */

/** The words of the field and its button, by the outcome that a text sent now would have. */
const WORDS = {
  ask: {
    label: 'Message', send: 'Send',
    hint: 'Enter sends, Shift and Enter make a new line.',
  },
  say: {
    label: 'Message to the running agent', send: 'Send',
    hint: 'Enter sends to the running agent, which reads it before its next step. Shift and Enter make a new line.',
  },
  wait: {
    label: 'Message to the agent (answer above)', send: 'Send',
    hint: 'Enter sends to the agent, but answers none of its questions. Shift and Enter make a new line.',
  },
  replace: {
    label: 'Message instead of the running answer', send: 'Stop and ask',
    hint: 'Enter stops the running agent and asks this instead. Shift and Enter make a new line.',
  },
};

/** @param {HTMLElement} place @param {string} text */
function put(place, text) {
  if (place.textContent !== text) place.textContent = text;
}

export class Composer {
  #page;
  #input = byId('message', HTMLTextAreaElement);
  #label = byId('to', HTMLLabelElement);
  #send = byId('send', HTMLButtonElement);
  #stop = byId('stop', HTMLButtonElement);
  #hint = byId('hint', HTMLElement);
  /** It is read aloud. */ #unsent = byId('unsent', HTMLElement);
  #sending = byId('outbox', HTMLElement);
  /** @type {keyof typeof WORDS} */ #does = 'ask';
  /** The messages on their way to their runs, oldest first. @type {{exchange: Exchange, text: string}[]} */ #outbox = [];

  /** @param {Page} page */
  constructor(page) {
    this.#page = page;
    const form = byId('form', HTMLFormElement);
    form.addEventListener('submit', (event) => {
      event.preventDefault();
      this.#submit();
      this.focus();
    });
    this.#input.addEventListener('keydown', (event) => {
      if (event.key === 'Enter' && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        if (!event.repeat) form.requestSubmit(); // a key held since it pressed Stop sends no draft
      }
    });
    this.#stop.addEventListener('click', () => {
      page.current()?.stop();
      this.focus();
    });
    this.#stop.addEventListener('blur', page.draw);
  }

  focus() {
    this.#input.focus();
  }

  /** Shows what sending does now. */
  draw() {
    const exchange = this.#page.current();
    const over = !exchange?.follow.active;
    disable(this.#stop, over || exchange.follow.cancelling);
    this.#stop.hidden = over && document.activeElement !== this.#stop; // a control never vanishes under the focus
    const says = exchange?.status === 'waiting' ? 'wait' : 'say';
    const does = over ? 'ask' : exchange.listens ? says : 'replace';
    if (this.#does === 'replace' && does !== 'replace') this.#tell(''); // it is so no longer
    this.#does = does;
    const { label, send, hint } = WORDS[does];
    put(this.#label, label);
    this.#label.className = over ? 'unseen' : '';
    put(this.#send, send);
    put(this.#hint, hint);
    const [first] = this.#outbox;
    put(this.#sending, first ? `Sending “${line(first.text)}”…` : '');
  }

  #submit() {
    const text = this.#input.value;
    const exchange = this.#page.current();
    if (!text.trim()) return;
    this.#input.value = '';
    this.#tell('');
    if (exchange && /say|wait/.test(this.#does)) void this.#say({ exchange, text });
    else this.#page.ask(text);
  }

  /**
   * Sends it, once what was typed before has been taken. If something is not taken, all of it is here again.
   * @param {{exchange: Exchange, text: string}} said
   */
  async #say(said) {
    if (this.#outbox.push(said) > 1) return; // the loop of the one before takes this too
    this.#page.draw();
    for (let next; (next = this.#outbox[0]); this.#outbox.shift()) {
      const refused = await next.exchange.say(next.text);
      if (!refused) continue;
      this.#input.value = [...this.#outbox.map(({ text }) => text), this.#input.value].filter(Boolean).join('\n');
      this.#outbox = [];
      this.#tell(refused);
    }
    this.#page.draw();
  }

  /** Says why what was sent is here again. @param {string} sentence */
  #tell(sentence) {
    put(this.#unsent, sentence);
  }
}

/** The page: sends what is typed, shows what comes, and tells how the connection is. */

import { Run, isTerminal, randomKey } from './connection.js';
import { Turn, seconds } from './turn.js';

/** @import { StreamEvent, TransportName } from './connection.js' */

const NEAR_END_PX = 40;
const MEASURABLE_MS = 100;
const OUTCOMES = { completed: 'Completed', cancelled: 'Cancelled', max_steps: 'Stopped at the step limit' };
const TRANSPORTS = { sse: 'SSE', websocket: 'WebSocket' };

/** @template {HTMLElement} T @param {string} id @returns {T} */
const byId = (id) => /** @type {T} */ (document.getElementById(id));
const form = /** @type {HTMLFormElement} */ (byId('form'));
const input = /** @type {HTMLTextAreaElement} */ (byId('message'));
const stop = /** @type {HTMLButtonElement} */ (byId('stop'));
const cut = /** @type {HTMLButtonElement} */ (byId('cut'));
const progress = /** @type {HTMLProgressElement} */ (byId('progress'));
const transports = /** @type {HTMLFieldSetElement} */ (byId('transport'));
const output = byId('output');
const welcome = byId('welcome');
const notice = byId('notice');

let sessionId = randomKey();
/** @type {Conversation | null} */
let current = null;
let following = true; // the pane follows what comes, unless its reader has scrolled up
let drawing = false;

/** A run, its turn in the pane, and what is measured of it. */
class Conversation {
  #sent = performance.now();
  /** @type {number | null} */ firstToken = null;
  /** @type {number | null} */ #firstChunk = null;
  #lastChunk = 0;
  #chunks = 0;
  #wasLost = false;
  outcome = '';

  /** @param {string} message @param {TransportName} transport */
  constructor(message, transport) {
    this.turn = new Turn(message);
    output.append(this.turn.element);
    this.run = new Run({
      message,
      sessionId,
      transport,
      onEvent: (event) => this.#event(event),
      onState: () => this.#state(),
    });
  }

  /** Answer chunks a second, once there was time enough to tell. */
  get rate() {
    const time = this.#lastChunk - (this.#firstChunk ?? 0);
    return time > MEASURABLE_MS ? (1000 * (this.#chunks - 1)) / time : null;
  }

  /** Leaves the run for another. */
  interrupt() {
    if (!this.run.active) return;
    this.outcome = 'Interrupted';
    this.run.close();
  }

  /** @param {StreamEvent} event */
  #event(event) {
    const now = performance.now();
    if (event.type === 'LLM_CHUNK' || event.type === 'THINKING') this.firstToken ??= now - this.#sent;
    if (event.type === 'LLM_CHUNK') {
      this.#firstChunk ??= now;
      this.#lastChunk = now;
      this.#chunks += 1;
    }
    if (event.type === 'PROGRESS') progress.value = event.data.progress;
    this.turn.show(event);
    if (isTerminal(event)) this.#terminal(event);
    draw();
  }

  /** @param {StreamEvent} event */
  #terminal({ data, metadata }) {
    this.outcome = OUTCOMES[/** @type {keyof typeof OUTCOMES} */ (data.status)] ?? 'Failed';
    const facts = [this.outcome];
    if (typeof data.duration === 'number') facts.push(seconds(data.duration));
    if (data.usage?.total_tokens) facts.push(`${data.usage.total_tokens} tokens`);
    facts.push(`${this.run.received} of ${metadata.events} events`);
    this.turn.end(facts.join(' · '));
  }

  #state() {
    const { state, cursor, error } = this.run;
    if (state === 'open') {
      say(this.#wasLost && cursor ? `Resumed at event ${cursor}` : 'Answering…');
    } else if (state === 'lost') {
      this.#wasLost = true;
      say(cursor ? `Connection lost, resuming at event ${cursor}…` : 'No connection, trying again…');
    } else if (state === 'failed') {
      this.outcome = 'Failed';
      this.turn.fail(error?.message ?? '');
      this.turn.end(this.outcome);
      say(`Failed: ${error?.message}`);
    } else if (state === 'closed') {
      this.turn.end((this.outcome ||= 'Stopped'));
      say(this.outcome);
    } else {
      say(this.outcome);
    }
    draw();
  }
}

/** Short and rare: it is read aloud. @param {string} text */
function say(text) {
  notice.textContent = text;
}

/** @param {string} message */
function send(message) {
  current?.interrupt();
  welcome.hidden = true;
  following = true;
  progress.value = 0;
  say('Connecting…');
  current = new Conversation(message, chosenTransport());
  draw();
}

function startOver() {
  current?.run.cancel();
  current?.interrupt();
  current = null;
  sessionId = randomKey();
  output.replaceChildren(welcome);
  welcome.hidden = false;
  say('Ready');
  draw();
  input.focus();
}

/** @returns {TransportName} */
function chosenTransport() {
  const checked = /** @type {HTMLInputElement} */ (transports.querySelector('input:checked'));
  return /** @type {TransportName} */ (checked.value);
}

/** Redraws what changes with every token, but once a frame at most. */
function draw() {
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(() => {
    drawing = false;
    drawStatus();
    if (following) output.scrollTop = output.scrollHeight;
  });
}

function drawStatus() {
  const run = current?.run;
  const active = run?.active ?? false;
  stop.disabled = !active || (run?.cancelling ?? false);
  cut.disabled = run?.state !== 'open';
  progress.hidden = !active;
  notice.dataset.state = current?.outcome === 'Failed' ? 'failed' : (run?.state ?? 'idle');
  byId('run-id').textContent = run?.id ?? '–';
  byId('run-transport').textContent = run ? TRANSPORTS[run.transport] : '–';
  byId('run-state').textContent = current?.outcome.toLowerCase() || run?.state || 'idle';
  byId('run-cursor').textContent = run ? `event ${run.cursor}` : '–';
  byId('run-first').textContent = current?.firstToken == null ? '–' : seconds(current.firstToken / 1000);
  byId('run-rate').textContent = current?.rate == null ? '–' : current.rate.toFixed(0);
}

form.addEventListener('submit', (event) => {
  event.preventDefault();
  const message = input.value;
  if (message.trim()) {
    input.value = '';
    send(message);
  }
  input.focus();
});
input.addEventListener('keydown', (event) => {
  if (event.key === 'Enter' && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    form.requestSubmit();
  }
});
stop.addEventListener('click', () => {
  say('Stopping…');
  current?.run.cancel();
  draw();
  input.focus();
});
cut.addEventListener('click', () => current?.run.cut());
byId('new').addEventListener('click', startOver);
transports.addEventListener('change', () => {
  if (current?.run.active) current.run.use(chosenTransport());
});
output.addEventListener('scroll', () => {
  following = output.scrollHeight - output.scrollTop - output.clientHeight < NEAR_END_PX;
});
for (const idea of welcome.querySelectorAll('button')) {
  idea.addEventListener('click', () => {
    send(idea.textContent ?? '');
    input.focus();
  });
}

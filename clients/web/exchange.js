/** A question and its run: the turn that shows it, the connection that follows it, the meter that times it. */

import { Fold, Gap, Unauthenticated } from '/client/index.js';
import { addressOf, duration, line } from './dom.js';
import { Follow, randomKey } from './follow.js';
import { user } from './login.js';
import { Meter } from './meter.js';
import { Turn } from './turn.js';

/** @import { Client, State, StreamEvent, Transport } from '/client/index.js' */
/** @import { Subject } from './follow.js' */

/**
 * `changed` is for all that is to be drawn; `regenerate` and `signIn` are what its reader decides or is to decide.
 * @typedef {{changed: (exchange: Exchange) => void, regenerate: (question: string) => void, signIn: () => void}} Page
 */

const OUTCOMES = {
  completed: 'Completed', incomplete: 'Cut off', cancelled: 'Cancelled', max_steps: 'Stopped at the step limit',
  error: 'Failed',
};

/** Why what was said to the run was not taken, and what can be done. @type {Record<string, string>} */
const UNSAID = {
  already_finished: 'The run ended before this reached it. Send it again to ask it as a new question.',
  not_accepted: 'This agent reads no messages while it works. Wait for its answer, or stop it and ask this instead.',
};

export class Exchange {
  /** What its reader is to know, in a few words: it is read aloud. */ notice = 'Connecting…';
  /** How it ended, in a word; empty while it goes on. */ outcome = '';
  /** What of it the list of runs has. */ listed = '';
  /** True if its agent reads messages, as far as is known. */ listens = true;
  #page;
  #fold = new Fold();
  /** The ids of what was said here. @type {Set<string>} */ #mine = new Set();

  /**
   * @param {() => Client} client @param {Subject} subject @param {string | null} question @param {Transport} transport
   * @param {Page} page
   */
  constructor(client, subject, question, transport, page) {
    this.#page = page;
    this.turn = new Turn(question, (inputId, answer) => this.follow.answer(inputId, answer, this.#newId()));
    this.meter = new Meter('message' in subject);
    this.follow = new Follow(client, subject, transport, {
      event: (event) => this.#event(event),
      state: (state, seq) => this.#join(state, seq),
      status: () => this.#status(),
      retry: (said) => this.#retry(said),
    });
  }

  /** Where this run can be seen. */
  get url() {
    return this.follow.runId && `${addressOf('')}#${this.follow.runId}`;
  }

  /** Whether it stopped only because nobody was signed in. */
  get awaitsSignIn() {
    return this.follow.error instanceof Unauthenticated;
  }

  /** That of following it, or `waiting` if nothing comes of it before its user has answered. */
  get status() {
    const { status } = this.follow;
    return status === 'open' && this.#fold.state.waiting ? 'waiting' : status;
  }

  /** Says something to the run. Returns a sentence if it was not taken. @param {string} content */
  async say(content) {
    try {
      const { status } = await this.follow.send(content, this.#newId());
      if (status === 'not_accepted') this.listens = false;
      return UNSAID[status] ?? '';
    } catch (error) {
      return `This was not sent: ${/** @type {Error} */ (error).message}`;
    } finally {
      this.#page.changed(this);
    }
  }

  stop() {
    this.notice = 'Stopping…';
    void this.follow.cancel();
  }

  /** Goes on if it failed. */
  again() {
    this.outcome = '';
    this.notice = 'Connecting…';
    this.turn.reopen();
    this.follow.again();
  }

  /** @param {StreamEvent} event */
  #event(event) {
    const { waiting, questions } = this.#fold.state;
    this.#fold.apply(event);
    this.turn.show(event, this.#who(event.data));
    this.meter.take(event);
    const { state } = this.#fold;
    const changed = state.waiting !== waiting || state.questions !== questions;
    if (changed && !this.follow.cancelling) this.notice = this.#working();
    if (event.type === 'AGENT_FINISH') this.#ended(event.data.status, event);
    if (event.type === 'ERROR') this.#ended('error', event);
    this.#page.changed(this);
  }

  /**
   * @param {keyof typeof OUTCOMES} status
   * @param {StreamEvent & {data: {duration?: number, usage?: {total_tokens?: number}}}} event
   */
  #ended(status, { data, metadata }) {
    this.outcome = this.notice = OUTCOMES[status];
    const facts = [this.outcome];
    if (typeof data.duration === 'number') facts.push(duration(data.duration * 1000));
    if (data.usage?.total_tokens) facts.push(`${data.usage.total_tokens} tokens`);
    facts.push(`${this.follow.received} of ${metadata.events} events`);
    this.#end(facts.join(' · '));
  }

  #status() {
    const { status, cursor, breaks, error, cancelling } = this.follow;
    if (status === 'open') {
      const resumed = breaks && cursor && !this.#fold.state.questions.length;
      this.notice = cancelling ? 'Stopping…' : resumed ? `Resumed at event ${cursor}` : this.#working();
    } else if (status === 'reconnecting') {
      this.notice = cursor ? `Connection lost, resuming at event ${cursor}…` : 'Connection lost, trying again…';
    } else if (status === 'failed' && this.awaitsSignIn) {
      this.notice = 'Sign in to go on';
      this.#page.signIn();
    } else if (status === 'failed' && error instanceof Gap && this.follow.join()) {
      this.notice = 'Connecting…';
    } else if (status === 'failed') {
      const message = error instanceof Error ? error.message : 'The run could not be followed.';
      this.outcome = 'Failed';
      this.notice = `Failed: ${message}`;
      this.turn.fail(message);
      this.#end(this.outcome);
    } else if (!this.follow.active && !this.follow.ended && status in OUTCOMES) {
      this.outcome = this.notice = OUTCOMES[/** @type {keyof typeof OUTCOMES} */ (status)]; // it had ended before
      this.#end(this.outcome);
    }
    this.#page.changed(this);
  }

  /** @param {State} state @param {number} seq */
  #join(state, seq) {
    this.#fold = new Fold(state);
    this.turn.restore(state, seq);
    this.#page.changed(this);
  }

  /** The run's state, if it is followed. */
  #working() {
    const { questions, waiting } = this.#fold.state;
    const [first, second] = questions;
    if (!first) return 'Answering…';
    const asks = second ? `${questions.length} answers` : first.kind === 'approval' ? 'approval' : 'answer';
    const about = second ? '' : `: ${line(first.prompt || first.tool_name || '')}`;
    return waiting ? `Waiting for your ${asks}${about}` : `Answering, but asks for your ${asks}${about}`;
  }

  /** The name of whoever said it, `you`, or '' if that is not known. @param {Record<string, any>} data */
  #who({ message_id: id, by = '' }) {
    return this.#mine.has(id) || (by && by === user()) ? 'you' : by;
  }

  #newId() {
    const id = randomKey();
    this.#mine.add(id);
    return id;
  }

  /** A connection could not be had. @param {string | null} said  what the server said of it */
  #retry(said) {
    if (this.follow.cursor > 0) return; // that it is to be resumed is told
    const [why] = (said ?? 'No connection').split(/[.;](?: |$)/);
    this.notice = `${why}, trying again…`;
    this.#page.changed(this);
  }

  /** @param {string} facts */
  #end(facts) {
    this.turn.end(facts, () => this.#page.regenerate(this.turn.question), this.url);
  }
}

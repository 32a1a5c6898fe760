/** A question and its run: the turn that shows it, the connection that follows it, the meter that times it. */

import { Unauthenticated } from '/client/index.js';
import { duration } from './dom.js';
import { Follow } from './follow.js';
import { Meter } from './meter.js';
import { Turn } from './turn.js';

/** @import { Client, StreamEvent, Transport } from '/client/index.js' */
/** @import { Subject } from './follow.js' */

/**
 * `changed` is for all that is to be drawn; `regenerate` and `signIn` are what its reader decides or is to decide.
 * @typedef {{changed: (exchange: Exchange) => void, regenerate: (question: string) => void, signIn: () => void}} Page
 */

const OUTCOMES = {
  completed: 'Completed', incomplete: 'Cut off', cancelled: 'Cancelled', max_steps: 'Stopped at the step limit',
  error: 'Failed',
};

export class Exchange {
  /** What its reader is to know, in a few words: it is read aloud. */ notice = 'Connecting…';
  /** How it ended, in a word; empty while it goes on. */ outcome = '';
  /** What of it the list of runs has. */ listed = '';
  #page;

  /**
   * @param {() => Client} client @param {Subject} subject @param {string | null} question @param {Transport} transport
   * @param {Page} page
   */
  constructor(client, subject, question, transport, page) {
    this.#page = page;
    this.turn = new Turn(question);
    this.meter = new Meter('message' in subject);
    this.follow = new Follow(client, subject, transport, {
      event: (event) => this.#event(event),
      status: () => this.#status(),
      retry: (said) => this.#retry(said),
    });
  }

  /** Where this run can be seen. */
  get url() {
    return this.follow.runId && `${location.origin}/#${this.follow.runId}`;
  }

  /** Whether it stopped only because nobody was signed in. */
  get awaitsSignIn() {
    return this.follow.error instanceof Unauthenticated;
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
    this.turn.show(event);
    this.meter.take(event);
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
      this.notice = cancelling ? 'Stopping…' : breaks && cursor ? `Resumed at event ${cursor}` : 'Answering…';
    } else if (status === 'reconnecting') {
      this.notice = cursor ? `Connection lost, resuming at event ${cursor}…` : 'Connection lost, trying again…';
    } else if (status === 'failed' && this.awaitsSignIn) {
      this.notice = 'Sign in to go on';
      this.#page.signIn();
    } else if (status === 'failed') {
      const message = error instanceof Error ? error.message : 'The run could not be followed.';
      this.outcome = 'Failed';
      this.notice = `Failed: ${message}`;
      this.turn.fail(message);
      this.#end(this.outcome);
    }
    this.#page.changed(this);
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

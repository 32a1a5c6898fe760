/** The runs that this browser has seen, by conversation: it remembers the questions, never the answers. */

import { element, line, recall, remember } from './dom.js';

const KEY = 'twinwire.runs';
const MAX_RUNS = 200;
/** @type {Intl.DateTimeFormatOptions} */
const WHEN = { month: 'short', day: 'numeric', hour: 'numeric', minute: '2-digit' };

/** @typedef {{item: HTMLLIElement, link: HTMLAnchorElement}} Entry */
/** `at` is a time in ms. @typedef {{runId: string, session: string, question: string, at: number, outcome: string}} Seen */

export class History {
  /** Newest first. @type {Seen[]} */ #runs = [];
  /** By conversation; an entry stays the same element, so that no focus and no click on it is lost. @type {Map<string, Entry>} */
  #entries = new Map();
  #list;
  #open;
  #current = '';

  /** @param {HTMLElement} list @param {(session: string) => void} open */
  constructor(list, open) {
    this.#list = list;
    this.#open = open;
    this.#load();
    addEventListener('storage', ({ key }) => {
      if (key === KEY || key === null) this.#load(); // another tab's
    });
  }

  /** A conversation's runs, oldest first. @param {string} session */
  of(session) {
    return this.#runs.filter((run) => run.session === session).reverse();
  }

  /** @param {string} runId */
  find(runId) {
    return this.#runs.find((run) => run.runId === runId);
  }

  /** Adds a run, or says how it ended. @param {Seen} run */
  note(run) {
    const known = this.find(run.runId);
    if (known && known.outcome === run.outcome && known.session === run.session) return;
    if (known) Object.assign(known, run, { at: known.at });
    else this.#runs.unshift(run);
    this.#runs.length = Math.min(this.#runs.length, MAX_RUNS);
    this.#save();
  }

  clear() {
    this.#runs = [];
    this.#save();
  }

  /** Marks the conversation that is shown. @param {string} session */
  show(session) {
    this.#current = session;
    this.#draw();
  }

  #load() {
    this.#runs = JSON.parse(recall(KEY) || '[]');
    this.#draw();
  }

  #save() {
    remember(KEY, JSON.stringify(this.#runs));
    this.#draw();
  }

  #draw() {
    /** @type {Map<string, Seen[]>} */
    const sessions = new Map();
    for (const run of this.#runs) sessions.set(run.session, [...(sessions.get(run.session) ?? []), run]);
    const focused = document.activeElement;
    const inside = this.#list.contains(focused);
    for (const session of this.#entries.keys()) if (!sessions.has(session)) this.#forget(session);
    let place = this.#list.firstElementChild;
    for (const [session, runs] of sessions) {
      const { item } = this.#entry(session, runs);
      if (item === place) place = place.nextElementSibling;
      else this.#list.insertBefore(item, place);
    }
    if (inside && document.activeElement !== focused) {
      const kept = this.#list.contains(focused) ? focused : this.#list.parentElement?.querySelector('button');
      /** @type {HTMLElement | null | undefined} */ (kept)?.focus({ preventScroll: true });
    }
  }

  /** @param {string} session */
  #forget(session) {
    this.#entries.get(session)?.item.remove();
    this.#entries.delete(session);
  }

  /** @param {string} session @param {Seen[]} runs */
  #entry(session, runs) {
    const { question, at } = runs[runs.length - 1];
    const { outcome, runId } = runs[0];
    const when = element('time', '', new Date(at).toLocaleString([], WHEN));
    const facts = element('span', 'facts', when);
    if (runs.length > 1) facts.append(` · ${runs.length} turns`);
    if (outcome && outcome !== 'Completed') facts.append(` · ${outcome}`);
    const entry = this.#entries.get(session) ?? this.#made(session);
    entry.link.replaceChildren(element('span', 'title', line(question || 'A shared run')), facts);
    entry.link.href = `#${runId}`;
    entry.link.ariaCurrent = session === this.#current ? 'page' : null;
    return entry;
  }

  /** @param {string} session */
  #made(session) {
    const link = element('a');
    link.addEventListener('click', (event) => {
      event.preventDefault();
      this.#open(session);
    });
    const entry = { link, item: element('li', '', link) };
    this.#entries.set(session, entry);
    return entry;
  }
}

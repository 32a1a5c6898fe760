/**
 * Markdown that grows: blocks that are closed are rendered once, the open one anew as it grows.
 *
 * Model output is hostile. Raw HTML in it is shown as text; what marked makes of the rest goes through DOMPurify's list
 * of plain elements; and nothing of it makes a request: images become links, links open only what they name.
 */

import { Lexer, Marked } from '/page/vendor/marked.js';
import DOMPurify from '/page/vendor/purify.js';
import { element, keepingFocus } from './dom.js';

/** @import { Token } from '/page/vendor/marked.js' */

/** How much is looked at in one go, in characters: what a frame can afford. */
const WINDOW = 2048;
/** An open block that took so many ms to render waits this many times longer until it is rendered anew. */
const REST = 3;
DOMPurify.setConfig({
  ALLOWED_TAGS: [
    'a', 'blockquote', 'br', 'code', 'del', 'em', 'h3', 'h4', 'h5', 'h6', 'hr', 'li', 'ol', 'p', 'pre', 'strong', 'table',
    'tbody', 'td', 'th', 'thead', 'tr', 'ul',
  ],
  ALLOWED_ATTR: ['align', 'data-language', 'href', 'start'],
  ALLOW_ARIA_ATTR: false,
  ALLOW_DATA_ATTR: false,
  RETURN_DOM_FRAGMENT: true,
}); // at once, since it takes the one name that the page's policy lets make HTML

/** @type {Record<string, string>} */
const ENTITIES = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;', "'": '&#39;' };
/** @param {string} text */
const escape = (text) => text.replace(/[&<>"']/g, (character) => ENTITIES[character]);

const marked = new Marked({
  renderer: {
    html: ({ text, block }) => (block ? `<p>${escape(text)}</p>` : /^<br *\/?>$/i.test(text) ? '<br>' : escape(text)),
    image: ({ href, text }) => `<a href="${escape(href)}">${escape(text || 'image')}</a>`,
    code({ text, lang }) {
      const [language] = (lang ?? '').split(/\s/);
      return `<pre data-language="${escape(language)}"><code>${escape(text)}</code></pre>`;
    },
    checkbox: ({ checked }) => (checked ? '☑ ' : '☐ '),
    heading({ tokens, depth }) {
      const level = Math.min(6, depth + 2); // below the page's own headings
      return `<h${level}>${this.parser.parseInline(tokens)}</h${level}>`;
    },
  },
});

/** Whether a link may be one: elsewhere on the web, as what is here acts for who is signed in. @param {string} href */
function leadsAway(href) {
  const url = URL.parse(href); // null if it is relative
  if (url?.protocol === 'mailto:') return true;
  return url !== null && /^https?:$/.test(url.protocol) && url.origin !== location.origin;
}

/**
 * A fragment of plain elements, whatever the HTML is.
 * @param {string} html
 * @returns {DocumentFragment}
 */
export function clean(html) {
  const fragment = /** @type {DocumentFragment} */ (/** @type {unknown} */ (DOMPurify.sanitize(html)));
  for (const link of fragment.querySelectorAll('a')) {
    const href = link.getAttribute('href') ?? '';
    if (leadsAway(href)) Object.assign(link, { target: '_blank', rel: 'noopener noreferrer', title: href });
    else link.replaceWith(...link.childNodes);
  }
  for (const table of fragment.querySelectorAll('table')) {
    const scroller = element('div', 'table');
    scroller.tabIndex = 0;
    table.replaceWith(scroller);
    scroller.append(table);
  }
  for (const pre of fragment.querySelectorAll('pre')) {
    const copying = element('button', 'copy', 'Copy');
    copying.type = 'button';
    const figure = element('figure', 'code', element('figcaption', '', pre.dataset.language || 'text', copying));
    pre.tabIndex = 0; // it scrolls
    pre.replaceWith(figure);
    figure.append(pre);
  }
  return fragment;
}

/**
 * A long list or table without its last item, which may not be all there; null for all else. `again` is what is needed
 * before the rest of it, in place of the first `length` characters.
 * @param {Token | undefined} token
 */
function split(token) {
  if (token?.type === 'list' && token.items.length > 1) {
    const whole = token.items.slice(0, -1);
    const length = whole.reduce((/** @type {number} */ sum, /** @type {Token} */ { raw }) => sum + raw.length, 0);
    return { closed: { ...token, items: whole }, again: '', length };
  }
  if (token?.type === 'table' && token.rows.length > 1) {
    const lines = token.raw.trimEnd().split('\n');
    const length = token.raw.trimEnd().length - lines[lines.length - 1].length;
    return { closed: { ...token, rows: token.rows.slice(0, -1) }, again: `${lines[0]}\n${lines[1]}\n`, length };
  }
  return null;
}

/** What a list's or table's items are in. @param {Element} list */
const items = (list) => list.querySelector(':scope > table > tbody') ?? list;

export class Markdown {
  element = element('div', 'answer');
  #open = element('div', 'open');
  /** What is not in closed blocks yet. */ #rest = '';
  /** A list or table of which there are pieces yet to come. @type {Element | null} */ #goesOn = null;
  /** @type {Record<string, {href: string, title: string}>} */ #links = {};
  #drawn = true;
  #ended = false;
  #notBefore = 0;

  constructor() {
    this.element.append(this.#open);
    this.element.dir = 'auto';
  }

  /** @param {string} text */
  add(text) {
    this.#rest += text.replaceAll('\r', '');
    this.#drawn = false;
  }

  /** Nothing more is added: what is open is closed with the next `draw`. */
  end() {
    this.#ended = true;
    this.#drawn = false;
  }

  /**
   * Shows what was added, as far as there is time.
   * @param {number} deadline  of `performance.now()`
   * @returns {boolean} whether that is all of it
   */
  draw(deadline) {
    const began = performance.now();
    if (this.#drawn || began < this.#notBefore) return this.#drawn;
    keepingFocus(this.element, () => {
      while (!this.#drawn) {
        const whole = this.#advance();
        if (whole) this.#drawn = true;
        else if (performance.now() > deadline) break;
      }
    });
    this.#notBefore = performance.now() + REST * (performance.now() - began);
    return this.#drawn;
  }

  /** Closes what can be closed of the next piece; returns whether it was the last, which then is shown. */
  #advance() {
    for (let length = WINDOW; ; length *= 4) {
      const piece = this.#rest.slice(0, length);
      const whole = piece.length === this.#rest.length;
      const tokens = this.#lex(piece);
      const last = tokens.findLastIndex(({ type }) => type !== 'space');
      // A block is closed when another has begun, which its first line alone does not tell: `2` may become `2. two`.
      const closable = whole && this.#ended ? tokens.length : last > 0 && tokens[last].raw.includes('\n') ? last : 0;
      const closed = tokens.splice(0, closable);
      const taken = closed.reduce((sum, { raw }) => sum + raw.length, 0);
      const part = taken === 0 && length === WINDOW && piece.length > WINDOW / 2 ? split(tokens[last]) : null;
      if (part) this.#close([part.closed], true);
      else if (taken > 0) this.#close(closed, false);
      this.#rest = (part?.again ?? '') + this.#rest.slice(part?.length ?? taken);
      if (part) return false;
      if (whole) this.#open.replaceChildren(clean(marked.parser(tokens)));
      if (whole || taken > 0) return whole;
    }
  }

  /** @param {Token[]} tokens @param {boolean} goesOn  whether the last of them does, so that what comes joins it */
  #close(tokens, goesOn) {
    for (const token of tokens) {
      if (token.type === 'def') this.#links[token.tag] ??= { href: token.href, title: token.title };
    }
    const fragment = clean(marked.parser(tokens));
    const first = fragment.firstElementChild;
    if (this.#goesOn && first?.className === this.#goesOn.className && first.localName === this.#goesOn.localName) {
      items(this.#goesOn).append(...items(first).children);
      first.remove();
    }
    this.#open.before(fragment);
    this.#goesOn = goesOn ? this.#open.previousElementSibling : null;
    this.#open.classList.toggle('more', goesOn);
  }

  /** @param {string} source @returns {Token[]} */
  #lex(source) {
    const lexer = new Lexer(marked.defaults);
    lexer.tokens.links = { ...this.#links }; // those of closed blocks: half a definition is none
    return [...lexer.lex(source)];
  }
}

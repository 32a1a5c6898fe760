/** Small help with the document, and how quantities are told. */

const MAX_LINE = 90;

/** The address of a path of the server's, below whatever prefix the page is. @param {string} path */
export const addressOf = (path) => new URL(`../${path}`, import.meta.url).href;

/**
 * @template {keyof HTMLElementTagNameMap} K
 * @param {K} tag @param {string} className @param {(Node | string)[]} children
 * @returns {HTMLElementTagNameMap[K]}
 */
export function element(tag, className = '', ...children) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.append(...children);
  return made;
}

/** @param {string} className @param {string} label @param {(self: HTMLButtonElement) => void} act */
export function button(className, label, act) {
  const made = element('button', className, label);
  made.type = 'button';
  made.addEventListener('click', () => act(made));
  return made;
}

/**
 * Disables a control, or enables it again. It keeps its place in the order of Tab, and the focus if it has it: the
 * attribute `disabled` would take both, for somebody who is on the way to it as for somebody who is there (WAI-ARIA
 * Authoring Practices, "Focusability of disabled controls").
 * @param {HTMLButtonElement} control @param {boolean} disabled
 */
export function disable(control, disabled) {
  if (control.ariaDisabled !== String(disabled)) control.ariaDisabled = String(disabled);
}

// A control that is disabled so does nothing.
addEventListener(
  'click',
  (event) => {
    if (event.target instanceof Element && event.target.closest('[aria-disabled="true"]')) event.stopImmediatePropagation();
  },
  { capture: true },
);

/**
 * Calls `redraw`, which puts other elements into `pane`. If a control in it has the focus, the one in its place gets it.
 * @param {HTMLElement} pane @param {() => void} redraw
 */
export function keepingFocus(pane, redraw) {
  const focused = document.activeElement;
  const controls = () => /** @type {HTMLElement[]} */ ([...pane.querySelectorAll('a[href], button, [tabindex]')]);
  const place = pane.contains(focused) ? controls().findIndex((control) => control === focused) : -1;
  redraw();
  if (place >= 0 && document.activeElement !== focused) controls()[place]?.focus({ preventScroll: true });
}

/** The element with this id, which the page has. @template {HTMLElement} T @param {string} id @param {new () => T} kind */
export function byId(id, kind) {
  const found = document.getElementById(id);
  if (!(found instanceof kind)) throw new TypeError(`the page has no #${id}`);
  return found;
}

/** @param {number} ms */
export const duration = (ms) => (ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`);

/** @param {number} count */
export function size(count) {
  if (count < 1000) return `${count} B`;
  return count < 1e6 ? `${(count / 1000).toFixed(1)} kB` : `${(count / 1e6).toFixed(1)} MB`;
}

/** One line, of a bounded length. @param {string} text */
export function line(text) {
  const joined = text.slice(0, 4 * MAX_LINE).replace(/\s+/g, ' ').trim();
  return joined.length > MAX_LINE ? `${joined.slice(0, MAX_LINE - 1)}…` : joined;
}

/** Any JSON as somebody would read it. @param {unknown} value */
export const readable = (value) => (typeof value === 'string' ? value : (JSON.stringify(value, null, 2) ?? ''));

/** What this browser remembers; it may be told not to remember anything. @param {string} key */
export function recall(key) {
  try {
    return localStorage.getItem(key) ?? '';
  } catch {
    return '';
  }
}

/** @param {string} key @param {string} value */
export function remember(key, value) {
  try {
    localStorage.setItem(key, value);
  } catch {
    // full or off: this tab goes on without
  }
}

/** Copies a text and says so on the button for a moment. @param {HTMLButtonElement} from @param {string} text */
export async function copy(from, text) {
  const label = from.dataset.label ?? from.textContent ?? '';
  from.dataset.label = label;
  from.textContent = (await toClipboard(text)) ? 'Copied' : 'Not copied';
  setTimeout(() => {
    from.textContent = label;
  }, 1500);
}

/** On plain HTTP there is no `navigator.clipboard`, but a selection can be copied. @param {string} text */
async function toClipboard(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const field = element('textarea', 'unseen', text);
    const focused = document.activeElement;
    document.body.append(field);
    field.select();
    const copied = document.execCommand('copy');
    field.remove();
    if (focused instanceof HTMLElement) focused.focus();
    return copied;
  }
}

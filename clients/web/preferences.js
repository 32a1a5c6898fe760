/** What this browser's user prefers: the transport, and light or dark. */

import { byId, recall, remember } from './dom.js';

/** @import { Transport } from '/client/index.js' */

const transports = byId('transport', HTMLFieldSetElement);
const theme = byId('theme', HTMLButtonElement);
const THEMES = ['auto', 'light', 'dark'];

/** @returns {Transport} */
export function chosenTransport() {
  const checked = /** @type {HTMLInputElement} */ (transports.querySelector('input:checked'));
  return /** @type {Transport} */ (checked.value);
}

/** @param {(transport: Transport) => void} listener */
export function onTransport(listener) {
  transports.addEventListener('change', () => {
    remember('twinwire.transport', chosenTransport());
    listener(chosenTransport());
  });
}

/** @param {string} name */
function wear(name) {
  document.documentElement.dataset.theme = name;
  theme.ariaLabel = `Colours: ${name}`;
  theme.title = theme.ariaLabel;
}

theme.addEventListener('click', () => {
  const next = THEMES[(THEMES.indexOf(document.documentElement.dataset.theme ?? 'auto') + 1) % THEMES.length];
  remember('twinwire.theme', next);
  wear(next);
});

const known = recall('twinwire.theme');
wear(THEMES.includes(known) ? known : 'auto');
const preferred = recall('twinwire.transport');
for (const choice of transports.querySelectorAll('input')) {
  if (choice.value === preferred) choice.checked = true;
}

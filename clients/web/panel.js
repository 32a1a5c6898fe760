/** The live panel: what the connection and the run are doing right now. */

import { byId, disable, duration, size } from './dom.js';

/** @import { Exchange } from './exchange.js' */
/** @import { Link } from './link.js' */

/** @param {string} name @param {string} text */
function put(name, text) {
  const shown = byId(`run-${name}`, HTMLElement);
  if (shown.textContent !== text) shown.textContent = text;
}

const line = document.querySelector('#spark polyline');
const progress = byId('progress', HTMLProgressElement);
const cut = byId('cut', HTMLButtonElement);

/** @param {Exchange | null} exchange @param {Link} link @param {number} bytes  that came before this run */
export function drawPanel(exchange, link, bytes) {
  const { follow, meter, outcome } = exchange ?? {};
  const first = meter?.first == null ? '–' : duration(meter.first);
  const rate = meter?.rate == null ? '–' : meter.rate.toFixed(0);
  put('id', follow?.runId ?? '–');
  put('state', outcome?.toLowerCase() || exchange?.status || 'idle');
  put('transport', (follow && link.kind) ?? '–');
  put('cursor', follow ? `event ${follow.cursor}` : '–');
  put('step', meter?.step || '–');
  put('first', first);
  put('rate', rate);
  put('bytes', follow ? size(link.bytes - bytes) : '–');
  put('breaks', String(follow?.breaks ?? 0));
  put('brief', meter?.first == null ? 'Live' : meter.rate === null ? first : `${first} · ${rate} tok/s`);
  put('gap', meter?.gaps.length ? `up to ${duration(Math.max(...meter.gaps))}` : '–');
  line?.setAttribute('points', meter?.points ?? '');
  progress.hidden = !follow?.active;
  progress.value = meter?.progress ?? 0;
  disable(cut, follow?.status !== 'open');
}

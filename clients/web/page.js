/** The page: sends what is typed, shows what comes, and keeps the address, the list and the panel in step with it. */

import { createClient } from '/client/index.js';
import { Composer } from './composer.js';
import { byId, copy } from './dom.js';
import { Exchange } from './exchange.js';
import { randomKey } from './follow.js';
import { History } from './history.js';
import { Link } from './link.js';
import { Login } from './login.js';
import { drawPanel } from './panel.js';
import { chosenTransport, onTransport } from './preferences.js';

/** @import { Subject } from './follow.js' */

const NEAR_END_PX = 40;
const FRAME_MS = 8;

const output = byId('output', HTMLElement);
const welcome = byId('welcome', HTMLElement);
const notice = byId('notice', HTMLElement);

const link = new Link();
const connect = () => createClient({ fetch: link.fetch, WebSocket: link.WebSocket, retry: { attempts: Infinity } });
let client = connect();
let session = randomKey();
/** What is shown, oldest first. @type {Exchange[]} */
let exchanges = [];
let bytesBefore = 0;
let following = true; // the pane follows what comes, unless its reader has scrolled up
let scrolled = 0;
let drawing = false;
let waits = false; // the run that is shown, for its user: the title says so

const composer = new Composer({ ask, current, draw });
const history = new History(byId('list', HTMLElement), openSession);
const login = new Login(signedIn, () => {
  history.clear();
  startOver();
});

/** The newest turn. */
function current() {
  return exchanges.at(-1) ?? null;
}

/** @param {Subject} subject @param {string | null} question */
function follow(subject, question) {
  bytesBefore = link.bytes;
  const exchange = new Exchange(() => client, subject, question, chosenTransport(), {
    changed,
    regenerate: ask,
    signIn: () => login.ask(),
  });
  exchanges.push(exchange);
  welcome.hidden = true;
  output.append(exchange.turn.element);
  following = true;
  draw();
}

/** @param {string} question */
function ask(question) {
  follow({ message: question, sessionId: session }, question);
}

/** Leaves what is shown, which goes on, for a conversation without any turns yet. @param {string} name */
function leave(name) {
  for (const exchange of exchanges) exchange.follow.close();
  exchanges = [];
  session = name;
  if (output.contains(document.activeElement)) output.focus({ preventScroll: true });
  output.replaceChildren(welcome);
  welcome.hidden = false;
  for (const aside of document.querySelectorAll('aside:popover-open')) /** @type {HTMLElement} */ (aside).hidePopover();
  history.show(session);
}

function startOver() {
  leave(randomKey());
  window.history.replaceState(null, '', location.pathname);
  draw();
  composer.focus();
}

/** @param {string} name */
function openSession(name) {
  leave(name);
  for (const { runId, question } of history.of(name)) follow({ runId }, question || null);
}

/** Shows the run that the address names. */
function openAddress() {
  const [, runId] = /^#([a-z2-7]{26})$/.exec(location.hash) ?? [];
  if (!runId || runId === current()?.follow.runId) return;
  const seen = history.find(runId);
  if (seen) {
    openSession(seen.session);
    return;
  }
  leave(randomKey());
  const mine = session;
  follow({ runId }, null);
  client.get(runId).then(
    (run) => {
      if (session !== mine || !run.session_id) return;
      session = run.session_id; // what is asked next goes on from it
      history.show(session);
    },
    () => {}, // following it tells why
  );
}

function signedIn() {
  client.close();
  client = connect(); // a socket is for whoever opened it
  const waiting = exchanges.filter((exchange) => exchange.awaitsSignIn);
  for (const exchange of waiting) exchange.again();
  composer.focus();
}

/** @param {Exchange} exchange */
function changed(exchange) {
  const { outcome, follow, turn, listed } = exchange;
  if (follow.runId && turn.question && exchanges.includes(exchange) && listed !== `${session} ${outcome}`) {
    exchange.listed = `${session} ${outcome}`;
    history.note({ runId: follow.runId, session, question: turn.question, at: Date.now(), outcome });
  }
  if ((current()?.status === 'waiting') !== waits) drawTitle(); // nothing else is drawn while the tab is hidden
  draw();
}

function drawTitle() {
  const question = exchanges[0]?.turn.question;
  const title = question ? `${question.slice(0, 60)} · Twinwire` : 'Twinwire';
  waits = current()?.status === 'waiting';
  document.title = waits ? `Waiting for you · ${title}` : title;
}

/** Draws what changes with every token, but once a frame at most, and for no longer than a frame has time. */
function draw() {
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(() => {
    drawing = false;
    const deadline = performance.now() + FRAME_MS;
    const all = exchanges.map((exchange) => exchange.turn.draw(deadline)).every(Boolean);
    drawState();
    if (following) output.scrollTop = output.scrollHeight;
    if (!all) draw();
  });
}

function drawState() {
  const exchange = current();
  const said = exchange?.notice ?? 'Ready';
  if (notice.textContent !== said) notice.textContent = said; // it is read aloud
  notice.dataset.state = exchange?.outcome === 'Failed' ? 'failed' : (exchange?.status ?? 'idle');
  composer.draw();
  drawTitle();
  const hash = exchange?.follow.runId ? `#${exchange.follow.runId}` : '';
  if (hash && hash !== location.hash) window.history.replaceState(null, '', hash);
  drawPanel(exchange, link, bytesBefore);
}

byId('cut', HTMLButtonElement).addEventListener('click', () => link.cut());
byId('new', HTMLButtonElement).addEventListener('click', startOver);
byId('forget', HTMLButtonElement).addEventListener('click', () => history.clear());
onTransport((transport) => current()?.follow.use(transport));
addEventListener('hashchange', openAddress);
output.addEventListener('scroll', () => {
  const atEnd = output.scrollHeight - output.scrollTop - output.clientHeight < NEAR_END_PX;
  following = atEnd || (following && output.scrollTop >= scrolled); // what came meanwhile is not its reader's scrolling
  scrolled = output.scrollTop;
});
output.addEventListener('click', ({ target }) => {
  if (target instanceof HTMLButtonElement && target.className === 'copy') {
    void copy(target, target.closest('figure')?.querySelector('code')?.textContent ?? '');
  }
});
for (const idea of welcome.querySelectorAll('button')) {
  idea.addEventListener('click', () => {
    ask(idea.textContent ?? '');
    composer.focus();
  });
}
history.show(session);
openAddress();
draw();

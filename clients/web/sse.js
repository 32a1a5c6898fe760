/**
 * A run over the browser's own EventSource, which reconnects with Last-Event-ID by itself.
 *
 * It gives up for good on a status that is not 200 and does not say why; then this module asks.
 */

/** @import { Link, Listener, Refusal, Target } from './connection.js' */

/** EventSource hands out only the types one names. */
const TYPES = [
  'AGENT_START', 'AGENT_FINISH', 'STEP_START', 'STEP_FINISH', 'THINKING', 'LLM_CHUNK', 'TOOL_CALL_START',
  'TOOL_CALL_FINISH', 'PROGRESS', 'ERROR',
];

/** @param {Target} target @param {Listener} listener @returns {Link} */
export function openSse(target, listener) {
  const url = address(target);
  const source = new EventSource(url);
  const asking = new AbortController();
  for (const type of TYPES) {
    source.addEventListener(type, (message) => listener.event(JSON.parse(/** @type {MessageEvent} */ (message).data)));
  }
  source.onopen = () => listener.opened();
  source.onerror = async () => {
    if (source.readyState === EventSource.CONNECTING) {
      listener.lost(true);
      return;
    }
    const refusal = await whyRefused(url, asking.signal);
    if (asking.signal.aborted) return;
    if (refusal) listener.refused(refusal);
    else listener.lost(false);
  };
  return {
    close() {
      source.close();
      asking.abort();
    },
    cancel: () => false,
  };
}

/** `envelope=1`: the same object that a WebSocket carries. @param {Target} target */
function address({ base, id, cursor, message, sessionId, idempotencyKey }) {
  if (id !== null) return `${base}/runs/${id}/events?envelope=1&after=${cursor}`;
  const query = new URLSearchParams({
    message, session_id: sessionId, idempotency_key: idempotencyKey, envelope: '1',
  });
  return `${base}/chat/stream?${query}`;
}

/**
 * The server's reason to refuse this, or null where it may well take it the next time.
 * @param {string} url @param {AbortSignal} signal @returns {Promise<Refusal | null>}
 */
async function whyRefused(url, signal) {
  try {
    const answer = await fetch(url, { headers: { accept: 'text/event-stream' }, signal });
    if (answer.ok || answer.status === 429 || answer.status >= 500) {
      await answer.body?.cancel();
      return null;
    }
    return await answer.json();
  } catch {
    return null;
  }
}

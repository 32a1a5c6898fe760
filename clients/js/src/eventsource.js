/**
 * A run over the browser's own EventSource, for those who want its devtools or have no streaming `fetch`.
 *
 * It hides what would tell a silent run from a dead connection, sends no header (a ticket stands for the token), and
 * hands out only the event types one names: the server is asked for those and no others.
 */

import { Watch } from './api.js';
import { Broken } from './errors.js';
import { EVENT_TYPES, parseObject } from './events.js';
import { Mailbox } from './mailbox.js';
import { deadline } from './retry.js';
import { eventsPath, startByPost } from './sse.js';

/** @import { Api } from './api.js' */
/** @import { Connection, Position } from './position.js' */

/**
 * The parts of the standard's EventSource that are used.
 * @typedef {{addEventListener: (type: string, listener: (message: any) => void) => void, close: () => void,
 *   onopen: ((event: any) => void) | null, onerror: ((event: any) => void) | null}} Source
 */
/** @typedef {new (url: string, options?: {withCredentials?: boolean}) => Source} SourceClass */

/**
 * See `Connect`.
 * @param {Api} api @param {SourceClass} EventSource @param {Position} at @param {AbortSignal} signal
 * @returns {Promise<Connection | null>}
 */
export async function connectEventSource(api, EventSource, at, signal) {
  at.types ??= [...EVENT_TYPES];
  await startByPost(api, at, signal);
  let url = api.url + eventsPath(at);
  if (api.authenticates) {
    const { ticket } = await api.call('POST', '/tickets', signal, { run_id: at.runId });
    url += `&ticket=${encodeURIComponent(ticket)}`;
  }
  const source = new EventSource(url, { withCredentials: api.credentials === 'include' });
  /** @type {Mailbox<string>} */
  const mail = new Mailbox();
  for (const type of new Set([...at.types, 'AGENT_FINISH', 'ERROR'])) {
    source.addEventListener(type, ({ data }) => mail.put(data));
  }
  const close = () => {
    source.close();
    mail.end(new Broken('The connection was closed.'));
  };
  try {
    await /** @type {Promise<void>} */ (
      new Promise((resolve, reject) => {
        const callOff = deadline(api.timeout, () => reject(new Broken('The server was silent for too long.')));
        source.onopen = () => {
          callOff();
          resolve();
        };
        source.onerror = () => {
          // It would reconnect by itself if it can, but not with full jitter, nor count its attempts.
          callOff();
          source.close();
          reject(new Broken('The connection broke.'));
          mail.end(new Broken('The connection broke.'));
        };
      })
    );
  } catch (error) {
    source.close();
    return whyNot(api, at, signal, error);
  }
  return {
    receive: async () => parseObject((await mail.take()) ?? ''),
    close,
    get idle() {
      return mail.size === 0;
    },
  };
}

/**
 * EventSource does not say why it failed: this asks. Null if the run has ended at the cursor.
 * @param {Api} api @param {Position} at @param {AbortSignal} signal @param {unknown} error  to throw if it would be let in
 */
async function whyNot(api, at, signal, error) {
  const watch = new Watch(signal);
  try {
    const response = await api.open(eventsPath(at), watch, api.timeout);
    if (response.status === 204) return null;
    throw error;
  } finally {
    watch.close();
  }
}

/** The cancelling of a run, over whatever connection gets through. */

import { NEVER } from './api.js';
import { Broken } from './errors.js';
import { sleep } from './retry.js';

/** @import { Api } from './api.js' */
/** @import { Sockets } from './ws.js' */

/** The ms that a request may take before a socket is opened: a browser's six connections of HTTP/1.1 may be in use. */
const SOON_MS = 1_000;

/**
 * Cancels a run over a socket that is open, else by a request, and over a new socket if that takes its time.
 * @param {Api} api @param {Sockets | undefined} sockets @param {string} runId
 * @returns {Promise<string>}  `accepted` or `already_finished`
 */
export async function cancel(api, sockets, runId) {
  try {
    const open = sockets?.open;
    if (open) return await open.cancel(runId);
  } catch (error) {
    if (!(error instanceof Broken)) throw error;
  }
  const answered = new AbortController();
  const request = api.ask('POST', `/runs/${runId}/cancel`, NEVER).then(({ status }) => String(status));
  const late = sleep(SOON_MS, answered.signal).then(async () => (await sockets?.session(null))?.cancel(runId) ?? request);
  try {
    return await Promise.race([request, late.catch(() => request)]);
  } finally {
    answered.abort();
  }
}

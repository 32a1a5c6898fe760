/** Why a server was not reached, as far as the runtime tells, and what to do about it. */

import { ApiError, Broken } from './errors.js';

/** The ms that a server which refuses connections may take to come up. */
const NOBODY_MS = 2_000;

/** The words of Node, Deno and Bun; what code they mean, for how many ms it may pass, and what to say of it. */
const KINDS = /** @type {const} */ ([
  [/ENOTFOUND|dns error/i, 'unknown_host', 0, 'No host has this name.'],
  [/EAI_AGAIN/, 'unknown_host', NOBODY_MS, 'No host of this name could be found.'],
  [/ECONNREFUSED|ConnectionRefused|Connection refused/i, 'connection_refused', NOBODY_MS, 'Nobody is at this address.'],
  [/wrong.version.number|packet.length.too.long|record.layer.failure|InvalidContentType/i, 'not_https', 0,
    'The server speaks http, not https. `url` must begin with http://.'],
  [/CERT|SELF_SIGNED|UNABLE_TO_(GET_ISSUER|VERIFY)/i, 'certificate_not_trusted', 0,
    "The server's certificate is not trusted. Start Node with NODE_EXTRA_CA_CERTS=<file> if it is your own authority's."],
]);

/** The failure of a request, by its kind. @param {unknown} thrown  by `fetch`, or an error of npm's `ws` */
export function broken(thrown) {
  const { message, code, cause } = /** @type {Error & {code?: unknown, cause?: {code?: unknown, message?: string}}} */ (thrown);
  const reason = cause?.message || message;
  const words = `${cause?.code ?? code} ${reason}`;
  for (const [pattern, kind, hope, advice] of KINDS) {
    const more = kind === 'not_https' ? '' : ` (${reason})`; // which is OpenSSL's own line
    if (pattern.test(words)) return new Broken(advice + more, { code: kind, hope });
  }
  return new Broken(`The connection failed. (${reason})`);
}

/**
 * The reason that keeps a page from a server of another origin that it never reached. A browser does not tell it apart
 * from a broken network. `ask` makes a harmless request of this mode, which rejects if no answer can be read.
 * @param {string} url @param {(mode: 'cors' | 'no-cors') => Promise<unknown>} ask @param {Broken} error  as it seemed
 */
export async function fromPage(url, ask, error) {
  const page = globalThis.location?.origin;
  if (page === undefined || page === new URL(url).origin) return error;
  const [there, readable] = await Promise.allSettled([ask('no-cors'), ask('cors')]);
  if (there.status === 'rejected') return new Broken(error.message, { hope: NOBODY_MS });
  if (readable.status === 'fulfilled') return error;
  const message = `The server at ${url} does not let pages of ${page} read its answers. List the origin in its \`--cors-origin\`, and headers of your own in its \`--cors-header\`.`;
  return new ApiError({ code: 'origin_not_allowed', message }, null);
}

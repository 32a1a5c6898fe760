/** Prints the client's public names as JSON: what it exports, the members of its classes, and the tree of its errors. */

import * as client from '../src/index.js';

/** @param {{prototype: object}} kind @param {object} made */
const members = ({ prototype }, made) =>
  [...Object.getOwnPropertyNames(prototype), ...Object.keys(made)].filter((name) => name !== 'constructor').sort();

const made = client.createClient({ url: 'http://127.0.0.1:1', transport: 'sse' });
const run = made.attach('a'.repeat(26));
run.result.catch(() => {});
const question = new client.Question({ input_id: 'ask', kind: 'question', prompt: '' }, (...answer) => run.answer(...answer));

const body = { code: 'gap', message: 'm', first: 1, last: 2 };
const last = { code: null, status: null, retryAfter: null, attempts: 1 };
/** @type {Record<string, object>} */
const errors = {};
for (const [name, kind] of Object.entries(client)) {
  if (typeof kind !== 'function' || !(kind.prototype instanceof Error)) continue;
  const Kind = /** @type {new (...given: unknown[]) => Error} */ (/** @type {unknown} */ (kind));
  const error = kind.prototype instanceof client.ApiError || Kind === client.ApiError ? new Kind(body, 400) : new Kind('m', last);
  errors[name] = { parent: Object.getPrototypeOf(kind).name, has: Object.keys(error).sort() };
}
console.log(
  JSON.stringify({ exports: Object.keys(client).sort(), client: members(client.Client, made), run: members(client.Run, run), question: members(client.Question, question), errors }),
);
made.close();

/**
 * Plays vectors of `tests/vectors/client.json` and `talk.json` against servers that do what they say: cases in, outcomes
 * out, as JSON.
 */

import { WebSocket } from 'ws';
import { text } from 'node:stream/consumers';

import { ApiError, ConnectionLost, createClient, ProtocolError, RunFailed } from '../src/index.js';

/** @typedef {{url: string, transport: 'sse' | 'ws', run_id: string, vector: Record<string, any>}} Case */

/** What a vector calls an error. @param {unknown} error */
function nameOf(error) {
  if (error instanceof ApiError) return error.code;
  if (error instanceof ConnectionLost) return 'connection_lost';
  if (error instanceof ProtocolError) return 'protocol_error';
  throw error;
}

/** @param {Case} played */
async function play({ url, transport, run_id, vector }) {
  const heartbeat = 1000 * (vector['heartbeat'] ?? 15);
  const retry = { base: 10, attempts: vector['attempts'] ?? 10 };
  const client = createClient({ url, transport, WebSocket, heartbeat, timeout: 4 * heartbeat, retry });
  const options = vector['types'] ? { types: vector['types'] } : {};
  const run = vector['starts'] ? client.stream('hello', options) : client.attach(run_id, options);
  const events = [];
  let end;
  const began = performance.now();
  try {
    for await (const event of run) events.push(Number(event.id.split('-')[2]));
    await run.result.catch((error) => {
      if (!(error instanceof RunFailed)) throw error;
    });
    end = run.status;
  } catch (error) {
    end = nameOf(error);
  }
  client.close();
  return { events, end, lasts: (performance.now() - began) / 1000 };
}

/** Says to the run what the vector says. @param {Case} played */
async function say({ url, transport, run_id, vector }) {
  const retry = { base: 10, attempts: vector['attempts'] ?? 10 };
  const client = createClient({ url, transport, WebSocket, timeout: 1_000, retry });
  try {
    const run = client.attach(run_id);
    await run[Symbol.asyncIterator]().next();
    const [verb, ...words] = vector['say'];
    const options = { messageId: 'mine' };
    const { messageId, status, by = null, at = null } = await (verb === 'send'
      ? run.send(words[0], options)
      : run.answer(words[0], words[1], options));
    return { status, message_id: messageId, by, at };
  } catch (error) {
    return { error: nameOf(error), field: error instanceof ApiError ? error.field : null };
  } finally {
    client.close();
  }
}

const cases = /** @type {Case[]} */ (JSON.parse(await text(process.stdin)));
console.log(JSON.stringify(await Promise.all(cases.map((played) => (played.vector['say'] ? say(played) : play(played))))));

/** Plays the programs of `tests/vectors/consumer.json`: programs in, the outcomes of their steps out, as JSON. */

import { WebSocket } from 'ws';
import { text } from 'node:stream/consumers';

import { createClient, RunClosed, RunFailed } from '../src/index.js';

/** @import { StreamEvent } from '../src/index.js' */

/** @typedef {{url: string, agent: string, transport: 'sse' | 'ws', steps: [string, number?][]}} Played */

const THROWN = 'thrown by a listener';
process.on('uncaughtException', (error) => {
  if (error.message !== THROWN) throw error;
});

/** The numbers of these events, of which none is missing, as a vector writes them. @param {StreamEvent[]} events */
function span(events) {
  const numbers = events.map(({ id }) => Number(id.split('-')[2]));
  const [first = 0] = numbers;
  if (numbers.some((number, index) => number !== first + index)) throw new Error(`not in order: ${numbers}`);
  return `${first}-${first + numbers.length - 1}`;
}

/** The message with which it is refused. @param {() => unknown} work */
async function refusal(work) {
  try {
    await work();
  } catch (error) {
    const { message } = /** @type {Error} */ (error);
    return message.includes('read') ? 'refused' : message;
  }
  return 'nothing was refused';
}

/** @param {Played} played */
async function play({ url, agent, transport, steps }) {
  const client = createClient({ url, transport, WebSocket });
  const other = createClient({ url, transport: 'sse' });
  const run = client.stream('begin', { agent, onDisconnect: 'continue' });
  const runId = await run.started;
  /** @type {AsyncIterator<StreamEvent, undefined> | undefined} */
  let loop;
  const next = () => (loop ??= run[Symbol.asyncIterator]()).next();
  /** @type {Promise<unknown>} */
  let background = Promise.resolve();

  /** @param {number} count */
  const read = async (count) => {
    const events = [];
    while (events.length < count) {
      const { done, value } = await next();
      if (done) throw new Error(`the run ended after ${span(events)}`);
      events.push(value);
    }
    return span(events);
  };

  /** @type {Record<string, (count: number) => unknown>} */
  const verbs = {
    watch: () => {
      run.on('status', () => {});
      run.on('retry', () => {});
      run.result.catch(() => {});
    },
    ended: async () => void (await other.attach(runId).wait()),
    in_hand: async (count) => {
      for await (const event of other.attach(runId)) if (Number(event.id.split('-')[2]) === count) break;
    },
    read,
    read_rest: async () => {
      const events = [];
      for (let taken = await next(); !taken.done; taken = await next()) events.push(taken.value);
      return span(events);
    },
    consume: () => {
      /** @type {StreamEvent[]} */
      const events = [];
      background = new Promise((resolve, reject) => {
        run.on('event', (event) => {
          events.push(event);
          if (event.type === 'AGENT_FINISH' || event.type === 'ERROR') resolve(span(events));
        });
        run.on('status', (status) => status === 'failed' && reject(run.error));
      });
    },
    consumed: () => background,
    begin_read: () => {
      background = read(1);
      background.catch(() => {});
    },
    end_read: () => background,
    second_read: () => refusal(() => run[Symbol.asyncIterator]().next()),
    throw_in_loop: async (count) => {
      try {
        for await (const event of run) if (span([event]) === `${count}-${count}`) throw new Error(THROWN);
      } catch (error) {
        if (/** @type {Error} */ (error).message === THROWN) return THROWN.split(' ')[0];
        throw error;
      }
      return 'nothing was thrown';
    },
    throw_in_listener: () => {
      run.on('event', () => {
        throw new Error(THROWN);
      });
    },
    close_at_end: () => new Promise((resolve) => {
      run.on('AGENT_FINISH', () => resolve(run.close()));
    }),
    wait: () => run.wait(),
    cancel: () => run.cancel(),
    questions: () => run.questions.length,
    answer: async () => (await run.answer(`ask-${runId}-1`, 'main')).status,
    answer_elsewhere: async () => (await other.answer(runId, `ask-${runId}-1`, 'dev')).status,
    close: () => run.close(),
    close_client: () => client.close(),
    open: async () => void (await other.stream('open', { agent }).wait()),
    another: () => refusal(() => client.stream('no').started),
  };

  const outcomes = [];
  for (const [verb, count = 0] of steps) {
    try {
      outcomes.push((await verbs[verb]?.(count)) ?? null);
    } catch (error) {
      if (error instanceof RunClosed) outcomes.push('closed');
      else if (error instanceof RunFailed) outcomes.push('failed');
      else outcomes.push(String(error));
    }
  }
  client.close();
  other.close();
  return outcomes;
}

const programs = /** @type {Played[]} */ (JSON.parse(await text(process.stdin)));
console.log(JSON.stringify(await Promise.all(programs.map(play))));

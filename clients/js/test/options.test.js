/** A bad option is a `TypeError` where it is given, which names it and says what would be right. */

import { describe, expect, test } from 'vitest';

import { createClient, RunNotFound } from '../src/index.js';
import { backoff } from '../src/retry.js';
import { attached } from './scripted.js';

const url = 'http://127.0.0.1:9';
const RUN = 'a'.repeat(26);
const client = /** @type {any} */ (createClient({ url }));

/** A bad option is refused in a sentence about it. @param {() => unknown} call @param {string} name */
function refused(call, name) {
  /** @type {unknown} */
  let error;
  try {
    call();
  } catch (thrown) {
    error = thrown;
  }
  expect(error).toBeInstanceOf(TypeError);
  const { message } = /** @type {TypeError} */ (error);
  expect(message.startsWith(`\`${name}\` must be `)).toBe(true);
  expect(message.endsWith('.')).toBe(true);
  return message;
}

describe('options of a client', () => {
  test.each(/** @type {[string, unknown][]} */ ([
    ['url', '127.0.0.1:18100'], ['url', 'localhost:8000'], ['url', 'ftp://a'], ['url', ''], ['url', null], ['url', 5],
    ['transport', 'smoke signals'], ['transport', null], ['transport', {}],
    ['token', 5], ['token', null], ['token', ''], ['token', 'naïve'], ['token', Promise.resolve('a')],
    ['headers', 'a'], ['headers', null], ['headers', { 'a b': 'c' }], ['headers', { a: 'b\nsecret' }],
    ['credentials', 'yes'],
    ['timeout', 'x'], ['timeout', 0], ['timeout', -1], ['timeout', NaN], ['timeout', Infinity], ['timeout', null],
    ['heartbeat', 2 ** 31], ['muted', 'x'],
    ['retry', 5], ['retry', null], ['retry', 'often'],
    ['fetch', {}], ['WebSocket', 'ws'], ['EventSource', 1],
  ]))('%s: %s', (name, value) => {
    expect(refused(() => createClient({ url, [name]: value }), name)).not.toContain('secret');
  });

  test.each(/** @type {[string, unknown][]} */ ([
    ['base', 'x'], ['base', -1], ['cap', NaN], ['attempts', -1], ['attempts', 1.5], ['first', 0], ['patience', '5m'],
    ['maxWait', -1], ['insists', 1], ['random', 0.5],
  ]))('retry.%s: %s', (name, value) => void refused(() => createClient({ url, retry: { [name]: value } }), `retry.${name}`));

  test('a token is not repeated', () => {
    expect(refused(() => createClient({ url, token: 'a\nsecret' }), 'token')).not.toContain('secret');
  });

  test.each(/** @type {[string, string][]} */ ([
    ['first_attempts', '`retry.first`'], ['max_attempts', '`retry.attempts`'], ['max_wait', '`retry.maxWait`'],
    ['patience', '`retry.patience`'], ['backoff', '`retry`'], ['on_retry', '`run.on('], ['http_client', '`fetch`'],
    ['web_socket', 'Options are url, transport, '], ['baseUrl', 'Options are url, transport, '],
  ]))('%s is none', (name, right) => {
    expect(() => createClient(/** @type {any} */ ({ url, [name]: 1 }))).toThrow(`\`${name}\` is not an option. `);
    expect(() => createClient(/** @type {any} */ ({ url, [name]: 1 }))).toThrow(right);
  });

  test('a text in place of them', () => {
    expect(() => createClient(/** @type {any} */ (url))).toThrow('The options must be an object, such as `{ url: … }`, not "http:');
  });

  test('those that are undefined are not there', () => {
    createClient({ url: undefined, transport: undefined, token: undefined, timeout: undefined, retry: undefined });
    expect(backoff(/** @type {any} */ ({ attempts: undefined, random: undefined }))).toEqual(backoff());
  });

  test('good ones', () => {
    createClient({
      url: 'https://user:word@[::1]:8000/below/', transport: 'sse', token: () => 'a', headers: { a: '', b: 'c d' },
      credentials: 'include', timeout: 1, heartbeat: 1, muted: 2 ** 31 - 1, fetch,
      retry: { base: 0, cap: 0, attempts: Infinity, first: 1, patience: Infinity, maxWait: 0, insists: true, random: () => 1 },
    });
  });
});

describe('options of a run', () => {
  test.each(/** @type {[string, unknown][]} */ ([
    ['agent', 7], ['agent', ''], ['userId', ''], ['userId', null], ['sessionId', {}], ['onDisconnect', 'stop'],
    ['onDisconnect', 'cancel_after:soon'], ['interrupt', 'yes'], ['types', 'LLM_CHUNK'], ['types', []], ['types', ['llm']],
    ['types', [5]], ['types', Array(33).fill('A')], ['types', ['A'.repeat(65)]], ['transport', 'smoke'], ['signal', true],
    ['cancelOnAbort', 'yes'], ['idempotencyKey', ''], ['traceparent', 5], ['params', 'a'], ['params', [1]], ['params', null],
    ['metadata', ['a']], ['metadata', { a: 7 }], ['parts', 'a'], ['parts', { type: 'text' }], ['parts', ['a']],
  ]))('stream, %s: %s', (name, value) => void refused(() => client.stream('a', { [name]: value }), name));

  test.each(/** @type {[string, unknown][]} */ ([
    ['after', true], ['after', -1], ['after', 1.5], ['after', 'x'], ['snapshot', 'yes'], ['types', 'ERROR'],
  ]))('attach, %s: %s', (name, value) => void refused(() => client.attach(RUN, { [name]: value }), name));

  test.each(/** @type {[string, unknown][]} */ ([['userId', ''], ['limit', 0], ['limit', 'x'], ['signal', 1]]))(
    'runs, %s: %s',
    async (name, value) => {
      await expect(client.runs({ [name]: value })).rejects.toThrow(`\`${name}\` must be `);
    },
  );

  test.each(/** @type {[string, unknown][]} */ ([['messageId', ''], ['messageId', null], ['messageId', 5]]))(
    'send and answer, %s: %s',
    async (name, value) => {
      await expect(client.send(RUN, 'a', { [name]: value })).rejects.toThrow(`\`${name}\` must be `);
      await expect(client.answer(RUN, 'ask', 'a', { [name]: value })).rejects.toThrow(`\`${name}\` must be `);
    },
  );

  test('names of the Python client', async () => {
    for (const [name, right] of Object.entries({ user_id: 'userId', on_disconnect: 'onDisconnect', session_id: 'sessionId' })) {
      expect(() => client.stream('a', { [name]: 'x' })).toThrow(`\`${name}\` is not an option. It is \`${right}\` here.`);
    }
    expect(() => client.attach(RUN, { userId: 'x' })).toThrow('`userId` is not an option. Options are transport, types, ');
    await expect(client.runs({ user_id: 'x' })).rejects.toThrow('It is `userId` here.');
    await expect(client.send(RUN, 'a', { message_id: 'x' })).rejects.toThrow('It is `messageId` here.');
  });

  test.each([undefined, null, '', 5, {}])('an id that is none: %s', async (id) => {
    expect(refused(() => client.attach(id), 'runId')).toContain('`await run.started`');
    for (const call of [client.get, client.cancel]) {
      await expect(call.call(client, id)).rejects.toThrow('`runId` must be the id of a run');
    }
  });

  test('an id that no run can have', async () => {
    const controller = new AbortController();
    const run = client.attach('a/../b', { snapshot: true, signal: controller.signal, cancelOnAbort: true });
    for (const call of [() => run.result, () => run.started, () => run.cancel(), () => client.get('x'), () => client.cancel('x')]) {
      await expect(call()).rejects.toThrow(RunNotFound);
    }
    expect(run.error).toMatchObject({ code: 'run_not_found', status: 404 });
  });
});

test('what a run never tells', async () => {
  const { run } = await attached();
  for (const type of ['error', 'end', 'close', 'message', 'llm_chunk', '']) {
    expect(refused(() => run.on(type, () => {}), 'type')).toContain('`run.result` tells');
  }
  refused(() => run.on('status', /** @type {any} */ (undefined)), 'listener');
  for (const type of ['event', 'status', 'snapshot', 'retry', 'input', 'LLM_CHUNK', 'MY_OWN']) run.on(type, () => {})();
});

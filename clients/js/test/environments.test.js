/** Environments that lack or add something: a page to be on, a body that streams, cookies. */

import { expect, onTestFinished, test, vi } from 'vitest';

import { createClient } from '../src/index.js';
import { connected, proxied, URL_OF } from './live.js';

/** A global as another environment has it, until the test is over. @param {string} name @param {unknown} value */
function stub(name, value) {
  vi.stubGlobal(name, value);
  onTestFinished(() => void vi.unstubAllGlobals());
}

/** React Native's `fetch`: answers come whole, and have no `body`. @type {typeof fetch} */
const whole = async (input, init) => {
  const response = await fetch(input, init);
  const text = await response.text();
  const { ok, status, headers } = response;
  return /** @type {Response} */ ({ ok, status, headers, text: async () => text });
};

test('the URL of a client without one is that of the page, at the first request', async () => {
  const client = connected({ url: undefined });
  expect(() => client.stream('words 1')).toThrow('`url` is required');
  await expect(client.get('a'.repeat(26))).rejects.toThrow('`url` is required');
  stub('location', { origin: URL_OF.open });
  expect(await client.stream('words 1').result).toBe('1 ');
});

test('a page that is rendered where there is no WebSocket can have a client for one', () => {
  stub('WebSocket', undefined);
  const client = createClient({ url: URL_OF.open, transport: 'ws' });
  expect(() => client.stream('words 1')).toThrow('`transport` is ws');
});

test('without a body that streams, auto takes the socket at once, even for its later runs', async () => {
  const { url, lines } = await proxied();
  const client = connected({ url, fetch: whole, muted: 60_000 });
  const runs = [client.stream('words 3'), client.stream('words 4')];
  expect(await Promise.all(runs.map((run) => run.result))).toEqual(['1 2 3 ', '1 2 3 4 ']);
  expect(await client.stream('words 5').result).toBe('1 2 3 4 5 ');
  expect(lines.filter((line) => !line.endsWith('/ws'))).toEqual(['POST /runs', 'POST /runs']);
});

test('without a body that streams, a run is joined over the socket', async () => {
  const run = connected({}).stream('words 3');
  await run.result;
  const { url, lines } = await proxied();
  const client = connected({ url, fetch: whole, muted: 60_000 });
  expect(await client.attach(run.runId ?? '').result).toBe('1 2 3 ');
  expect(lines.map((line) => line.split('/').at(-1)?.split('?')[0])).toEqual(['events', 'ws']);
});

test('where no answer has a body, nothing is tried over SSE, and who wants it is told so', async () => {
  stub('Response', class {});
  const { url, lines } = await proxied();
  const client = connected({ url });
  expect(await client.stream('words 1').result).toBe('1 ');
  expect(lines.map((line) => line.split('/').at(-1))).toEqual(['ws']);
  expect(() => client.stream('words 1', { transport: 'sse' })).toThrow('`transport` is sse');
});

test('credentials go with each request, and with an EventSource', async () => {
  /** @type {unknown[]} */
  const sent = [];
  class Source {
    /** @type {((event: any) => void) | null} */ onopen = null;
    /** @type {((event: any) => void) | null} */ onerror = null;

    /** @param {string} _ @param {object} [options] */
    constructor(_, options) {
      sent.push(options);
      queueMicrotask(() => this.onopen?.({}));
    }

    addEventListener() {}

    close() {}
  }
  const client = connected({
    credentials: 'include',
    transport: 'sse',
    EventSource: Source,
    fetch: (input, init) => {
      sent.push(init?.credentials);
      return fetch(input, init);
    },
  });
  await client.stream('words 1').result;
  expect(sent.splice(0)).toEqual(['include', 'include']);
  const run = client.stream('words 1', { transport: 'eventsource' });
  await run.started;
  await vi.waitUntil(() => run.status === 'open');
  expect(sent).toEqual(['include', { withCredentials: true }]);
});

/** Failures, by kind: those that are tried again, how often, and those that no waiting mends. */

import { createServer } from 'node:http';
import { describe, expect, onTestFinished, test, vi } from 'vitest';
import { WebSocket } from 'ws';

import { ApiError, ConnectionLost, createClient, TwinwireError } from '../src/index.js';
import { connected, proxied, TRANSPORTS, URL_OF } from './live.js';

/** @import { IncomingMessage, ServerResponse } from 'node:http' */
/** @import { AddressInfo } from 'node:net' */
/** @import { ClientOptions, Retry, Run } from '../src/index.js' */

const NOWHERE = 'a'.repeat(26);

/** A server that answers all requests so, until the test is over; its address. @param {(request: IncomingMessage, response: ServerResponse) => void} answer */
async function answering(answer) {
  const server = createServer(answer);
  await new Promise((resolve) => server.listen(0, '127.0.0.1', () => resolve(undefined)));
  onTestFinished(() => {
    server.close();
    server.closeAllConnections();
  });
  return `http://127.0.0.1:${/** @type {AddressInfo} */ (server.address()).port}`;
}

/** One that refuses everything. @param {number} status @param {Record<string, unknown>} body @param {string} [after] */
const refusing = (status, body, after) =>
  answering((_, response) => {
    response.writeHead(status, { 'content-type': 'application/json', ...(after && { 'retry-after': after }) });
    response.end(JSON.stringify(body));
  });

/** An address where nobody is. */
async function nobody() {
  const server = createServer();
  await new Promise((resolve) => server.listen(0, '127.0.0.1', () => resolve(undefined)));
  const { port } = /** @type {AddressInfo} */ (server.address());
  await new Promise((resolve) => server.close(resolve));
  return `http://127.0.0.1:${port}`;
}

/** The retries that a run tells. @param {Run} run */
function retries(run) {
  /** @type {Retry[]} */
  const told = [];
  run.on('retry', (retry) => told.push(retry));
  return told;
}

/** The error that this rejects with, and after how many ms. @param {() => Promise<unknown>} call */
async function failure(call) {
  const began = performance.now();
  const error = await call().then(() => null, (thrown) => thrown);
  return { error, took: performance.now() - began };
}

describe('a server that asks to wait', () => {
  const busy = { code: 'draining', message: 'The server restarts.' };

  test('for too long is not waited for', async () => {
    const url = await refusing(503, busy, '86400');
    const run = connected({ url, transport: 'sse' }).stream('words 1');
    const told = retries(run);
    const { error, took } = await failure(() => run.result);
    expect(error).toBeInstanceOf(ConnectionLost);
    expect(error).toMatchObject({ code: 'draining', status: 503, retryAfter: 86_400_000, attempts: 1 });
    expect(error.message).toContain('`retry.maxWait`');
    expect([took < 2_000, told]).toEqual([true, []]);
  });

  test('until a date, too', async () => {
    const url = await refusing(429, busy, new Date(Date.now() + 3_600_000).toUTCString());
    const { error } = await failure(() => connected({ url }).get(NOWHERE));
    expect(error).toBeInstanceOf(ConnectionLost);
    expect(error.retryAfter).toBeGreaterThan(3_500_000);
  });

  test('as long as one is willing to', async () => {
    const url = await refusing(503, busy, '2');
    const { error } = await failure(() => connected({ url, retry: { maxWait: 1_999 } }).get(NOWHERE));
    expect(error).toMatchObject({ retryAfter: 2_000, attempts: 1 });
  });

  test('for ever is lost, and says what the server said', async () => {
    const url = await refusing(429, { code: 'rate_limited', message: 'Too many runs.' });
    const run = connected({ url, transport: 'sse', retry: { base: 1, attempts: 3 } }).stream('words 1');
    const told = retries(run);
    await expect(run.result).rejects.toMatchObject({ code: 'rate_limited', status: 429, retryAfter: null, attempts: 3 });
    const [once, again] = told;
    expect(told).toHaveLength(2);
    expect(once).toMatchObject({ attempt: 1, code: 'rate_limited', status: 429, retryAfter: null, said: 'Too many runs.' });
    expect(again).toMatchObject({ attempt: 2, reason: 'Too many runs.', wait: expect.any(Number) });
  });

  test('is waited for, and told', async () => {
    let asked = 0;
    const url = await answering((_, response) => {
      asked += 1;
      if (asked === 1) response.writeHead(503, { 'retry-after': '1' }).end('no JSON');
      else response.writeHead(404, { 'content-type': 'application/json' }).end('{"code": "run_not_found"}');
    });
    const run = connected({ url, transport: 'sse' }).attach(NOWHERE);
    const told = retries(run);
    const { took } = await failure(() => run.result);
    expect(took).toBeGreaterThan(990);
    expect(told).toMatchObject([{ attempt: 1, code: null, status: 503, retryAfter: 1000, said: null }]);
    expect(told[0]?.wait).toBeGreaterThanOrEqual(1000);
  });
});

test('an error of the server has what it said', async () => {
  const url = await refusing(409, { code: 'session_busy', message: 'No.', field: 'session_id' }, '3');
  const { error } = await failure(() => connected({ url }).get(NOWHERE));
  expect(error).toMatchObject({ name: 'SessionBusy', code: 'session_busy', field: 'session_id', status: 409, retryAfter: 3000 });
  expect(error).toBeInstanceOf(TwinwireError);
});

describe('the function of a token', () => {
  const broken = /** @type {[string, any, string][]} */ ([
    ['throws', () => { throw new Error('no key'); }, 'no key'],
    ['rejects', async () => { throw new Error('no key'); }, 'no key'],
    ['gives no string', () => undefined, 'gave no string'],
    ['gives what no header can have', () => 'a\nsecret', 'gave a string that no header can have'],
    ['does not answer', () => new Promise(() => {}), 'did not answer within 200 ms'],
  ]);

  test.each(broken.flatMap((each) => TRANSPORTS.map((transport) => [transport, ...each])))('over %s, if it %s, is a failed attempt', async (transport, _, fails, why) => {
    let asked = 0;
    const token = () => {
      asked += 1;
      return asked < 3 ? fails() : 'alice-secret-token';
    };
    const run = connected({ url: URL_OF.guarded, transport, token, timeout: 200, heartbeat: 5_000 }).stream('words 1');
    const told = retries(run);
    // A slow machine may not answer within 200 ms either: that is another failure.
    expect(await run.result).toBe('1 ');
    expect(told.slice(0, 2).map(({ attempt, code }) => [attempt, code])).toEqual([[1, 'token_failed'], [2, 'token_failed']]);
    expect(told[0]?.reason).toContain(why);
    expect(told[0]?.reason).not.toContain('secret');
  });

  test('is asked no more often than anything else is tried', async () => {
    const token = vi.fn(() => Promise.reject(new Error('no key')));
    const client = connected({ token, retry: { base: 1, attempts: 3 } });
    for (const call of [() => client.stream('a').result, () => client.get(NOWHERE), () => client.runs(), () => client.cancel(NOWHERE), () => client.send(NOWHERE, 'a')]) {
      token.mockClear();
      const { error } = await failure(call);
      expect(error).toMatchObject({ name: 'ConnectionLost', code: 'token_failed', attempts: 3 });
      expect(error.message).toContain('no key');
      expect(token).toHaveBeenCalledTimes(3);
    }
  });
});

describe('errors of the program are told at once', () => {
  const client = createClient({ url: 'http://127.0.0.1:9' });

  test('a message that is none', () => {
    const event = { target: {} };
    event.target = event;
    for (const message of [event, null, undefined, 7]) {
      expect(() => client.stream(/** @type {any} */ (message))).toThrow('`message` must be a string');
    }
    expect(() => client.stream('a', { agent: /** @type {any} */ (event) })).toThrow(TypeError);
    expect(() => client.stream('a', { userId: /** @type {any} */ (7n) })).toThrow('`userId` must be');
  });

  test('a token that is none', () => {
    expect(() => createClient({ token: /** @type {any} */ (Promise.resolve('a')) })).toThrow('`token` must be');
  });
});

describe.each(TRANSPORTS)('what waiting does not mend is told at once: %s', (transport) => {
  test('a host of which nobody has heard', async () => {
    const { error, took } = await failure(() => createClient({ url: 'http://nobody.invalid', transport, WebSocket }).stream('a').result);
    expect(error).toMatchObject({ name: 'ConnectionLost', code: 'unknown_host' });
    expect(took).toBeLessThan(3_000);
  });

  test('an address where nobody is', async () => {
    const url = await nobody();
    const { error, took } = await failure(() => createClient({ url, transport, WebSocket }).stream('a').result);
    expect(error).toMatchObject({ name: 'ConnectionLost', code: 'connection_refused' });
    expect(took).toBeLessThan(3_000);
  });

  test('an address that says https, of a server that speaks http', async () => {
    const url = URL_OF.open.replace('http:', 'https:');
    const client = createClient({ url, transport, WebSocket });
    for (const call of [() => client.stream('a').result, () => client.get(NOWHERE)]) {
      const { error, took } = await failure(call);
      expect(error).toMatchObject({ name: 'ConnectionLost', code: 'not_https', attempts: 1 });
      expect(error.message).toContain('The server speaks http, not https.');
      expect(error.message).not.toContain('SSL');
      expect(took).toBeLessThan(3_000);
    }
  });

  test('the status is that of the code', async () => {
    const { error } = await failure(() => connected({ url: URL_OF.guarded, transport }).stream('a').result);
    expect(error).toMatchObject({ name: 'Unauthenticated', code: 'unauthenticated', status: 401 });
    const client = connected({ transport });
    expect((await failure(() => client.attach(NOWHERE).result)).error).toMatchObject({ code: 'run_not_found', status: 404 });
    expect((await failure(() => client.stream(' ').result)).error).toMatchObject({ code: 'bad_request', status: 400 });
  });

  test('an address where nobody is any more is another matter', async () => {
    const { url, close } = await proxied();
    const client = createClient({ url, transport, WebSocket, retry: { patience: 3_000, cap: 100 } });
    onTestFinished(() => client.close());
    expect(await client.stream('words 1').result).toBe('1 ');
    close();
    for (const call of [() => client.stream('a').result, () => client.get(NOWHERE)]) {
      const { error, took } = await failure(call);
      expect(error).toMatchObject({ code: 'connection_refused' });
      expect(took).toBeGreaterThan(2_900);
    }
  });

  test('a certificate that nobody trusts', async () => {
    const url = process.env['TWINWIRE_TLS_URL'] ?? '';
    const { error, took } = await failure(() => createClient({ url, transport, WebSocket }).stream('a').result);
    expect(error).toMatchObject({ name: 'ConnectionLost', code: 'certificate_not_trusted', attempts: 1 });
    expect(error.message).toContain('NODE_EXTRA_CA_CERTS');
    expect(took).toBeLessThan(3_000);
  });
});

describe('in a page of another origin', () => {
  /**
   * Has the test run as in a page at http://page, whose browser fails as `fetch` says for each mode.
   * @param {(mode: RequestMode | undefined) => Promise<unknown>} network @param {ClientOptions} [options]
   */
  function paged(network, options) {
    vi.stubGlobal('location', { origin: 'http://page' });
    vi.stubGlobal('navigator', { onLine: true });
    onTestFinished(() => void vi.unstubAllGlobals());
    /** @type {string[]} */
    const asked = [];
    const fetch = async (/** @type {any} */ url, /** @type {RequestInit} */ init = {}) => {
      asked.push(`${init.mode ?? 'plain'} ${new URL(url).pathname}`);
      return /** @type {Response} */ (await network(init.mode));
    };
    const client = createClient({ url: 'http://server', transport: 'sse', retry: { base: 1 }, fetch, ...options });
    onTestFinished(() => client.close());
    return { client, asked };
  }
  const fails = () => Promise.reject(new TypeError('Failed to fetch'));

  test('an origin that is not allowed', async () => {
    const { client, asked } = paged((mode) => (mode === 'no-cors' ? Promise.resolve({}) : fails()));
    const { error } = await failure(() => client.stream('a').result);
    expect(error).toBeInstanceOf(ApiError);
    expect(error).toMatchObject({ code: 'origin_not_allowed', status: 403 });
    expect(error.message).toContain('List the origin');
    expect(error.message).toContain('http://page');
    expect(asked).toEqual(['plain /runs', 'no-cors /healthz', 'cors /healthz']);
  });

  test('one that is not allowed over a socket, which tells nothing', async () => {
    class Closed {
      /** @type {((event: any) => void) | null} */ onopen = null;
      /** @type {((event: any) => void) | null} */ onmessage = null;
      /** @type {((event: any) => void) | null} */ onerror = null;
      /** @type {((event: any) => void) | null} */ onclose = null;

      constructor() {
        queueMicrotask(() => this.onclose?.({ code: 1006, reason: '' }));
      }

      send() {}

      close() {}
    }
    const { client } = paged((mode) => (mode === 'no-cors' ? Promise.resolve({}) : fails()), { transport: 'ws', WebSocket: Closed });
    await expect(client.stream('a').result).rejects.toMatchObject({ code: 'origin_not_allowed' });
  });

  test('a server that is not there, which a browser tells no reason for', async () => {
    const { client } = paged(fails, { retry: {} });
    const { error, took } = await failure(() => client.stream('a').result);
    expect(error).toMatchObject({ name: 'ConnectionLost', code: null });
    expect(took).toBeLessThan(3_000);
  });

  test('a network that only stumbled', async () => {
    let stumbled = false;
    const { client, asked } = paged((mode) => {
      const answer = new Response('{"run_id": "x", "status": "running"}');
      if (mode !== undefined || stumbled) return Promise.resolve(answer);
      stumbled = true;
      return fails();
    });
    expect((await client.get(NOWHERE)).status).toBe('running');
    expect(asked).toEqual([`plain /runs/${NOWHERE}`, 'no-cors /healthz', 'cors /healthz', `plain /runs/${NOWHERE}`]);
  });
});

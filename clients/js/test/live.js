/** What the tests against real servers share. `TWINWIRE_URL` is a server, `TWINWIRE_AUTH_URL` one that wants a token. */

import { onTestFinished } from 'vitest';
import { WebSocket } from 'ws';

import { createClient } from '../src/index.js';
import { proxy } from './proxy.js';

/** @import { ClientOptions } from '../src/index.js' */
/** @import { Fault } from './proxy.js' */

export const URL_OF = { open: process.env['TWINWIRE_URL'] ?? '', guarded: process.env['TWINWIRE_AUTH_URL'] ?? '' };
export const TRANSPORTS = /** @type {const} */ (['sse', 'ws', 'auto']);

/**
 * A client that tries again fast, until the test is over. A test that runs at the same time as others gives its context.
 * @param {ClientOptions} options @param {Pick<import('vitest').TestContext, 'onTestFinished'>} [context]
 */
export function connected(options, context = { onTestFinished }) {
  const client = createClient({ url: URL_OF.open, WebSocket, retry: { base: 10, cap: 50 }, ...options });
  context.onTestFinished(() => client.close());
  return client;
}

/** A proxy before the server, until the test is over. @param {(line: string, count: number) => Fault | void} [fault] */
export async function proxied(fault = () => {}) {
  const before = await proxy(URL_OF.open, fault);
  onTestFinished(() => before.close());
  return before;
}

/** The number of an event. @param {{id: string}} event */
export const number = (event) => Number(event.id.split('-')[2]);

/** 1, 2, … n. @param {number} n */
export const upTo = (n) => Array.from({ length: n }, (_, index) => index + 1);

let names = 0;
/** A name that no other test uses, for what an agent keeps by name. */
export const fresh = () => `${process.pid}-${(names += 1)}`;

/** Lets the run go on that waits at this gate. @param {string} gate */
export const open = (gate) => connected({ transport: 'sse' }).stream(`open ${gate}`).result;

/**
 * Resolves at the run's first event of this type.
 * @param {import('../src/index.js').Run} run @param {string} type
 */
export const first = (run, type) => new Promise((resolve) => run.on(type, resolve));

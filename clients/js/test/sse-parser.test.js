/** The SSE parser against npm's eventsource-parser, in every way that a network can cut a stream into pieces. */

import { createParser } from 'eventsource-parser';
import { describe, expect, test } from 'vitest';

import { SseParser } from '../src/sse-parser.js';

const STREAMS = {
  'an event': 'event: LLM_CHUNK\ndata: {"content":"Hello"}\nid: evt-a-7\n\n',
  'CRLF': 'event: a\r\ndata: 1\r\nid: 2\r\n\r\ndata: 3\r\n\r\n',
  'CR': 'event: a\rdata: 1\rid: 2\r\rdata: 3\r\r',
  'all three': 'data: 1\r\ndata: 2\rdata: 3\ndata: 4\r\n\ndata: 5\n\n',
  'comments': ': heartbeat\n\n:\n\ndata: 1\n: within\ndata: 2\n\n',
  'an opening block': 'retry: 1130\nid: evt-a-0\n\ndata: 1\n\n',
  'no space, two spaces': 'data:1\ndata:  2\nevent:a\n\n',
  'fields without a value': 'data\n\ndata\ndata\n\nid\nevent\ndata: 1\n\n',
  'unknown fields, and no field': 'new: 1\n: x\nDATA: 1\ndata : 2\ndata: 3\n\n',
  'an id that stays': 'id: 1\ndata: a\n\ndata: b\n\nid\ndata: c\n\n',
  'an id with NUL': 'id: 1\ndata: a\n\nid: 2\0\ndata: b\n\n',
  'a block that is not whole': 'data: 1\n\ndata: 2\n',
  'an event type without data': 'event: a\n\ndata: 1\n\n',
  'a byte order mark': '\ufeffdata: 1\n\n',
  'characters of many bytes': 'data: ä€😀\u2028\u0085\n\n',
  'colons': 'data: a:b: c\n\n',
  'a retry that is none': 'retry: 10x\nretry: -1\nretry:\nretry: 20\ndata: 1\n\n',
};

/** @param {string} stream @param {number} size  of the pieces, in bytes */
function parse(stream, size) {
  const bytes = new TextEncoder().encode(stream);
  const decoder = new TextDecoder();
  const parser = new SseParser();
  const messages = [];
  for (let start = 0; start < bytes.length; start += size) {
    messages.push(...parser.feed(decoder.decode(bytes.subarray(start, start + size), { stream: true })));
  }
  return { messages, retry: parser.retry };
}

/** What the other parser says; the last event id, which it leaves to its user, is kept as the standard has it. @param {string} stream */
function oracle(stream) {
  /** @type {{event: string, data: string, id: string}[]} */
  const messages = [];
  /** @type {number | null} */
  let retry = null;
  let last = '';
  const parser = createParser({
    onEvent: ({ event, data, id }) => {
      last = id ?? last;
      messages.push({ event: event || 'message', data, id: last });
    },
    onRetry: (ms) => {
      retry = ms;
    },
  });
  parser.feed(`${stream.replace(/^\ufeff/, '')}:\n`); // it waits for what comes after a CR
  return { messages, retry };
}

describe.each(Object.entries(STREAMS))('%s', (name, stream) => {
  test.each([1, 2, 3, 7, 10_000])('in pieces of %i bytes, it is what the oracle says', (size) => {
    expect(parse(stream, size)).toEqual(name === 'an opening block' ? withOpening(stream) : oracle(stream));
  });
});

/** The oracle forgets the id of a block without data, which the standard keeps (9.2.6). @param {string} stream */
function withOpening(stream) {
  const { messages, retry } = oracle(stream);
  return { messages: messages.map((message) => ({ ...message, id: 'evt-a-0' })), retry };
}

test('a line of 8 MB in small pieces is not searched again and again', () => {
  const data = 'x'.repeat(2 ** 23);
  const { messages } = parse(`data: ${data}\n\n`, 2 ** 12);
  expect(messages).toEqual([{ event: 'message', data, id: '' }]);
});

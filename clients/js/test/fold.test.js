/** The fold, and the ids, by the vectors that the server's own are tested with. */

import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';

import { parseEventId } from '../src/events.js';
import { Fold } from '../src/fold.js';

/** @param {string} name @returns {Record<string, any>[]} */
const vectors = (name) => JSON.parse(readFileSync(new URL(`../../../tests/vectors/${name}.json`, import.meta.url), 'utf8'));

const BLANK = {
  text: '', thinking: '', step: null, max_steps: null, progress: null, tools: {}, usage: null, status: 'running',
  result: null, error_type: null, error: null, reason: null, questions: [], waiting: false,
};

describe('fold', () => {
  test.each(vectors('fold').map((vector) => [vector['name'], vector]))('%s', (_, { events, state }) => {
    const fold = new Fold();
    for (const event of events) fold.apply(event);
    expect({ ...fold.state, tools: { ...fold.state.tools } }).toEqual({ ...BLANK, ...state });
  });

  test.each(vectors('fold').map((vector) => [vector['name'], vector]))('%s, from a snapshot of its middle', (_, vector) => {
    const { events, state } = vector;
    const first = new Fold();
    const middle = Math.floor(events.length / 2);
    for (const event of events.slice(0, middle)) first.apply(event);
    const fold = new Fold(JSON.parse(JSON.stringify(first.state)));
    for (const event of events.slice(middle)) fold.apply(event);
    expect({ ...fold.state, tools: { ...fold.state.tools } }).toEqual({ ...BLANK, ...state });
  });
});

describe('event ids', () => {
  const ids = vectors('cursors').filter(({ input }) => typeof input === 'string');
  test.each(ids.map((vector) => [vector['name'], vector]))('%s', (_, { input, expected }) => {
    const counts = expected && Number.isSafeInteger(Number(expected.seq));
    expect(parseEventId(input)).toEqual(counts ? { runId: expected.run_id, number: Number(expected.seq) } : null);
  });
});

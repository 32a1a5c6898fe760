/** The form of an answer, by the vectors that the server's own check is tested with. */

import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';

import { answerOf, checkAnswer, formOf } from '../src/form.js';

/** @import { AnswerSchema } from '../src/events.js' */

/** @typedef {{name: string, schema: AnswerSchema | null, good: unknown[], bad: {answer: unknown, field: string}[]}} Vector */
const file = readFileSync(new URL('../../../tests/vectors/schema.json', import.meta.url), 'utf8');
const vectors = /** @type {Vector[]} */ (JSON.parse(file).fits);

test.each(vectors.map((vector) => [vector.name, vector]))('%s', (_, vector) => {
  const { schema, good, bad } = /** @type {Vector} */ (vector);
  for (const answer of good) expect(checkAnswer(schema, answer)).toBe(null);
  for (const { answer, field } of bad) {
    const found = checkAnswer(schema, answer);
    expect(found?.field).toBe(field);
    expect(found?.message).toMatch(/^`.*\.$/s);
  }
  const fields = formOf(schema);
  for (const { field } of bad) {
    const of = field === 'answer' || field === 'answer.more' || fields.some(({ path }) => path === field);
    expect(of, field).toBe(true);
  }
});

test.each(vectors.flatMap(({ name, schema, good }) => good.map((answer) => [name, schema, answer])))(
  'a form of %s is filled in with what a browser has, and gives the answer',
  (_, schema, answer) => {
    const form = /** @type {AnswerSchema | null} */ (schema);
    const whole = typeof answer === 'object' ? /** @type {Record<string, unknown>} */ (answer) : { answer };
    const boxes = formOf(form).filter(({ type }) => type === 'boolean').map(({ name }) => name);
    const texts = Object.entries(whole)
      .filter(([name, value]) => !(boxes.includes(name) && value === false))
      .map(([name, value]) => [name, value === true ? 'on' : String(value)]);
    const unchecked = typeof answer === 'object' ? boxes.map((name) => [name, false]) : [];
    const expected = typeof answer === 'object' ? { ...Object.fromEntries(unchecked), ...whole } : answer;
    expect(answerOf(form, Object.fromEntries(texts))).toEqual(expected);
  },
);

/** @type {AnswerSchema} */
const BOOKING = {
  type: 'object',
  properties: {
    city: { type: 'string', title: 'Where to?', description: 'A city', enum: ['Rome', 'Oslo'] },
    nights: { type: 'integer', minimum: 1, default: 2 },
    note: { type: 'string', maxLength: 9, format: 'uri' },
    share: { type: 'number' },
  },
  required: ['city'],
  default: { nights: 3, note: 'a:b' },
};

test('the fields of a form, with all that it takes to draw them', () => {
  const none = { description: null, default: null, options: null, format: null };
  const free = { minLength: null, maxLength: null, minimum: null, maximum: null };
  expect(formOf(BOOKING)).toEqual([
    { ...none, ...free, name: 'city', path: 'answer.city', label: 'Where to?', description: 'A city', type: 'string',
      required: true, options: ['Rome', 'Oslo'] },
    { ...none, ...free, name: 'nights', path: 'answer.nights', label: 'nights', type: 'integer', required: false,
      default: 2, minimum: 1 },
    { ...none, ...free, name: 'note', path: 'answer.note', label: 'note', type: 'string', required: false,
      default: 'a:b', maxLength: 9, format: 'uri' },
    { ...none, ...free, name: 'share', path: 'answer.share', label: 'share', type: 'number', required: false },
  ]);
  const text = { ...none, ...free, name: 'answer', path: 'answer', label: 'answer', type: 'string', required: true };
  for (const schema of [null, undefined, /** @type {const} */ ({ type: 'string' })]) expect(formOf(schema)).toEqual([text]);
});

test.each(/** @type {[Record<string, unknown>, object, string | null][]} */ ([
  [{ city: 'Rome', nights: '', note: '', share: ' ' }, { city: 'Rome' }, null],
  [{ city: 'Rome', nights: '2', share: '1e3' }, { city: 'Rome', nights: 2, share: 1000 }, null],
  [{ nights: '2' }, { city: '', nights: 2 }, 'answer.city'],
  [{ city: 'Oslo', nights: '1.5' }, { city: 'Oslo', nights: 1.5 }, 'answer.nights'],
  [{ city: 'Oslo', share: '1 €' }, { city: 'Oslo', share: '1 €' }, 'answer.share'],
]))('%j', (filled, answer, field) => {
  expect(answerOf(BOOKING, filled)).toEqual(answer);
  expect(checkAnswer(BOOKING, answer)?.field ?? null).toBe(field);
});

test('one value that is left empty is no answer, unless it is a text', () => {
  expect(answerOf({ type: 'number' }, { answer: '' })).toBe(undefined);
  expect(checkAnswer({ type: 'number' }, undefined)).toEqual({ field: 'answer', message: '`answer` must be a number.' });
  expect(answerOf(null, {})).toBe('');
  expect(answerOf({ type: 'boolean' }, { answer: 'false' })).toBe(false);
});

test('names that every object has are not the schema\'s', () => {
  const answer = JSON.parse('{"city": "Rome", "constructor": 1}');
  expect(checkAnswer(BOOKING, answer)).toMatchObject({ field: 'answer.constructor' });
  const named = /** @type {AnswerSchema} */ ({ ...BOOKING, required: ['toString'] });
  expect(checkAnswer(named, { city: 'Rome' })).toEqual({ field: 'answer.toString', message: '`answer.toString` is required.' });
});

test('an answer of the server\'s own words', () => {
  expect(checkAnswer(BOOKING, { town: 'Rome' })?.message).toBe(
    '`answer.town` is unknown. The names are city, nights, note, share.',
  );
  expect(checkAnswer(BOOKING, { city: 'Bonn' })?.message).toBe('`answer.city` must be one of Rome, Oslo.');
});

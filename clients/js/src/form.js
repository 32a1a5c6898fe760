/**
 * The form of an answer (PROTOCOL.md, section 10): the fields to draw, the answer that they come to, and whether it is
 * one that the server takes. Pure; it draws nothing.
 */

import { isObject } from './events.js';

/** @import { AnswerSchema, ValueSchema } from './events.js' */

/**
 * A field of a form. `name` is the property that it is for, and `path` what an error's `field` calls it: `answer.<name>`,
 * or `answer` for both if the whole answer is one value. `label` is the title, or else the name. A field that need not be
 * filled in is not `required`; `options` are the texts to choose from. What the schema does not say is null.
 * @typedef {{name: string, path: string, label: string, description: string | null,
 *   type: ValueSchema['type'], required: boolean, default: unknown, options: readonly string[] | null,
 *   format: ValueSchema['format'] | null, minLength: number | null, maxLength: number | null, minimum: number | null,
 *   maximum: number | null}} Field
 */
/** @typedef {AnswerSchema | null | undefined} Schema  none is that of any text */
/** A fault of an answer: its path, and a sentence. @typedef {{field: string, message: string}} Fault */

/** @type {ValueSchema} */
const TEXT = { type: 'string' };
const DATE = /^\d{4}-\d\d-\d\d$/;
const TIME = /^[tT]([01]\d|2[0-3])(:[0-5]\d){2}(\.\d+)?([zZ]|[+-]([01]\d|2[0-3]):[0-5]\d)$/;

/** @param {string} text */
function isDate(text) {
  const date = new Date(`${text}T00:00:00Z`);
  return DATE.test(text) && text >= '0001' && date.getTime() === date.getTime() && date.toISOString().startsWith(text);
}

/** The formats of a text: the words for each, and a test of a text. @type {Record<string, [string, (text: string) => boolean]>} */
const FORMATS = {
  email: ['an e-mail address', (text) => /^[^@\s]+@[^@\s]+\.[^@\s]+$/.test(text)],
  uri: ['a URI, such as https://example.com/', (text) => /^[a-z][a-z0-9+.-]*:\S*$/i.test(text)],
  date: ['a date, such as 2026-02-21', isDate],
  'date-time': [
    'a time of RFC 3339, such as 2026-02-21T10:30:45Z',
    (text) => isDate(text.slice(0, 10)) && TIME.test(text.slice(10)),
  ],
};

/** @param {string} name @param {string} path @param {ValueSchema} schema @param {boolean} required @returns {Field} */
function field(name, path, schema, required) {
  const { type, title = name, description = null, enum: options = null, format = null } = schema;
  const { minLength = null, maxLength = null, minimum = null, maximum = null } = schema;
  const bounds = { options, format, minLength, maxLength, minimum, maximum };
  return { name, path, label: title, description, type, required, default: schema.default ?? null, ...bounds };
}

/** The fields to ask for, in their order. @param {Schema} schema @returns {Field[]} */
export function formOf(schema) {
  if (schema?.type !== 'object') return [field('answer', 'answer', schema ?? TEXT, true)];
  const { properties, required = [], default: whole } = schema;
  return Object.entries(properties).map(([name, value]) => {
    const inner = isObject(whole) && Object.hasOwn(whole, name) ? { default: whole[name] } : {};
    return field(name, `answer.${name}`, { ...inner, ...value }, required.includes(name));
  });
}

/**
 * The answer that a filled in form comes to. `filled` has the text of each field by its name, as a `FormData` of the form
 * has it; of a boolean whether it is true, or whatever text a checked box has. Of an object, what is empty and need not
 * be filled in is left out. `checkAnswer` tells whether the answer is good.
 * @param {Schema} schema @param {Record<string, unknown>} filled
 */
export function answerOf(schema, filled) {
  const values = formOf(schema).map(({ name, type, required }) => [name, valueOf(type, filled[name], required)]);
  if (schema?.type !== 'object') return values[0]?.[1];
  return Object.fromEntries(values.filter(([, value]) => value !== undefined));
}

/** @param {Field['type']} type @param {unknown} given @param {boolean} required */
function valueOf(type, given, required) {
  if (type === 'boolean') return Boolean(given) && given !== 'false';
  const text = String(given ?? '');
  if (type === 'string') return text === '' && !required ? undefined : text;
  if (text.trim() === '') return undefined;
  return Number.isFinite(Number(text)) ? Number(text) : text;
}

/**
 * Null if the answer fits the schema, or else what is wrong with it.
 * @param {Schema} schema @param {unknown} answer @returns {Fault | null}
 */
export function checkAnswer(schema, answer) {
  if (schema?.type !== 'object') return check(schema ?? TEXT, answer, 'answer');
  const { properties, required = [] } = schema;
  if (!isObject(answer)) return fault('answer', 'must be an object');
  for (const [name, value] of Object.entries(answer)) {
    if (!Object.hasOwn(properties, name)) {
      return fault(`answer.${name}`, `is unknown. The names are ${Object.keys(properties).join(', ')}`);
    }
    const found = check(/** @type {ValueSchema} */ (properties[name]), value, `answer.${name}`);
    if (found) return found;
  }
  const missing = required.find((name) => !Object.hasOwn(answer, name));
  return missing === undefined ? null : fault(`answer.${missing}`, 'is required');
}

/** @param {string} path @param {string} what @returns {Fault} */
const fault = (path, what) => ({ field: path, message: `\`${path}\` ${what}.` });

/** @param {ValueSchema} schema @param {unknown} value @param {string} path */
function check(schema, value, path) {
  const due = wanted(schema, value);
  return due === null ? null : fault(path, `must be ${due}`);
}

/**
 * The words for a value that would fit, or null if this one does.
 * @param {ValueSchema} schema @param {unknown} value @returns {string | null}
 */
function wanted(schema, value) {
  const { type, minimum, maximum } = schema;
  if (type === 'string') return wantedText(schema, value);
  if (type === 'boolean') return typeof value === 'boolean' ? null : 'true or false';
  if (!(type === 'integer' ? Number.isInteger(value) : Number.isFinite(value))) {
    return type === 'integer' ? 'a whole number' : 'a number';
  }
  if (minimum != null && Number(value) < minimum) return `${minimum} or more`;
  return maximum != null && Number(value) > maximum ? `${maximum} or less` : null;
}

/** @param {ValueSchema} schema @param {unknown} value */
function wantedText({ enum: options, minLength, maxLength, format }, value) {
  if (typeof value !== 'string') return 'a text';
  const { length } = [...value]; // in characters, as the server counts
  if (options && !options.includes(value)) return `one of ${options.join(', ')}`;
  if (minLength != null && length < minLength) return `a text of ${minLength} characters or more`;
  if (maxLength != null && length > maxLength) return `a text of ${maxLength} characters or fewer`;
  const [words, fits] = FORMATS[format ?? ''] ?? [null, () => true];
  return fits(value) ? null : words;
}

/** The fields of a question's form, drawn from its schema; what is wrong with one is said below it. */

import { answerOf, checkAnswer, formOf } from '/client/form.js';
import { element } from './dom.js';

/** @import { Field as Shape, Schema } from '/client/form.js' */
/** @typedef {HTMLInputElement | HTMLTextAreaElement | HTMLSelectElement} Control */

/** The most options that are shown all at once; more are a list to open. */
const MAX_RADIOS = 5;
/** The types of the browser's own controls, by format. @type {Record<string, string>} */
const INPUTS = {
  email: 'email', uri: 'url', date: 'date', 'date-time': 'datetime-local', number: 'number', integer: 'number',
};

let made = 0;

/** A name for what an attribute refers to; none is made of what a model says. */
export const newName = () => `ask-${(made += 1)}`;

/** The sentence that says what is wrong with a control, or with all of a form. */
export class Complaint {
  element = element('p', 'error');
  #control;

  /** @param {HTMLElement} [control] @param {HTMLElement[]} about  what else describes the control */
  constructor(control, ...about) {
    this.element.hidden = true;
    this.element.tabIndex = -1;
    this.#control = control;
    if (!control) return;
    const described = [...about, this.element];
    for (const each of described) each.id = newName();
    control.setAttribute('aria-describedby', described.map(({ id }) => id).join(' '));
  }

  /** Says it, or nothing if it is empty. @param {string} sentence */
  say(sentence) {
    this.element.textContent = sentence;
    this.element.hidden = !sentence;
    this.#control?.setAttribute('aria-invalid', String(Boolean(sentence)));
  }

  /** Takes the focus to the control, or to the sentence if it is of none; but not from elsewhere on the page. */
  focus() {
    const at = document.activeElement;
    if (at && at !== document.body && !this.element.closest('form')?.contains(at)) return;
    const group = this.#control?.querySelector('input'); // of a group its first
    (group ?? this.#control ?? this.element).focus();
  }
}

/** @param {'radio' | 'checkbox'} type @param {string} label @param {boolean} checked */
function choice(type, label, checked) {
  const input = element('input');
  Object.assign(input, { type, defaultChecked: checked });
  return { input, element: element('label', 'choice', input, element('span', '', label)) };
}

/** @param {Shape} shape @param {string} label */
function radios({ options, default: preset }, label) {
  const group = element('fieldset', 'field', element('legend', '', label));
  group.setAttribute('role', 'radiogroup');
  group.ariaRequired = 'true';
  const values = options?.map((option) => [option, option]) ?? [['true', 'Yes'], ['false', 'No']];
  const name = newName();
  for (const [value, text] of values) {
    const { input, element: shown } = choice('radio', text, String(preset) === value);
    Object.assign(input, { name, value });
    group.append(shown);
  }
  return group;
}

/** @param {Shape} shape */
function list({ options, required, default: preset }) {
  const select = element('select');
  const choices = (options ?? []).map((option) => new Option(option, option, option === preset, option === preset));
  if (!required || preset === null) choices.unshift(new Option(required ? 'Choose…' : 'None', ''));
  select.append(...choices);
  return select;
}

/** A time of RFC 3339 as a clock on this desk shows it. @param {string} time */
function local(time) {
  const at = new Date(time);
  return new Date(at.getTime() - at.getTimezoneOffset() * 60_000).toISOString().slice(0, 19);
}

/** @param {Shape} shape @returns {Control} */
function control(shape) {
  const { type, format, minimum, maximum } = shape;
  if (shape.options) return list(shape);
  const kind = INPUTS[format ?? type];
  const preset = String(shape.default ?? '');
  if (!kind) {
    const area = element('textarea', '', preset);
    area.rows = 1;
    return area;
  }
  const input = element('input');
  input.type = kind;
  if (kind === 'number') Object.assign(input, { step: 'any', min: minimum ?? '', max: maximum ?? '' });
  if (kind === 'datetime-local') input.step = '1';
  input.value = kind === 'datetime-local' && preset ? local(preset) : preset;
  return input;
}

/** The bounds of it, in words. @param {Shape} shape */
function bounds({ minimum: least, maximum: most, minLength: shortest, maxLength: longest }) {
  if (least !== null && most !== null) return `${least} to ${most}`;
  if (least !== null) return `${least} or more`;
  if (most !== null) return `${most} or less`;
  if (shortest !== null && longest !== null) return `${shortest} to ${longest} characters`;
  if (shortest !== null) return `${shortest} characters or more`;
  return longest === null ? '' : `${longest} characters or fewer`;
}

class Field {
  element;
  complaint;
  /** Reads what is filled in: the text that `answerOf` makes a value of. @type {() => string | boolean} */ read;

  /** @param {Shape} shape @param {boolean} alone  whether it is all that is asked for */
  constructor(shape, alone) {
    this.shape = shape;
    this.label = alone && shape.label === shape.name ? 'Your answer' : shape.label;
    const label = `${this.label}${shape.required ? '' : ' (optional)'}`;
    const hint = element('p', 'hint', [shape.description, bounds(shape)].filter(Boolean).join(' · '));
    hint.hidden = !hint.textContent;
    const { type, options, required } = shape;
    const few = required && options !== null && options.length <= MAX_RADIOS;
    if (few || (type === 'boolean' && alone)) {
      const group = (this.element = radios(shape, label));
      this.read = () => group.querySelector('input:checked')?.getAttribute('value') ?? '';
      this.complaint = new Complaint(group, hint);
      group.append(hint, this.complaint.element);
    } else if (type === 'boolean') {
      const { input: box, element: shown } = choice('checkbox', this.label, shape.default === true);
      this.read = () => box.checked;
      this.complaint = new Complaint(box, hint);
      this.element = element('div', 'field', shown, hint, this.complaint.element);
    } else {
      const input = control(shape);
      this.read = () => filled(input);
      input.ariaRequired = String(required);
      this.complaint = new Complaint(input, hint);
      const shown = element('label', '', element('span', '', label), input);
      this.element = element('div', 'field', shown, hint, this.complaint.element);
    }
  }
}

/** The control's value; one that a browser does not show as a value is not taken for nothing. @param {Control} input */
function filled(input) {
  if (input.validity.badInput) return '?';
  if (input.type !== 'datetime-local' || !input.value) return input.value;
  return new Date(input.value).toISOString();
}

/** The form of an answer. */
export class Fields {
  #schema;
  #fields;

  /** @param {Schema} schema */
  constructor(schema) {
    const shapes = formOf(schema);
    this.#schema = schema;
    this.#fields = shapes.map((shape) => new Field(shape, shape.path === 'answer'));
  }

  get elements() {
    return this.#fields.map((field) => field.element);
  }

  /**
   * The answer that is filled in, or undefined if it is none yet: then the first field that is wrong says so and has the
   * focus.
   */
  get answer() {
    for (const { complaint } of this.#fields) complaint.say('');
    const empty = this.#fields.find((field) => field.shape.required && field.read() === '');
    if (empty) {
      empty.complaint.say(empty.label === 'Your answer' ? 'An answer is needed.' : `${empty.label} is needed.`);
      empty.complaint.focus();
      return undefined;
    }
    const given = Object.fromEntries(this.#fields.map((field) => [field.shape.name, field.read()]));
    const answer = answerOf(this.#schema, given);
    const fault = checkAnswer(this.#schema, answer);
    return fault && this.complain(fault.field, fault.message) ? undefined : answer;
  }

  /** Says at its field what is wrong, if there is such a field. @param {string} path @param {string} message */
  complain(path, message) {
    const field = this.#fields.find(({ shape }) => shape.path === path);
    if (!field) return false;
    field.complaint.say(message.replace(`\`${path}\``, field.label));
    field.complaint.focus();
    return true;
  }
}

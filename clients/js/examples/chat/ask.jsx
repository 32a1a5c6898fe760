/** What a run asks: an approval has two buttons, a question a form made of its schema. */

import { useState } from 'react';
import { answerOf, checkAnswer, formOf } from 'twinwire-client/form';

/** @import { Question } from 'twinwire-client' */
/** @import { Field as Shape } from 'twinwire-client/form' */

/** It goes away by itself once it is answered, here or on another device. @param {{question: Question}} props */
export function Ask({ question }) {
  const { kind, prompt, toolName, parameters, schema } = question;
  const [error, setError] = useState('');
  /** @param {Promise<unknown>} said */
  const tell = (said) => said.catch(({ message }) => setError(message));
  /** @param {import('react').FormEvent<HTMLFormElement>} event */
  const submit = (event) => {
    event.preventDefault();
    const answer = answerOf(schema, Object.fromEntries(new FormData(event.currentTarget)));
    const fault = checkAnswer(schema, answer);
    setError(fault?.message ?? '');
    if (!fault) tell(question.answer(answer));
  };
  return (
    <form aria-label={prompt} onSubmit={submit}>
      <p>{prompt}</p>
      {kind === 'approval' ? (
        <>
          <pre>{toolName} {JSON.stringify(parameters)}</pre>
          <button type="button" onClick={() => tell(question.approve())}>Approve</button>
          <button type="button" onClick={() => tell(question.reject())}>Reject</button>
        </>
      ) : (
        <>
          {formOf(schema).map((field) => <Field key={field.name} field={field} />)}
          <button>Answer</button>
        </>
      )}
      {error && <p role="alert">{error}</p>}
    </form>
  );
}

/** @param {{field: Shape}} props */
function Field({ field }) {
  const { name, label, description, type, options, required } = field;
  const filled = String(field.default ?? '');
  return (
    <label title={description ?? ''}>
      {label}{' '}
      {options ? (
        <select name={name} defaultValue={filled}>
          {!(required && filled) && <option />}
          {options.map((option) => <option key={option}>{option}</option>)}
        </select>
      ) : type === 'boolean' ? (
        <input type="checkbox" name={name} defaultChecked={field.default === true} />
      ) : (
        <input type={type === 'string' ? 'text' : 'number'} step="any" name={name} defaultValue={filled} />
      )}
    </label>
  );
}

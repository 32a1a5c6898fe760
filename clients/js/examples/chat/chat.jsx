/** One chat: its messages, and a form to send the next one. */

import { memo, useState } from 'react';
import { useRun } from 'twinwire-client/react';

import { Ask } from './ask.jsx';

/** @import { Client } from 'twinwire-client' */
/** @import { Message } from 'twinwire-client/react' */

/** @param {{client: Client, sessionId: string}} props */
export function Chat({ client, sessionId }) {
  const { messages, active, retry, send, say, cancel, regenerate } = useRun(client, { sessionId });
  const [draft, setDraft] = useState('');
  /** @param {import('react').FormEvent} event */
  const submit = (event) => {
    event.preventDefault();
    if (!draft.trim()) return;
    send(draft); // interrupts the answer that goes on; with `{ interrupt: false }` it would wait for its end
    setDraft('');
  };
  const tell = async () => {
    setDraft('');
    const { status } = await say(draft);
    if (status !== 'accepted') send(draft, { interrupt: false }); // then it is the next message
  };
  return (
    <main>
      <ol>{messages.map((message) => <Entry key={message.id} message={message} />)}</ol>
      {retry && <p role="status">The connection is lost, and is tried again. {retry.reason}</p>}
      <form onSubmit={submit}>
        <input aria-label="Message" value={draft} onChange={({ target }) => setDraft(target.value)} />
        <button>Send</button>
        <button type="button" disabled={!active || !draft.trim()} onClick={tell}>Say</button>
        <button type="button" disabled={!active} onClick={cancel}>Stop</button>
        <button type="button" disabled={active || messages.length === 0} onClick={regenerate}>Again</button>
      </form>
    </main>
  );
}

/** A message that has not changed is not rendered again. */
const Entry = memo(function Entry(/** @type {{message: Message}} */ { message }) {
  const { role, status, text } = message;
  return (
    <li className={role} data-status={status}>
      {role === 'assistant' && <small>{message.thinking}</small>}
      <p>{text}</p>
      {role === 'assistant' && Object.entries(message.tools).map(([id, { name }]) => <small key={id}>{name} …</small>)}
      {role === 'assistant' && message.questions.map((question) => <Ask key={question.inputId} question={question} />)}
      {role === 'assistant' && message.error && <p role="alert">{message.error.message}</p>}
      {status !== 'completed' && status !== 'sent' && <small>{status}</small>}
    </li>
  );
});

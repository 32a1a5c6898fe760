// Read by tsc alone: what the types of the hook must and must not allow.

import { createClient } from '../../src/index.js';
import { type Message, useRun } from '../../src/react.js';

const client = createClient();

export function shown(message: Message): string {
  // @ts-expect-error - a user's message has no tools
  message.tools;
  return message.role === 'user' ? message.text : Object.values(message.tools).map(({ name }) => name).join();
}

export function Chat() {
  const { messages, retry, error, questions, send, say, cancel, regenerate, close } = useRun(client, { sessionId: 'mine', agent: 'me' });
  // @ts-expect-error - an event is no message
  const wrong = <button onClick={send}>Send</button>;
  return (
    <>
      {wrong}
      {messages.map(shown)}
      {retry?.reason ?? error?.message}
      <button onClick={() => send('Hello', { interrupt: false })}>Send</button>
      {questions.map(({ inputId, approve }) => <button key={inputId} onClick={() => approve()}>Approve</button>)}
      <button onClick={async () => (await say('Hello')).status}>Say</button>
      <button onClick={cancel}>Stop</button>
      <button onClick={regenerate}>Again</button>
      <button onClick={close}>Close</button>
    </>
  );
}

/** An option that may be undefined is not there then. */
export function Named({ id }: { id: string | undefined }) {
  return <>{useRun(client, { id, sessionId: undefined }).text}</>;
}

/** The events of an agent's own types are in the view of a client that names them. */
export function Lifted() {
  const { events } = useRun(createClient<{ LIFT_OFF: { asked: string } }>());
  // @ts-expect-error - nobody named this type
  const crashed = events.some(({ type }) => type === 'CRASHED');
  return <>{events.map((event) => (event.type === 'LIFT_OFF' ? event.data.asked : crashed))}</>;
}

/** Several chats, one of which is shown. The answers of the others go on. `?server=` names the server. */

import { StrictMode, useState } from 'react';
import { createRoot } from 'react-dom/client';
import { createClient } from 'twinwire-client';

import { Chat } from './chat.jsx';

const server = new URLSearchParams(location.search).get('server') ?? 'http://127.0.0.1:8000';
const client = createClient({ url: server });

/** @type {() => string} */
const newSession = () => crypto.randomUUID();

function App() {
  const [sessions, setSessions] = useState(() => [newSession()]);
  const [shown, show] = useState(0);
  const add = () => {
    setSessions([...sessions, newSession()]);
    show(sessions.length);
  };
  return (
    <>
      <nav>
        {sessions.map((session, index) => (
          <button key={session} aria-pressed={index === shown} onClick={() => show(index)}>Chat {index + 1}</button>
        ))}
        <button onClick={add}>New chat</button>
      </nav>
      <Chat key={shown} client={client} sessionId={sessions[shown] ?? ''} />
    </>
  );
}

createRoot(/** @type {HTMLElement} */ (document.getElementById('root'))).render(<StrictMode><App /></StrictMode>);

/**
 * A page with `useRun`, in StrictMode, for tests/e2e/test_react.py to use: `?server=`, `?transport=`, `?send=` and
 * `?session=`.
 */

import { StrictMode, useEffect, useState } from 'react';
import { createRoot } from 'react-dom/client';

import { createClient } from '../../src/index.js';
import { useRun } from '../../src/react.js';

/** @import { Transport } from '../../src/index.js' */

const query = new URLSearchParams(location.search);
const transport = /** @type {Transport} */ (query.get('transport') ?? 'auto');
const client = createClient({ url: query.get('server') ?? '', transport });
const session = query.get('session');
const options = session === null ? {} : { sessionId: session };
let commits = 0;
let frames = 0;
let mounts = 0;

const count = () => {
  frames += 1;
  requestAnimationFrame(count);
};
requestAnimationFrame(count);

function Chat() {
  const { text, thinking, tools, step, progress, status, events, error, messages, send, cancel } = useRun(client, options);
  useEffect(() => {
    commits += 1;
  });
  useEffect(() => {
    mounts += 1;
    const message = query.get('send');
    if (message) send(message);
  }, [send]);
  const shown = { text, thinking, tools: Object.values(tools).map(({ name }) => name).join(), step, progress, status };
  const counted = { events: events.length, messages: messages.length };
  return (
    <>
      <button onClick={() => send('Hello', { onDisconnect: 'cancel' })}>Send</button>
      <button onClick={cancel}>Cancel</button>
      {Object.entries({ ...shown, ...counted, error: error?.message }).map(([name, value]) => (
        <output key={name} id={name}>{value}</output>
      ))}
    </>
  );
}

function App() {
  const [here, setHere] = useState(true);
  return (
    <>
      <button onClick={() => setHere(!here)}>Toggle</button>
      {here && <Chat />}
    </>
  );
}

createRoot(/** @type {HTMLElement} */ (document.getElementById('root'))).render(<StrictMode><App /></StrictMode>);
Object.assign(window, { counted: () => ({ commits, frames, mounts }) });

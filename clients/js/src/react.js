'use client';

/**
 * `useRun`: a conversation in a React component, rendered once per animation frame at most, however fast tokens come.
 *
 * Safe in StrictMode, in hidden tabs and on a server. It renders nothing itself.
 */

import { useInsertionEffect, useMemo, useRef, useState, useSyncExternalStore } from 'react';

import { Conversation, Conversations, IDLE } from './conversation.js';

/** @import * as conversation from './conversation.js' */
/** @import * as turn from './turn.js' */
/** @import { AttachOptions, Client, StartOptions } from './client.js' */
/** @import { Acknowledgement, SayOptions } from './commands.js' */

/**
 * @template {object} [Custom=object]
 * @typedef {conversation.RunView<Custom>} RunView
 */
/** @typedef {turn.Answer} Answer */
/** @typedef {turn.Message} Message */
/** @typedef {turn.UserMessage} UserMessage */
/**
 * Options that each `send` and `attach` is given, too. `id` names the conversation, which components that give the same one
 * share; by default it is the session's. Without either it is the component's own.
 * @typedef {StartOptions & {id?: string | undefined}} RunOptions
 */
/**
 * `send` starts a run. It interrupts the one that goes on, or waits its turn with `interrupt: false`. `say` says something
 * to the run that goes on. `regenerate` sends the last message again, in place of its answer. `attach` follows a run that
 * was started elsewhere. `cancel` ends the run that goes on and drops what waits; `close` only stops following.
 * @typedef {{send: (message: string, options?: StartOptions) => void, regenerate: () => void,
 *   say: (content: string, options?: SayOptions) => Promise<Acknowledgement>,
 *   attach: (runId: string, options?: AttachOptions) => void, cancel: () => Promise<void>, close: () => void}} RunActions
 */

/** @type {WeakMap<Client, Conversations>} */
const ofClient = new WeakMap();

/** @param {Client} client @param {string} name */
function find(client, name) {
  if (typeof window === 'undefined') return new Conversation(client); // on a server, which renders for many users
  const conversations = ofClient.get(client) ?? new Conversations(client);
  ofClient.set(client, conversations);
  return conversations.find(name);
}

/** @param {RunOptions} options @returns {StartOptions} */
const toStart = ({ id: _, ...options }) => options;

/** @param {RunOptions} options @returns {AttachOptions} */
const toFollow = ({ transport, types, signal, cancelOnAbort }) => ({ transport, types, signal, cancelOnAbort });

const idle = () => IDLE;

/**
 * The conversation as it is now, and what one can do with it. The functions stay the same from render to render.
 *
 * A run goes on if its component unmounts: one that mounts within five minutes finds the conversation by its `id` or
 * `sessionId`. A conversation without either is closed at once.
 * @template {object} [Custom=object]
 * @param {Client<Custom>} client  made once, outside of the component
 * @param {RunOptions} [options]
 * @returns {RunView<Custom> & RunActions}
 */
export function useRun(client, options = {}) {
  const plain = /** @type {Client} */ (/** @type {unknown} */ (client)); // of its events a turn reads the protocol's own
  const { id, userId, sessionId } = options;
  const name = id ?? (sessionId === undefined ? undefined : JSON.stringify([userId, sessionId]));
  const [own, setOwn] = useState(() => new Conversation(plain));
  if (own.client !== plain) setOwn(new Conversation(plain));
  const shown = name === undefined ? own : find(plain, name);
  const view = useSyncExternalStore(shown.subscribe, shown.view, idle);
  const latest = useRef(options);
  useInsertionEffect(() => {
    latest.current = options;
  });
  const actions = useMemo(() => {
    const { cancel, close, say } = shown;
    return {
      /** @type {RunActions['send']} */
      send: (message, given) => shown.send(message, { ...toStart(latest.current), ...given }),
      regenerate: () => shown.regenerate(toStart(latest.current)),
      /** @type {RunActions['attach']} */
      attach: (runId, given) => shown.attach(runId, { ...toFollow(latest.current), ...given }),
      say,
      cancel,
      close,
    };
  }, [shown]);
  return { ...view, ...actions };
}

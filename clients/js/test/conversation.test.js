/** The store behind `useRun`, without React, on a real server. */

import { describe, expect, onTestFinished, test, vi } from 'vitest';

import { RunFailed } from '../src/index.js';
import { Conversation, Conversations } from '../src/conversation.js';
import { connected, fresh, open } from './live.js';

/** @import { ClientOptions } from '../src/index.js' */
/** @import { RunView } from '../src/conversation.js' */

/**
 * Resolves with the view as soon as it is one like this. The conversation is shown until the test is over.
 * @param {Conversation} conversation @param {(view: RunView) => boolean} like
 */
function seen(conversation, like) {
  onTestFinished(conversation.subscribe(() => {}));
  return glimpsed(conversation, like);
}

/** The same, but it is not shown any longer. @param {Conversation} conversation @param {(view: RunView) => boolean} like */
function glimpsed(conversation, like) {
  return /** @type {Promise<RunView>} */ (
    new Promise((resolve) => {
      const look = () => {
        const view = conversation.view();
        if (!like(view)) return;
        leave();
        resolve(view);
      };
      const leave = conversation.subscribe(look);
      look();
    })
  );
}

/** @param {RunView} view */
const over = ({ active, messages }) => !active && messages.length > 0;
/** A message's text and status, in short. @param {RunView} view */
const said = ({ messages }) => messages.map(({ role, text, status }) => `${role}: ${text.trim()} (${status})`);

/** @param {ClientOptions} options */
const conversing = (options) => new Conversation(connected(options));

const WITHIN = { timeout: 10_000 };

describe.each(/** @type {const} */ (['sse', 'ws']))('%s', (transport) => {
  test('a question and its answer', async () => {
    const conversation = conversing({ transport });
    conversation.send('words 3');
    expect(said(conversation.view())).toEqual(['user: words 3 (sent)', 'assistant:  (connecting)']);
    const view = await seen(conversation, over);
    expect(said(view)).toEqual(['user: words 3 (sent)', 'assistant: 1 2 3 (completed)']);
    expect(view).toMatchObject({ text: '1 2 3 ', status: 'completed', error: null, retry: null });
    expect(view.events.map(({ type }) => type)).toEqual([
      'AGENT_START', 'LLM_CHUNK', 'LLM_CHUNK', 'LLM_CHUNK', 'AGENT_FINISH',
    ]);
    expect(view.messages[1]).toMatchObject({ runId: view.runId });
  });

  test('settings, labels and parts, sent again with the message; an answer that is no text is shown as JSON', async () => {
    const conversation = conversing({ transport });
    const image = { type: /** @type {const} */ ('image_url'), image_url: { url: 'https://example.org/a.png' } };
    const given = { params: { a: 1 }, metadata: { ticket: '4711' }, parts: [image] };
    conversation.send('given', given);
    const { text } = await seen(conversation, over);
    expect(JSON.parse(text)).toEqual({ ...given, parts: [{ type: 'text', text: 'given' }, image] });
    conversation.regenerate();
    expect((await seen(conversation, ({ active, status }) => !active && status === 'completed')).text).toBe(text);
  });

  test.each([{ sessionId: fresh() }, {}])('a question interrupts the run that goes on (%j)', async (options) => {
    const conversation = conversing({ transport });
    conversation.send('forever', options);
    await seen(conversation, ({ text }) => text === 'before ');
    conversation.send('words 1', options);
    expect(said(await seen(conversation, over))).toEqual([
      'user: forever (sent)', 'assistant: before (cancelled)', 'user: words 1 (sent)', 'assistant: 1 (completed)',
    ]);
  });

  test('questions in quick succession reach the session in their order', async () => {
    const conversation = conversing({ transport });
    const options = { sessionId: fresh() };
    for (const message of ['forever', 'never', 'words 1']) conversation.send(message, options);
    const view = await seen(conversation, over);
    expect(said(view)).toEqual([
      'user: forever (sent)', expect.stringMatching(/^assistant: .*\(cancelled\)$/), 'user: never (cancelled)',
      'user: words 1 (sent)', 'assistant: 1 (completed)',
    ]);
  });

  test('a question waits its turn if it is told to', async () => {
    const conversation = conversing({ transport });
    const [gate, options] = [fresh(), { sessionId: fresh(), interrupt: false }];
    for (const message of [`gate ${gate}`, 'words 1', 'words 2']) conversation.send(message, options);
    const waiting = await seen(conversation, ({ text }) => text === 'before ');
    expect(said(waiting).slice(2)).toEqual(['user: words 1 (queued)', 'user: words 2 (queued)']);
    await open(gate);
    expect(said(await seen(conversation, over))).toEqual([
      `user: gate ${gate} (sent)`, 'assistant: before after (completed)', 'user: words 1 (sent)',
      'assistant: 1 (completed)', 'user: words 2 (sent)', 'assistant: 1 2 (completed)',
    ]);
  });

  test('a cancel ends the run, and what waits is not asked', async () => {
    const conversation = conversing({ transport });
    conversation.send('forever');
    conversation.send('never', { interrupt: false });
    await seen(conversation, ({ text }) => text === 'before ');
    await conversation.cancel();
    expect(said(await seen(conversation, over))).toEqual([
      'user: forever (sent)', 'assistant: before (cancelled)', 'user: never (cancelled)',
    ]);
    await conversation.cancel();
  });

  test('a run that was left does not hold its session', async () => {
    const conversation = conversing({ transport });
    const options = { sessionId: fresh(), interrupt: false };
    conversation.send('forever', options);
    await seen(conversation, ({ text }) => text === 'before ');
    conversation.close();
    conversation.send('words 1', options);
    expect(said(await seen(conversation, over))).toEqual([
      'user: forever (sent)', 'assistant: before (closed)', 'user: words 1 (sent)', 'assistant: 1 (completed)',
    ]);
    expect(conversation.view().error).toBe(null);
  });

  test('the last question is asked again, in place of its answer', async () => {
    const conversation = conversing({ transport });
    const name = fresh();
    conversation.regenerate();
    conversation.send('words 1');
    await seen(conversation, over);
    conversation.send(`count ${name}`, { idempotencyKey: fresh() });
    await seen(conversation, ({ text, active }) => text === '1' && !active);
    conversation.regenerate();
    const view = await seen(conversation, ({ text, active }) => text === '2' && !active);
    expect(said(view)).toEqual([
      'user: words 1 (sent)', 'assistant: 1 (completed)', `user: count ${name} (sent)`, 'assistant: 2 (completed)',
    ]);
    expect(new Set(view.messages.map(({ id }) => id)).size).toBe(4);
  });

  test('a run from elsewhere is found, with its question', async () => {
    const gate = fresh();
    const run = connected({ transport }).stream(`gate ${gate}`);
    const conversation = conversing({ transport });
    const runId = await run.started;
    for (const again of [runId, runId]) conversation.attach(again);
    await seen(conversation, ({ text }) => text === 'before ');
    await open(gate);
    const whole = [`user: gate ${gate} (sent)`, 'assistant: before after (completed)'];
    expect(said(await seen(conversation, over))).toEqual(whole);
    conversation.attach(runId, { snapshot: true });
    expect(said(await seen(conversation, (view) => over(view) && view.events.length === 0))).toEqual(whole);
    conversation.attach('nonsense');
    const { error, status } = await seen(conversation, ({ error }) => error !== null);
    expect([error?.message, status]).toEqual(['The run does not exist.', 'failed']);
  });

  test('a run that fails', async () => {
    const conversation = conversing({ transport });
    conversation.send('fail');
    conversation.send('words 1', { interrupt: false });
    const view = await seen(conversation, over);
    expect(said(view)).toEqual([
      'user: fail (sent)', 'assistant:  (error)', 'user: words 1 (sent)', 'assistant: 1 (completed)',
    ]);
    expect(view.messages[1]).toMatchObject({ error: expect.any(RunFailed) });
    expect(view.error).toBe(null);
  });

  test('a connection that is away', async () => {
    const retry = { attempts: 3, base: 40, cap: 40, random: () => 1 };
    const conversation = conversing({ transport, url: 'http://127.0.0.1:1', retry });
    conversation.send('hello');
    const away = await seen(conversation, ({ retry }) => retry !== null);
    expect(away.retry?.reason).toEqual(expect.any(String));
    const view = await seen(conversation, over);
    expect(view).toMatchObject({ status: 'failed', retry: null, error: expect.any(Error) });
  });
});

test('what cannot be started is told in the view', async () => {
  const conversation = conversing({});
  conversation.send('words 1', { types: ['not a type'] });
  const { status, error } = await seen(conversation, over);
  expect([status, error]).toEqual(['failed', expect.any(TypeError)]);
});

test('an event for a message is refused at once', () => {
  const conversation = conversing({});
  const send = /** @type {(event: object) => void} */ (/** @type {unknown} */ (conversation.send));
  expect(() => send({ type: 'click' })).toThrow("write onClick={() => send('…')}");
  expect(conversation.view().messages).toEqual([]);
});

test('what an effect asks twice, as StrictMode runs it, is asked once', async () => {
  const conversation = conversing({});
  const mount = () => {
    const leave = conversation.subscribe(() => {});
    conversation.send('words 1');
    conversation.send('words 2', { interrupt: false });
    return leave;
  };
  mount()();
  onTestFinished(mount());
  expect(said(await seen(conversation, over))).toEqual([
    'user: words 1 (sent)', 'assistant: 1 (completed)', 'user: words 2 (sent)', 'assistant: 1 2 (completed)',
  ]);
  conversation.send('words 2');
  await seen(conversation, ({ messages, active }) => messages.length === 6 && !active);
});

test('what has not changed stays the same object', async () => {
  const conversation = conversing({});
  conversation.send('words 1');
  const before = (await seen(conversation, over)).messages;
  expect(conversation.view()).toBe(conversation.view());
  conversation.send('words 2');
  const after = (await seen(conversation, ({ messages, active }) => messages.length === 4 && !active)).messages;
  expect([after[0], after[1]]).toEqual([before[0], before[1]]);
  expect(after[0]).toBe(before[0]);
  expect(after[1]).toBe(before[1]);
});

test('a conversation is found again while its run goes on, without a component', async () => {
  const client = connected({});
  const conversations = new Conversations(client);
  const gate = fresh();
  const conversation = conversations.find('a');
  conversation.send(`gate ${gate}`);
  await glimpsed(conversation, ({ text }) => text === 'before ');
  expect(conversations.find('b')).not.toBe(conversation);
  expect(conversations.find('a')).toBe(conversation);
  await open(gate);
  expect((await seen(conversations.find('a'), over)).text).toBe('before after');
});

test('a run that nobody comes back to is closed when the grace is over', async () => {
  const client = connected({});
  const conversations = new Conversations(client, { grace: 50 });
  const conversation = conversations.find('a');
  conversation.send('forever', { onDisconnect: 'cancel' });
  const { runId } = await glimpsed(conversation, ({ text }) => text === 'before ');
  await vi.waitFor(() => expect(conversation.view().status).toBe('closed'), WITHIN);
  await vi.waitFor(async () => expect(await client.get(runId ?? '')).toMatchObject({ status: 'cancelled' }), WITHIN);
  expect(conversations.find('a')).not.toBe(conversation);
});

test('only so many are kept without a component, the latest', () => {
  const conversations = new Conversations(connected({}), { most: 2 });
  const shown = conversations.find('shown');
  onTestFinished(shown.subscribe(() => {}));
  const visited = (/** @type {string} */ name) => {
    conversations.find(name).subscribe(() => {})();
    return conversations.find(name);
  };
  const [a, b] = [visited('a'), visited('b')];
  expect(visited('a')).toBe(a);
  visited('c');
  expect(conversations.find('shown')).toBe(shown);
  expect(conversations.find('a')).toBe(a);
  expect(conversations.find('b')).not.toBe(b);
});

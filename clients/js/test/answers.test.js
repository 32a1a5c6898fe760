/** Questions of a run, answers and messages to it, on a real server, over each transport. */

import { describe, expect, onTestFinished, test, vi } from 'vitest';

import { Conversation } from '../src/conversation.js';
import { ApiError } from '../src/index.js';
import { connected, first, fresh, open, proxied, TRANSPORTS } from './live.js';

/** @import { Question, Run } from '../src/index.js' */

/** The run's first question, or the next one. @param {Run} run @returns {Promise<Question>} */
const asked = (run) => new Promise((resolve) => run.on('input', resolve));
/** The answers and messages in the run's events. @param {Run} run */
const heard = async (run) => {
  const said = [];
  for await (const event of run) if (event.type === 'USER_MESSAGE') said.push(event.data.content);
  return said;
};

const WITHIN = { timeout: 10_000 };

describe.each(TRANSPORTS)('%s', (transport) => {
  test('a question is answered, by the first good answer', async () => {
    const gate = fresh();
    const run = connected({ transport }).stream(`ask ${gate}`);
    const question = await asked(run);
    expect(question).toMatchObject({
      kind: 'question', prompt: 'Which branch?', schema: { type: 'string', enum: ['main', 'dev'] },
      expiresAt: expect.stringMatching(/Z$/),
    });
    const wrong = await question.answer('prod').catch((error) => error);
    expect(wrong).toBeInstanceOf(ApiError);
    expect(wrong).toMatchObject({ code: 'bad_request', field: 'answer' });
    expect(run.questions).toEqual([question]);
    const { messageId, status } = await question.answer('dev');
    expect(status).toBe('accepted');
    const late = await question.answer('main');
    expect(late).toEqual({ messageId, status: 'already_answered', at: expect.stringMatching(/Z$/) });
    expect((await run.answer(question.inputId.replace(/\d+$/, '999'), 'main')).status).toBe('not_found');
    await open(gate);
    expect(await run.result).toBe('dev');
    expect(run.questions).toEqual([]);
    expect((await question.answer('main')).status).toBe('already_finished');
    expect(await run.answer(question.inputId, 'dev', { messageId })).toEqual({ messageId, status: 'accepted' });
  });

  test.each(/** @type {[(question: Question) => Promise<{status: string}>, object][]} */ ([
    [({ approve }) => approve(), { approved: true, parameters: { path: 'a' }, reason: null }],
    [({ approve }) => approve({ path: 'b' }), { approved: true, parameters: { path: 'b' }, reason: null }],
    [({ reject }) => reject('Keep it.'), { approved: false, parameters: { path: 'a' }, reason: 'Keep it.' }],
  ]))('an approval', async (decide, decision) => {
    const run = connected({ transport }).stream('approve a');
    const question = await asked(run);
    expect(question).toMatchObject({
      kind: 'approval', prompt: 'Delete it?', toolCallId: 'c1', toolName: 'Delete', parameters: { path: 'a' },
    });
    expect((await decide(question)).status).toBe('accepted');
    expect(JSON.parse(await run.result)).toEqual(decision);
  });

  test('a question that is open is found by who comes later, and closed for all', async () => {
    const client = connected({ transport });
    const run = client.stream('ask');
    await asked(run);
    const late = connected({ transport }).attach(run.runId ?? '', { snapshot: true });
    const question = await asked(late);
    expect(await client.get(run.runId ?? '')).toMatchObject({ waiting: true, questions: [{ prompt: 'Which branch?' }] });
    expect(late.snapshot?.state).toMatchObject({ waiting: true, questions: [{ input_id: question.inputId }] });
    expect((await question.answer('main')).status).toBe('accepted');
    expect(await Promise.all([run.result, late.result])).toEqual(['main', 'main']);
    /** @type {unknown[]} */
    const told = [];
    const again = client.attach(run.runId ?? '');
    again.on('input', (each) => told.push(each));
    await again.result;
    expect([run.questions, late.questions, again.questions]).toEqual([[], [], []]);
  });

  test('a question is open across a cut, and is told once', async () => {
    const network = await proxied();
    const run = connected({ url: network.url, transport }).stream('ask');
    /** @type {Question[]} */
    const told = [];
    run.on('input', (question) => told.push(question));
    await asked(run);
    const cut = new Promise((resolve) => run.on('status', (status) => status === 'reconnecting' && resolve(status)));
    network.cut();
    await cut;
    expect((await run.answer(told[0]?.inputId ?? '', 'main')).status).toBe('accepted');
    expect([await run.result, told.length]).toEqual(['main', 1]);
  });

  test('what is said to a run that goes on is heard, once', async () => {
    const client = connected({ transport });
    const run = client.stream('hear');
    const said = heard(run);
    const { messageId, status } = await run.send('left');
    expect(status).toBe('accepted');
    expect(await run.send('left', { messageId })).toEqual({ messageId, status: 'accepted' });
    await expect(run.send('right', { messageId })).rejects.toMatchObject({ code: 'idempotency_mismatch' });
    expect((await client.send(run.runId ?? '', 'enough')).status).toBe('accepted');
    expect(await said).toEqual(['left', 'enough']);
    expect(await run.result).toBe('left enough ');
    expect((await run.send('more')).status).toBe('already_finished');
  });

  test('what nobody read is told', async () => {
    const run = connected({ transport }).stream(`gate ${fresh()}`);
    await first(run, 'LLM_CHUNK');
    const { messageId, status } = await run.send('left');
    expect(status).toBe('accepted');
    await run.cancel();
    await run.result;
    expect(run.terminal?.metadata.unread).toEqual([messageId]);
  });

  test('an answer that comes too late', async () => {
    const gate = fresh();
    const run = connected({ transport }).stream(`expire ${gate}`);
    const [{ data }] = /** @type {any} */ (await Promise.all([first(run, 'INPUT_REQUESTED'), first(run, 'LLM_CHUNK')]));
    expect(run.questions).toEqual([]);
    expect((await run.answer(data.input_id, 'main')).status).toBe('expired');
    await open(gate);
    expect(await run.result).toBe('nobody');
  });

  test('who asks for a run of somebody else, or for none', async () => {
    const client = connected({ transport });
    await expect(client.send('a'.repeat(26), 'left')).rejects.toMatchObject({ code: 'run_not_found' });
    const [none] = await Promise.allSettled([client.answer('a'.repeat(26), `ask-${'a'.repeat(26)}-2`, 'main')]);
    // Over a socket the status of a run that does not exist is that of a question that does not.
    const told = none.status === 'fulfilled' ? none.value.status : none.reason.code;
    expect(['not_found', 'run_not_found']).toContain(told);
  });
});

test('a message whose acknowledgement is lost again and again is heard once', async () => {
  let count = 0;
  const { url, lines } = await proxied((line) => (line.endsWith('/messages') && (count += 1) < 4 ? { cutAfter: 0 } : {}));
  vi.stubGlobal('WebSocket', undefined);
  const client = connected(/** @type {any} */ ({ url, transport: 'sse', WebSocket: undefined }));
  vi.unstubAllGlobals();
  const run = client.stream('hear');
  const said = heard(run);
  expect((await run.send('left')).status).toBe('accepted');
  expect((await run.send('enough')).status).toBe('accepted');
  expect(await said).toEqual(['left', 'enough']);
  expect(lines.filter((line) => line.endsWith('/messages'))).toHaveLength(5);
});

test('what is said over a socket that is cut is heard once', async () => {
  const network = await proxied();
  const client = connected({ url: network.url, transport: 'ws' });
  const run = client.stream('hear');
  await run.started;
  const said = heard(connected({ transport: 'sse' }).attach(run.runId ?? ''));
  const sends = ['left', 'right'].map((content) => run.send(content));
  network.cut();
  expect((await Promise.all(sends)).map(({ status }) => status)).toEqual(['accepted', 'accepted']);
  expect((await run.send('enough')).status).toBe('accepted');
  expect((await said).sort()).toEqual(['enough', 'left', 'right']);
});

test('a message of over 64 KiB is heard, and one that is too large is refused', async () => {
  const client = connected({ transport: 'ws' });
  const run = client.stream('hear');
  expect((await run.send('x'.repeat(100_000))).status).toBe('accepted');
  await expect(run.send('x'.repeat(2_000_000))).rejects.toMatchObject({ name: 'TooLarge' });
  await run.send('enough');
  expect((await run.result).length).toBe(100_008);
});

describe.each(/** @type {const} */ (['sse', 'ws']))('a conversation over %s', (transport) => {
  test('asks and is told', async () => {
    const conversation = new Conversation(connected({ transport }));
    onTestFinished(conversation.subscribe(() => {}));
    conversation.send('ask');
    await vi.waitFor(() => expect(conversation.view()).toMatchObject({ waiting: true, active: true }), WITHIN);
    expect((await conversation.view().questions[0]?.answer('dev'))?.status).toBe('accepted');
    await vi.waitFor(() => expect(conversation.view()).toMatchObject({ active: false, text: 'dev', questions: [] }), WITHIN);
    conversation.send('hear');
    await vi.waitFor(() => expect(conversation.view().status).toBe('open'), WITHIN);
    expect((await conversation.say('left')).status).toBe('accepted');
    expect((await conversation.say('enough')).status).toBe('accepted');
    await vi.waitFor(() => expect(conversation.view()).toMatchObject({ active: false, text: 'left enough ' }), WITHIN);
    expect(conversation.view().messages.map(({ role, text }) => `${role}: ${text.trim()}`)).toEqual([
      'user: ask', 'assistant: dev', 'user: hear', 'user: left', 'user: enough', 'assistant: left enough',
    ]);
  });
});

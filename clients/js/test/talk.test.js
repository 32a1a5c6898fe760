/** Questions of a run, answers and messages to it, over sockets and requests that the test plays. */

import { describe, expect, onTestFinished, test } from 'vitest';

import { Conversation } from '../src/conversation.js';
import { ApiError, ConnectionLost, Question, RunNotFound } from '../src/index.js';
import { Mailbox } from '../src/mailbox.js';
import { attach, attached, RUN, scripted, settled, sockets } from './scripted.js';

/** @import { ClientOptions } from '../src/index.js' */
/** @import { Scripted } from './scripted.js' */

const ASK = `ask-${RUN}-2`;
const QUESTION = { input_id: ASK, kind: 'question', prompt: 'Which branch?', schema: { type: 'string', enum: ['a', 'b'] } };
const APPROVAL = {
  input_id: `ask-${RUN}-4`, kind: 'approval', prompt: 'Delete it?', expires_at: '2026-11-27T18:00:00.000Z',
  tool_call_id: 'c1', tool_name: 'Delete', parameters: { path: 'a' },
};

/** @param {number} seq @param {string} type @param {object} data @param {object} [metadata] */
const event = (seq, type, data, metadata = {}) => ({ id: `evt-${RUN}-${seq}`, type, data, metadata });
/** @param {Scripted} socket @param {number} seq @param {object} [metadata] */
const finish = (socket, seq, metadata = {}) =>
  socket.say(event(seq, 'AGENT_FINISH', { status: 'completed', result: 'all' }, { events: seq, ...metadata }));

/** A request as it was made, and how to answer it. */
class Posted {
  /** @type {(response: Response) => void} */ answer = () => {};
  /** @type {(error: Error) => void} */ fail = () => {};
  answered = /** @type {Promise<Response>} */ (
    new Promise((resolve, reject) => {
      this.answer = resolve;
      this.fail = reject;
    })
  );

  /** @param {string} url @param {RequestInit} init */
  constructor(url, init) {
    init.signal?.addEventListener('abort', () => this.fail(new Error('It was aborted.')));
    this.path = new URL(url).pathname;
    this.method = init.method;
    this.body = init.body === undefined ? undefined : JSON.parse(String(init.body));
  }

  /** @param {number} status @param {object} body @param {Record<string, string>} [headers] */
  reply(status, body, headers = {}) {
    this.answer(new Response(JSON.stringify(body), { status, headers }));
  }
}

/** A client of which the test plays the requests, and the sockets. @param {ClientOptions} [options] */
function posting(options) {
  /** @type {Mailbox<Posted>} */
  const requests = new Mailbox();
  const fetch = async (/** @type {unknown} */ url, /** @type {RequestInit} */ init = {}) => {
    const posted = new Posted(String(url), init);
    requests.put(posted);
    return posted.answered;
  };
  const next = async () => /** @type {Posted} */ (await requests.take());
  return { client: scripted({ fetch, ...options }), next };
}

describe('questions', () => {
  test('each that opens is told, and is open until it is closed', async () => {
    const { run, socket } = await attached();
    /** @type {Question[]} */
    const heard = [];
    run.on('input', (question) => heard.push(question));
    socket.say(event(1, 'AGENT_START', { input: 'hello', config: {}, max_steps: null }));
    socket.say(event(2, 'INPUT_REQUESTED', QUESTION));
    socket.say(event(3, 'TOOL_CALL_START', { tool_call_id: 'c1', tool_name: 'Delete', parameters: { path: 'a' } }));
    socket.say(event(4, 'INPUT_REQUESTED', APPROVAL));
    await settled();
    expect(run.questions).toEqual(heard);
    expect(run.questions).toBe(run.questions);
    expect(heard[0]).toMatchObject({
      inputId: ASK, kind: 'question', prompt: 'Which branch?', schema: { enum: ['a', 'b'] }, expiresAt: null,
      toolCallId: null, toolName: null, parameters: null,
    });
    expect(heard[1]).toMatchObject({
      kind: 'approval', schema: null, expiresAt: '2026-11-27T18:00:00.000Z', toolCallId: 'c1', toolName: 'Delete',
      parameters: { path: 'a' },
    });
    socket.say(event(5, 'INPUT_ANSWERED', { input_id: ASK, answer: 'a', message_id: 'm1' }));
    await settled();
    expect(run.questions).toEqual([heard[1]]);
    finish(socket, 6);
    await run.result;
    expect([heard.length, run.questions]).toEqual([2, []]);
  });

  test('one outlives the process that asked it, and is told once though it is asked once more', async () => {
    const { run, socket } = await attached();
    /** @type {Question[]} */
    const heard = [];
    run.on('input', (question) => heard.push(question));
    socket.say(event(1, 'LLM_CHUNK', { content: 'I ask.', delta: 'I ask.' }));
    socket.say(event(2, 'INPUT_REQUESTED', QUESTION));
    await settled();
    socket.say(event(3, 'RUN_RESUMED', { epoch: 1, step: null, void_after: 0 }));
    socket.say(event(4, 'INPUT_REQUESTED', QUESTION));
    await settled();
    expect(run.questions).toEqual(heard);
    expect(heard.length).toBe(1);
    finish(socket, 5);
    await run.result;
  });

  test('a late listener hears those that are open, and no event is used up', async () => {
    const { run, socket } = await attached();
    socket.say(event(1, 'INPUT_REQUESTED', QUESTION));
    socket.say(event(2, 'INPUT_REQUESTED', APPROVAL));
    socket.say(event(3, 'INPUT_ANSWERED', { input_id: ASK, expired: true }));
    await settled();
    /** @type {string[]} */
    const heard = [];
    run.on('input', ({ inputId }) => heard.push(inputId));
    run.on('input', () => heard.push('never'))();
    expect(heard).toEqual([]);
    await settled();
    expect(heard).toEqual([APPROVAL.input_id]);
    finish(socket, 4);
    const types = [];
    for await (const { type } of run) types.push(type);
    expect(types).toEqual(['INPUT_REQUESTED', 'INPUT_REQUESTED', 'INPUT_ANSWERED', 'AGENT_FINISH']);
    expect(heard).toEqual([APPROVAL.input_id]);
  });

  test('a listener for questions is enough for a run to be followed to its end', async () => {
    const { run, socket } = await attached();
    const asked = new Promise((resolve) => run.on('input', resolve));
    socket.events(Array.from({ length: 600 }, (_, index) => index + 1));
    socket.say(event(601, 'INPUT_REQUESTED', QUESTION));
    expect(await asked).toMatchObject({ inputId: ASK });
  });

  test('of a past that comes in one go only those are told that are still open, in their turn', async () => {
    const { run, socket } = await attached();
    /** @type {string[]} */
    const heard = [];
    run.on('input', ({ inputId }) => heard.push(inputId));
    run.on('event', ({ type }) => heard.push(type));
    socket.say(event(1, 'INPUT_REQUESTED', QUESTION));
    socket.say(event(2, 'INPUT_REQUESTED', APPROVAL));
    socket.say(event(3, 'INPUT_ANSWERED', { input_id: ASK, answer: 'a', message_id: 'm' }));
    await settled();
    expect(heard).toEqual(['INPUT_REQUESTED', 'INPUT_REQUESTED', 'INPUT_ANSWERED', APPROVAL.input_id]);
  });

  test('a listener that is added in between hears of each once', async () => {
    const { run, socket } = await attached();
    /** @type {string[]} */
    const heard = [];
    run.on('event', ({ type }) => {
      if (type === 'LLM_CHUNK') run.on('input', ({ inputId }) => heard.push(inputId));
    });
    socket.say(event(1, 'INPUT_REQUESTED', QUESTION));
    await settled();
    socket.say(event(2, 'INPUT_REQUESTED', APPROVAL));
    socket.events([3]);
    await settled();
    expect(heard.sort()).toEqual([ASK, APPROVAL.input_id]);
  });

  test('a listener that would hear of none is refused', async () => {
    const { run } = await attached({ types: ['INPUT_REQUESTED', 'LLM_CHUNK'] });
    expect(() => run.on('input', () => {})).toThrow('`types` must have INPUT_REQUESTED and INPUT_ANSWERED');
  });

  test('an event of an agent\'s own that looks like one is none', async () => {
    const { run, socket } = await attached();
    socket.say(event(1, 'INPUT_REQUESTED', { input_id: 1 }));
    socket.say(event(2, 'INPUT_ANSWERED', {}));
    finish(socket, 3);
    expect(await run.result).toBe('all');
  });

  test('a snapshot has them', async () => {
    const { client, next } = posting();
    const run = client.attach(RUN, { snapshot: true });
    /** @type {unknown[]} */
    const heard = [];
    run.on('input', ({ prompt }) => heard.push(prompt));
    run.on('snapshot', () => heard.push(run.questions.length));
    const asked = await next();
    expect(asked.path).toBe(`/runs/${RUN}/snapshot`);
    asked.reply(200, { run_id: RUN, seq: 7, state: { text: '', tools: {}, questions: [QUESTION, APPROVAL], waiting: true } });
    const { socket } = await attach();
    await settled();
    expect(heard).toEqual([2, 'Which branch?', 'Delete it?']);
    finish(socket, 8);
    await run.result;
  });

  test('a run that had ended before has none', async () => {
    const { client, next } = posting();
    const run = client.attach(RUN, { snapshot: true });
    (await next()).reply(200, { seq: 7, state: { tools: {}, questions: [QUESTION] } });
    const socket = /** @type {Scripted} */ (await sockets.take());
    socket.answer(await socket.next(), { type: 'attached', last: 7, ended: true });
    (await next()).reply(200, { run_id: RUN, status: 'completed', result: 'all' });
    expect(await run.result).toBe('all');
    expect(run.questions).toEqual([]);
  });

  test('their methods answer them', async () => {
    const { run, socket } = await attached();
    socket.say(event(1, 'INPUT_REQUESTED', APPROVAL));
    await settled();
    const [{ answer, approve, reject }] = /** @type {[Question]} */ (/** @type {unknown} */ (run.questions));
    for (const [call, expected] of /** @type {[() => Promise<unknown>, unknown][]} */ ([
      [() => answer(['any', 1, null]), ['any', 1, null]],
      [() => approve(), { decision: 'approve' }],
      [() => approve({ path: 'b' }), { decision: 'approve', parameters: { path: 'b' } }],
      [() => reject(), { decision: 'reject' }],
      [() => reject('Not that one.'), { decision: 'reject', reason: 'Not that one.' }],
    ])) {
      const said = call();
      const command = await socket.next();
      expect(command).toMatchObject({ type: 'answer', run_id: RUN, input_id: APPROVAL.input_id, answer: expected });
      expect(command.message_id).toMatch(/^[0-9a-f]{32}$/);
      const ack = { type: 'answer_ack', input_id: APPROVAL.input_id, message_id: command.message_id, status: 'accepted' };
      socket.answer(command, ack);
      expect(await said).toEqual({ messageId: command.message_id, status: 'accepted' });
    }
  });

  test('a click\'s event is no parameters, and no reason', async () => {
    const question = new Question(/** @type {any} */ (APPROVAL), () => Promise.reject(new Error('It was sent.')));
    const click = /** @type {any} */ (new Event('click'));
    await expect(question.approve(click)).rejects.toThrow('onClick={() => question.approve()}');
    await expect(question.reject(click)).rejects.toThrow('onClick={() => question.reject()}');
  });
});

describe('over a socket', () => {
  test('the reply is told as it is', async () => {
    const { client, run, socket } = await attached();
    const sent = run.send('Use dev instead.');
    const send = await socket.next();
    expect(send).toEqual({
      type: 'send', run_id: RUN, content: 'Use dev instead.', message_id: expect.any(String), ref: expect.any(Number),
    });
    socket.answer(send, { type: 'send_ack', message_id: send.message_id, status: 'not_accepted' });
    expect(await sent).toEqual({ messageId: send.message_id, status: 'not_accepted' });
    const answered = client.answer(RUN, ASK, 'a', { messageId: 'mine' });
    const answer = await socket.next();
    expect(answer).toMatchObject({ input_id: ASK, answer: 'a', message_id: 'mine' });
    const won = { message_id: 'theirs', at: '2026-11-27T17:00:00.000Z', by: 'bob', status: 'already_answered' };
    socket.answer(answer, { type: 'answer_ack', input_id: ASK, ...won });
    expect(await answered).toEqual({ messageId: 'theirs', at: won.at, by: 'bob', status: 'already_answered' });
  });

  test('an answer that does not fit is an error with its path, and harms nothing', async () => {
    const { run, socket } = await attached();
    const answered = run.answer(ASK, 'c');
    const wrong = { type: 'error', code: 'bad_request', message: '`answer` must be one of a, b.', field: 'answer' };
    socket.answer(await socket.next(), wrong);
    const error = await answered.catch((thrown) => thrown);
    expect(error).toBeInstanceOf(ApiError);
    expect(error).toMatchObject({ code: 'bad_request', field: 'answer' });
    finish(socket, 1);
    expect(await run.result).toBe('all');
  });

  test.each(['unknown_outcome', 'too_many_messages'])('after %s it is asked again, with the same id', async (code) => {
    const { run, socket } = await attached();
    const sent = run.send('More.');
    const first = await socket.next();
    socket.answer(first, { type: 'error', code, message: 'Ask again.', message_id: first.message_id });
    const second = await socket.next();
    expect(second).toEqual({ ...first, ref: first.ref + 1 });
    socket.answer(second, { type: 'send_ack', message_id: first.message_id, status: 'accepted' });
    expect(await sent).toEqual({ messageId: first.message_id, status: 'accepted' });
  });

  test('a lost acknowledgement is asked for again by request, with the same id', async () => {
    const { client, next } = posting();
    const run = client.attach(RUN);
    const { socket } = await attach();
    const sent = run.send('More.');
    const command = await socket.next();
    socket.end(1006);
    const posted = await next();
    expect([posted.method, posted.path]).toEqual(['POST', `/runs/${RUN}/messages`]);
    expect(posted.body).toEqual({ content: 'More.', message_id: command.message_id });
    posted.reply(202, { run_id: RUN, message_id: command.message_id, status: 'accepted' });
    expect(await sent).toEqual({ messageId: command.message_id, status: 'accepted' });
  });

  test('a large message is a request of its own', async () => {
    const { client, next } = posting();
    const run = client.attach(RUN);
    await attach();
    const sent = run.send('x'.repeat(70_000));
    const posted = await next();
    posted.reply(413, { code: 'payload_too_large', message: 'The body is too large.' });
    await expect(sent).rejects.toMatchObject({ name: 'TooLarge' });
    expect(run.status).toBe('open');
  });

  test('a cancel of a run that does not exist', async () => {
    const { client, socket } = await attached();
    const cancelled = client.cancel('b'.repeat(26));
    socket.answer(await socket.next(), { type: 'cancel_ack', run_id: 'b'.repeat(26), status: 'not_found' });
    await expect(cancelled).rejects.toThrow(RunNotFound);
  });
});

describe('over HTTP', () => {
  test.each(/** @type {const} */ ([
    [409, 'input_expired', 'expired'], [404, 'input_not_found', 'not_found'], [409, 'run_ended', 'already_finished'],
    [409, 'not_accepted', 'not_accepted'],
  ]))('%i %s is the status %s', async (status, code, told) => {
    const { client, next } = posting();
    const answered = client.answer(RUN, ASK, { a: 1 }, { messageId: 'm' });
    const posted = await next();
    expect([posted.method, posted.path]).toEqual(['POST', `/runs/${RUN}/inputs/${ASK}`]);
    expect(posted.body).toEqual({ answer: { a: 1 }, message_id: 'm' });
    posted.reply(status, { code, message: 'No.' });
    expect(await answered).toEqual({ messageId: 'm', status: told });
  });

  test.each([[504, 'unknown_outcome'], [429, 'too_many_messages'], [503, 'draining']])('after %i it is asked again', async (status, code) => {
    const { client, next } = posting();
    const sent = client.send(RUN, 'More.');
    const first = await next();
    first.reply(status, { code, message: 'Ask again.' });
    const second = await next();
    expect(second.body).toEqual(first.body);
    second.fail(new TypeError('The network is away.'));
    const third = await next();
    expect(third.body).toEqual(first.body);
    third.reply(202, { run_id: RUN, message_id: first.body.message_id, status: 'accepted' });
    expect(await sent).toEqual({ messageId: first.body.message_id, status: 'accepted' });
  });

  test('patience ends, too', async () => {
    const { client, next } = posting();
    const sent = client.send(RUN, 'More.');
    for (let left = 3; left > 0; left -= 1) (await next()).reply(504, { code: 'unknown_outcome', message: 'Ask again.' });
    const error = await sent.catch((thrown) => thrown);
    expect(error).toBeInstanceOf(ConnectionLost);
    expect(error).toMatchObject({ code: 'unknown_outcome', status: 504, attempts: 3 });
  });

  test.each([[400, 'bad_request'], [422, 'idempotency_mismatch']])('%i is an error', async (status, code) => {
    const { client, next } = posting();
    const sent = client.send(RUN, ' ');
    (await next()).reply(status, { code, message: 'No.', field: 'content' });
    await expect(sent).rejects.toMatchObject({ name: 'ApiError', code, field: 'content', status });
  });

  test('a client that is closed says nothing more', async () => {
    const { client, next } = posting();
    const sent = client.send(RUN, 'More.');
    await next();
    client.close();
    await expect(sent).rejects.toThrow('The client is closed.');
    await expect(client.answer(RUN, ASK, 'a')).rejects.toThrow('The client is closed.');
  });
});

test('what no server could take is refused at once', async () => {
  const { client, run } = await attached();
  const wrong = /** @type {any} */ ({ type: 'click' });
  await expect(run.send(wrong)).rejects.toThrow('`content` must be a string.');
  await expect(run.answer(ASK, undefined)).rejects.toThrow('`value` must be JSON.');
  await expect(client.send('a/../b', 'More.')).rejects.toThrow(RunNotFound);
  await expect(client.answer('a/../b', ASK, 'a')).rejects.toThrow(RunNotFound);
});

describe('a conversation', () => {
  /** A conversation about a run that the test plays. */
  async function conversing() {
    const conversation = new Conversation(scripted());
    onTestFinished(conversation.subscribe(() => {}));
    conversation.send('hello');
    const socket = /** @type {Scripted} */ (await sockets.take());
    const start = await socket.next();
    socket.answer(start, { type: 'started', run_id: RUN });
    socket.say(event(1, 'AGENT_START', { input: 'hello', config: {}, max_steps: null }));
    await settled();
    return { conversation, socket };
  }

  /** The same that a component is shown next. @param {Conversation} conversation */
  const drawn = (conversation) =>
    /** @type {Promise<import('../src/conversation.js').RunView>} */ (
      new Promise((resolve) => {
        const leave = conversation.subscribe(() => {
          leave();
          resolve(conversation.view());
        });
      })
    );

  test('shows what the run asks, and answers it', async () => {
    const { conversation, socket } = await conversing();
    expect(conversation.view()).toMatchObject({ questions: [], waiting: false });
    socket.say(event(2, 'INPUT_REQUESTED', QUESTION));
    const view = await drawn(conversation);
    expect(view).toMatchObject({ waiting: true, active: true, questions: [{ prompt: 'Which branch?' }] });
    expect(view.messages[1]).toMatchObject({ role: 'assistant', waiting: true, questions: view.questions });
    const answered = view.questions[0]?.answer('a');
    const command = await socket.next();
    expect(command).toMatchObject({ type: 'answer', input_id: ASK, answer: 'a' });
    socket.answer(command, { type: 'answer_ack', input_id: ASK, message_id: command.message_id, status: 'accepted' });
    expect(await answered).toMatchObject({ status: 'accepted' });
    socket.say(event(3, 'INPUT_ANSWERED', { input_id: ASK, answer: 'a', message_id: command.message_id }));
    expect(await drawn(conversation)).toMatchObject({ questions: [], waiting: false });
  });

  test('shows what was said meanwhile, here and elsewhere, and what of it was not read', async () => {
    const { conversation, socket } = await conversing();
    const said = conversation.say('Use dev.');
    const command = await socket.next();
    expect(command).toMatchObject({ type: 'send', run_id: RUN, content: 'Use dev.' });
    socket.say(event(2, 'USER_MESSAGE', { content: 'Use dev.', message_id: command.message_id }));
    socket.answer(command, { type: 'send_ack', message_id: command.message_id, status: 'accepted' });
    expect(await said).toMatchObject({ status: 'accepted' });
    const before = await drawn(conversation);
    expect(before.messages.map(({ role, text, status }) => [role, text, status])).toEqual([
      ['user', 'hello', 'sent'], ['user', 'Use dev.', 'sent'], ['assistant', '', 'open'],
    ]);
    socket.say(event(3, 'USER_MESSAGE', { content: 'And test it.', message_id: 'theirs', by: 'bob' }));
    finish(socket, 4, { unread: ['theirs'] });
    const after = await drawn(conversation);
    expect(after.messages.map(({ role, text, status }) => [role, text, status])).toEqual([
      ['user', 'hello', 'sent'], ['user', 'Use dev.', 'sent'], ['user', 'And test it.', 'unread'],
      ['assistant', 'all', 'completed'],
    ]);
    expect(after.messages[1]).toBe(before.messages[1]);
    expect(new Set(after.messages.map(({ id }) => id)).size).toBe(4);
    expect(await conversation.say('Too late.')).toEqual({ messageId: expect.any(String), status: 'already_finished' });
  });
});

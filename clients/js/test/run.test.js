/** Runs on a real server, over each transport: events, result, cancel, leaving. */

import { describe, expect, test } from 'vitest';

import { Gap, RunClosed, RunFailed, RunNotFound } from '../src/index.js';
import { connected, first, fresh, number, open, TRANSPORTS, upTo, URL_OF } from './live.js';

describe.each(TRANSPORTS)('%s', (transport) => {
  test('every event once and in order, then the result', async () => {
    const run = connected({ transport }).stream('words 300');
    const events = [];
    for await (const event of run) {
      events.push(event);
      expect(run.cursor).toBe(number(event));
    }
    expect(events.map(number)).toEqual(upTo(302));
    expect(events[0]?.type).toBe('AGENT_START');
    expect(run.terminal).toBe(events[301]);
    expect([run.status, await run.result]).toEqual(['completed', upTo(300).map((word) => `${word} `).join('')]);
  });

  test('callbacks, until they are taken off', async () => {
    const run = connected({ transport }).stream('words 5');
    /** @type {string[]} */
    const heard = [];
    const off = run.on('LLM_CHUNK', ({ data }) => {
      heard.push(data.content);
      if (data.content === '2 ') off();
    });
    run.on('AGENT_FINISH', ({ data }) => heard.push(data.status));
    run.on('status', (status) => heard.push(status));
    await run.result;
    expect(heard).toEqual(['open', '1 ', '2 ', 'completed', 'completed']);
  });

  test('a traceparent that is none is refused', async () => {
    const run = connected({ transport }).stream('words 5', { traceparent: 'mine' });
    await expect(run.result).rejects.toMatchObject({ field: 'traceparent' });
    await connected({ transport }).stream('words 5', { traceparent: `00-${'1'.repeat(32)}-${'1'.repeat(16)}-01` }).result;
  });

  test('settings, labels and parts reach the agent as they were when the run was started', async () => {
    const image = { type: /** @type {const} */ ('image_url'), image_url: { url: 'https://example.org/a.png' } };
    const params = { temperature: 0.5, deep: { a: /** @type {unknown[]} */ ([null, 'ü']) } };
    const client = connected({ transport });
    const run = client.stream('given', { params, metadata: { ticket: '4711' }, parts: [image] });
    params.deep.a.push('later');
    expect(await run.result).toEqual({
      params: { temperature: 0.5, deep: { a: [null, 'ü'] } },
      metadata: { ticket: '4711' },
      parts: [{ type: 'text', text: 'given' }, image],
    });
    expect((await client.get(run.runId ?? '')).metadata).toEqual({ ticket: '4711' });
  });

  test('what the agent does not accept is refused', async () => {
    const run = connected({ transport }).stream('given', { parts: [{ type: 'file', file: { file_id: 'f' } }] });
    await expect(run.result).rejects.toMatchObject({ code: 'bad_request', field: 'parts' });
  });

  test('cancelled in the middle', async () => {
    const run = connected({ transport }).stream('forever');
    await first(run, 'LLM_CHUNK');
    expect(await run.cancel()).toBe('accepted');
    expect([await run.result, run.status]).toEqual(['before ', 'cancelled']);
    expect(await connected({}).cancel(run.runId ?? '')).toBe('already_finished');
  });

  test('cancelled before it was started', async () => {
    const run = connected({ transport }).stream('forever');
    expect(await run.cancel()).toBe('accepted');
    await run.result;
    expect(run.status).toBe('cancelled');
  });

  test('an abort stops following, not the run', async () => {
    const client = connected({ transport });
    const controller = new AbortController();
    const gate = fresh();
    const run = client.stream(`gate ${gate}`, { signal: controller.signal });
    const types = [];
    const loop = (async () => {
      for await (const { type } of run) {
        types.push(type);
        if (type === 'LLM_CHUNK') controller.abort(new Error('enough'));
      }
    })();
    await expect(loop).rejects.toThrow('enough');
    await expect(run.result).rejects.toThrow('enough');
    expect(run.status).toBe('closed');
    expect((await client.get(run.runId ?? ''))['status']).toBe('running');
    await open(gate);
    expect(await client.attach(run.runId ?? '').result).toBe('before after');
  });

  test('an abort that cancels, even where the run has no id yet', async () => {
    const client = connected({ transport });
    const name = fresh();
    for (const until of ['LLM_CHUNK', null]) {
      const controller = new AbortController();
      const options = { signal: controller.signal, cancelOnAbort: true, idempotencyKey: `${name} ${until}` };
      const run = client.stream('forever', options);
      if (until) await first(run, until);
      controller.abort();
      const again = client.stream('forever', { idempotencyKey: `${name} ${until}` });
      await again.result;
      expect(again.status).toBe('cancelled');
    }
  });

  test('a loop that is left closes the run, which another goes on with', async () => {
    const client = connected({ transport });
    const run = client.stream('words 50', { onDisconnect: 'continue' });
    let seen = 0;
    for await (const event of run) {
      seen = number(event);
      if (seen === 10) break;
    }
    expect([run.status, run.cursor]).toEqual(['closed', 10]);
    await expect(run.result).rejects.toThrow(RunClosed);
    const rest = [];
    for await (const event of client.attach(run.runId ?? '', { after: run.cursor })) rest.push(number(event));
    expect(rest).toEqual(upTo(52).slice(10));
  });

  test('a slow reader lags in the log', async () => {
    const client = connected({ transport });
    const run = client.stream('words 5000', { onDisconnect: 'continue' });
    const events = run[Symbol.asyncIterator]();
    expect(number((await events.next()).value ?? { id: '' })).toBe(1);
    await client.attach(await run.started).result;
    let last = 1;
    for (let next = await events.next(); !next.done; next = await events.next()) {
      last += 1;
      expect(number(next.value)).toBe(last);
    }
    expect(last).toBe(5002);
  });

  test('a run that fails', async () => {
    const run = connected({ transport }).stream('fail');
    await expect(run.result).rejects.toThrow(RunFailed);
    expect(run.status).toBe('error');
  });

  test('a filter', async () => {
    const types = [];
    for await (const { type } of connected({ transport }).stream('words 3', { types: ['LLM_CHUNK'] })) types.push(type);
    expect(types).toEqual(['LLM_CHUNK', 'LLM_CHUNK', 'LLM_CHUNK', 'AGENT_FINISH']);
  });

  test('a run joined late, by its snapshot', async () => {
    const client = connected({ transport });
    const gate = fresh();
    const run = client.stream(`gate ${gate}`);
    await first(run, 'LLM_CHUNK');
    const late = client.attach(run.runId ?? '', { snapshot: true });
    await open(gate);
    const events = [];
    for await (const event of late) events.push(number(event));
    expect(late.snapshot?.state.text).toBe('before ');
    expect(events).toEqual([3, 4]);
    expect(await run.result).toBe('before after');
  });

  test('more runs at once than a socket follows', async () => {
    const client = connected({ transport });
    const gate = fresh();
    const runs = upTo(105).map(() => client.stream(`gate ${gate}`));
    await Promise.all(runs.map((run) => first(run, 'LLM_CHUNK')));
    await connected({ transport }).stream(`open ${gate}`).result;
    expect(new Set(await Promise.all(runs.map((run) => run.result)))).toEqual(new Set(['before after']));
  });

  test('the same run, followed twice', async () => {
    const client = connected({ transport });
    const gate = fresh();
    const run = client.stream(`gate ${gate}`);
    await first(run, 'LLM_CHUNK');
    const other = client.attach(run.runId ?? '');
    await first(other, 'LLM_CHUNK');
    await open(gate);
    expect(await Promise.all([run.result, other.result])).toEqual(['before after', 'before after']);
  });

  test('verdicts', async () => {
    const client = connected({ transport });
    await expect(client.attach('a'.repeat(26)).result).rejects.toThrow(RunNotFound);
    const run = client.stream('words 1');
    await run.result;
    const gap = client.attach(run.runId ?? '', { after: 9 });
    await expect(gap.result).rejects.toThrow(Gap);
    expect([gap.status, /** @type {Gap} */ (gap.error).last]).toEqual(['failed', 3]);
    await expect(client.stream('words 1', { agent: 'nobody' }).result).rejects.toMatchObject({ code: 'agent_not_found' });
  });

  test('a token, which is asked for again where it is refused', async () => {
    const tokens = ['old', 'alice-secret-token'];
    const token = async () => (tokens.length > 1 ? tokens.shift() : tokens[0]) ?? '';
    expect(await connected({ transport, url: URL_OF.guarded, token }).stream('words 1').result).toBe('1 ');
    const refused = connected({ transport, url: URL_OF.guarded, token: 'wrong' }).stream('words 1');
    await expect(refused.result).rejects.toMatchObject({ code: 'unauthenticated' });
    const unneeded = connected({ transport, token: 'whatever' }).stream('words 1');
    expect(await unneeded.result).toBe('1 ');
  });
});

test('the list of a user\'s runs', async () => {
  const client = connected({});
  const userId = fresh();
  const runs = [];
  for (const message of ['words 1', 'fail']) {
    const run = client.stream(message, { userId });
    await run.result.catch(() => {}); // one of a user's runs at a time: they are a conversation
    runs.push(run);
  }
  const listed = await client.runs({ userId });
  expect(new Map(listed.map(({ run_id, status }) => [run_id, status]))).toEqual(
    new Map(runs.map(({ runId, status }) => [runId, status])),
  );
  expect(await client.runs({ userId, limit: 1 })).toEqual(listed.slice(0, 1));
  await expect(client.runs()).rejects.toMatchObject({ field: 'user_id' });
  const alice = connected({ url: URL_OF.guarded, token: 'alice-secret-token' });
  await alice.stream('words 1').result;
  expect((await alice.runs({ limit: 1 }))[0]).toMatchObject({ user_id: 'alice', status: 'completed' });
});

test('what is wrong is said before anything is sent', async () => {
  const client = connected({});
  expect(() => connected({ url: 'ftp://a' })).toThrow('`url` ');
  expect(() => client.stream('a', { types: ['a'] })).toThrow('`types` ');
  expect(() => client.stream('a', { transport: 'eventsource' })).toThrow('`transport` ');
  expect(() => client.stream('a', { signal: AbortSignal.abort(new Error('no')) })).toThrow('no');
  await expect(client.attach('a/../b').result).rejects.toThrow(RunNotFound);
  expect(() => client.attach('a'.repeat(26), { after: -1 })).toThrow('`after` ');
  expect(() => client.attach('a'.repeat(26), { after: `evt-${'b'.repeat(26)}-1` })).toThrow('`after` ');
});

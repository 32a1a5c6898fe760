/** Users' code comes late to a run, leaves it, awaits it, gives it up: on a real server, over each transport. */

import { describe, expect, test, vi } from 'vitest';

import { RunClosed } from '../src/index.js';
import { connected, first, fresh, number, open, TRANSPORTS, upTo } from './live.js';

describe.each(TRANSPORTS)('%s', (transport) => {
  test('a loop, and listeners, that come after an await get every event', async () => {
    const client = connected({ transport });
    for (const count of [20, 2000]) {
      const run = client.stream(`words ${count}`);
      await run.started;
      await client.get(run.runId ?? '');
      const numbers = [];
      for await (const event of run) numbers.push(number(event));
      expect(numbers).toEqual(upTo(count + 2));
    }
    const run = client.stream('words 20');
    run.on('status', () => {});
    await run.result;
    /** @type {number[]} */
    const heard = [];
    run.on('event', (event) => heard.push(number(event)));
    await vi.waitFor(() => expect(heard).toEqual(upTo(22)));
  });

  test('a result needs no reader, and a reader that comes after it gets all', async () => {
    const client = connected({ transport });
    const run = client.stream('words 3000');
    expect((await run.wait()).length).toBeGreaterThan(3000);
    const heard = [];
    for await (const event of run) heard.push(number(event));
    expect(heard).toEqual(upTo(3002));
    expect([run.status, run.cursor]).toEqual(['completed', 3002]);
    const other = client.stream('words 3000');
    await other.result;
    /** @type {number[]} */
    const numbers = [];
    other.on('event', (event) => numbers.push(number(event)));
    await vi.waitFor(() => expect(numbers).toEqual(upTo(3002)));
  });

  test('the first to come may be late while the run goes on, and its result is awaited', async () => {
    const gate = fresh();
    const run = connected({ transport }).stream(`flood ${gate}`);
    const result = run.result;
    // The flood is over once its gate is asked for, and nobody has read any of it.
    await vi.waitFor(async () => expect((await connected({}).get(await run.started))['last']).toBe(1001));
    const numbers = [];
    for await (const event of run) {
      numbers.push(number(event));
      if (numbers.length === 900) await open(gate);
    }
    expect(numbers).toEqual(upTo(1003));
    expect(await result).toContain('after');
  });

  test('a client that is closed elsewhere ends a loop with RunClosed, not as if the run were whole', async () => {
    const client = connected({ transport });
    const run = client.stream('forever');
    const loop = (async () => {
      for await (const event of run) if (event.type === 'LLM_CHUNK') queueMicrotask(() => client.close());
    })();
    await expect(loop).rejects.toThrow(RunClosed);
    await expect(run.result).rejects.toThrow(RunClosed);
  });

  test('a close when the end comes leaves the result', async () => {
    const run = connected({ transport }).stream('words 3');
    run.on('AGENT_FINISH', () => run.close());
    expect([await run.result, run.status]).toEqual(['1 2 3 ', 'completed']);
  });

  test('a read that is given up loses nothing', async () => {
    const gate = fresh();
    const events = connected({ transport }).stream(`gate ${gate}`)[Symbol.asyncIterator]();
    const numbers = [];
    for (let opened = false; ; ) {
      const late = new Promise((resolve) => setImmediate(resolve, 'late'));
      const next = await Promise.race([events.next(), late]);
      if (next === 'late') continue;
      const { done, value } = /** @type {IteratorResult<{id: string}>} */ (next);
      if (done) break;
      numbers.push(number(value));
      if (numbers.length === 2 && !opened) {
        opened = true;
        await open(gate);
      }
    }
    expect(numbers).toEqual([1, 2, 3, 4]);
  });

  test('a result of any type comes as it is', async () => {
    const client = connected({ transport });
    for (const result of ['{"a": [1, null]}', '[]', '7', 'false', 'null', '"text"']) {
      const run = client.stream(`result ${result}`);
      expect(await run.result).toEqual(JSON.parse(result));
      expect(await client.attach(run.runId ?? '', { after: 2 }).result).toEqual(JSON.parse(result));
    }
  });

  test('a cancel while nobody reads', async () => {
    const run = connected({ transport }).stream('forever');
    await run.started;
    await run.cancel();
    expect(await run.result).toBe('before ');
    await first(run, 'AGENT_FINISH');
  });
});

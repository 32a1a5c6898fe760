// OpenAI's npm package against /v1.
import OpenAI from 'openai';
import { ask as tell, base, report, until } from './lib.mjs';

const client = new OpenAI({ baseURL: `${base}/v1`, apiKey: 'none' });
const ask = (content, options = {}) => client.chat.completions.create({ model: 'scenes', messages: [{ role: 'user', content }], ...options });
const caught = async promise => {
  try { return await promise; } catch ({ name, status, code, type, param, error }) { return { name, status, code, type, param, error }; }
};

async function streamed(content, begun = () => {}, goesOn = () => {}) {
  const seen = { text: '', reasoning: '', reasons: [], usage: null };
  for await (const { choices: [choice], usage } of await ask(content, { stream: true, stream_options: { include_usage: true } })) {
    seen.text += choice?.delta.content ?? '';
    seen.reasoning += choice?.delta.reasoning_content ?? '';
    if (seen.text === 'one ') begun();
    if (seen.text.endsWith('\n\none ')) goesOn();
    if (choice?.finish_reason) seen.reasons.push(choice.finish_reason);
    if (usage) seen.usage = usage;
  }
  return seen;
}

const seen = { models: [] };
for await (const { id } of client.models.list()) seen.models.push(id);
seen.streamed = await streamed('tools');
const { choices: [{ message, finish_reason }], usage } = await ask('tools');
seen.whole = { text: message.content, finish_reason, usage };
seen.resumed = await streamed('resumed', () => {}, () => tell('release'));
seen.failed = await caught(streamed('fail'));
seen.failedWhole = await caught(ask('fail'));
seen.unknown = await caught(ask('hi', { model: 'nobody' }));
seen.tools = await caught(ask('hi', { tools: [{ type: 'function', function: { name: 'f' } }] }));

const picture = { type: 'image_url', image_url: { url: 'data:image/png;base64,AA==' } };
const more = { model: 'given', temperature: 0.5, metadata: { ticket: '4711' } };
const { choices: [given] } = await ask([{ type: 'text', text: 'hi' }, picture], more);
seen.given = given.message.content;

seen.cut = await caught(streamed('slow', () => tell('cut')));

// one that leaves
const leaving = new AbortController();
let text = '';
const left = (async () => {
  for await (const { choices: [choice] } of await client.chat.completions.create(
    { model: 'scenes', messages: [{ role: 'user', content: 'slow' }], stream: true }, { signal: leaving.signal })) text += choice.delta.content ?? '';
})().catch(() => {});
await until(() => text === 'one ');
leaving.abort();
await left;
await report(seen);

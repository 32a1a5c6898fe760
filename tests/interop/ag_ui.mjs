// AG-UI's HttpAgent of one version against /ag-ui, with this query.
import { ask, base, complaints, report, until } from './lib.mjs';

const [, , , version, query] = process.argv;
const { HttpAgent } = await import(version);
const user = content => ({ id: `m-${content}`, role: 'user', content });

/** One run of a thread: the agent, the types of its events, how it ended, and the promise of its end. */
function run(threadId, runId, content, agent = new HttpAgent({ url: `${base}/ag-ui${query}`, threadId, initialMessages: [user(content)] }), options = {}) {
  const events = [];
  const seen = { agent, events, types: [], errors: [] };
  seen.done = agent.runAgent({ runId, ...options }, {
    onEvent: ({ event }) => { events.push(event); seen.types.push(event.type); },
    onRunFailed: ({ error }) => { seen.errors.push(error.message); },
  }).then(({ result, newMessages }) => { seen.result = result; seen.newMessages = newMessages; }, error => { seen.errors.push(error.message); });
  return seen;
}

const summary = async seen => {
  await seen.done;
  const { types, errors, result, newMessages, agent, events } = seen;
  return { types, errors, result, newMessages, messages: [...agent.messages], last: events.at(-1) };
};
const text = ({ agent }) => agent.messages.filter(({ role, content }) => role === 'assistant' && content).map(({ content }) => content).join('|');

const seen = {};
const whole = run('whole', 'r1', 'tools');
seen.whole = await summary(whole);
whole.agent.addMessage(user('history'));
seen.second = await summary(run('whole', 'r2', '', whole.agent));
const tools = [{ name: 'confirm', description: 'Ask the user.', parameters: { type: 'object', properties: {} } }];
const tooled = run('tooled', 'r1', 'history', undefined, { tools });
seen.tooled = await summary(tooled);
seen.notices = tooled.events.filter(({ type }) => type === 'CUSTOM');
seen.failed = await summary(run('failed', 'r1', 'fail'));

const cancelled = run('cancelled', 'r1', 'slow');
await until(() => text(cancelled) === 'one ');
const [id] = cancelled.agent.messages.at(-1).id.split('-'); // the run's; clients before 1.0 may not keep metadata
await fetch(`${base}/runs/${id}/cancel`, { method: 'POST' });
seen.cancelled = await summary(cancelled);

// somebody else joins late; then the server cuts both, and one joins its own run again
const first = run('late', 'r1', 'slow');
await until(() => text(first) === 'one ');
const late = run('late', 'r1', 'slow');
await until(() => text(late) === 'one ');
ask('cut');
seen.broken = [await summary(first), await summary(late)];
seen.complaints = complaints.splice(0); // of the cut: what it is for
const again = run('late', 'r1', '', first.agent);
await until(() => again.types.includes('MESSAGES_SNAPSHOT'));
ask('release');
seen.late = await summary(again);

// another process goes on with the run; its client joins it again and has only what counts
const resumed = run('resumed', 'r1', 'resumed');
await until(() => text(resumed) === 'no|one ');
const rejoined = run('resumed', 'r1', '', new HttpAgent({ url: `${base}/ag-ui${query}`, threadId: 'resumed', initialMessages: structuredClone(resumed.agent.messages) }));
await until(() => text(rejoined) === 'one ');
ask('release');
seen.resumed = await summary(resumed);
seen.rejoined = await summary(rejoined);

// an agent that accepts an image and what the app adds
const picture = version === '@ag-ui/client'
  ? { type: 'image', source: { type: 'data', value: 'AA==', mimeType: 'image/png' } }
  : { type: 'binary', data: 'AA==', mimeType: 'image/png' };
const giving = new HttpAgent({
  url: `${base}/ag-ui${query}${query ? '&' : '?'}agent=given`, threadId: 'given',
  initialMessages: [{ id: 'm', role: 'user', content: [{ type: 'text', text: 'hi' }, picture] }],
});
seen.given = await summary(run('given', 'r1', '', giving, { forwardedProps: { webSearch: true } }));

seen.refused = await summary(run('x'.repeat(200), 'r1', 'tools'));
seen.complaints.push(...complaints.splice(0));
await report(seen);

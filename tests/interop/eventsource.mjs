// The npm package eventsource: named events of the native format, a cut that it resumes by itself, an app's own format.
// event-source-polyfill, which resumes by ?lastEventId=.
import { EventSource } from 'eventsource';
import polyfill from 'event-source-polyfill';
import { ask, base, complaints, report, until } from './lib.mjs';

const TYPES = ['AGENT_START', 'STEP_START', 'THINKING', 'LLM_CHUNK', 'TOOL_CALL_START', 'TOOL_CALL_FINISH', 'STEP_FINISH', 'PROGRESS', 'AGENT_FINISH', 'ERROR'];

function follow(path, names, Kind = EventSource) {
  const source = new Kind(`${base}${path}`);
  const events = [];
  for (const name of names) source.addEventListener(name, event => {
    events.push({ type: event.type, data: event.data, id: event.lastEventId });
    if (/^(AGENT_FINISH|ERROR)/.test(`${event.type} ${event.data}`) || event.data.startsWith('AGENT_FINISH')) source.close();
  });
  return { source, events };
}

const whole = follow('/chat?message=tools', TYPES);
await until(() => whole.source.readyState === 2);

/** Follow, have the server cut all once this holds, and release the run when it is followed again. */
async function resumed(path, holds, Kind) {
  const followed = follow(path, TYPES, Kind);
  await until(() => holds(followed));
  ask('cut');
  await until(() => followed.source.readyState === 0);
  await until(() => followed.source.readyState === 1);
  ask('release');
  await until(() => followed.source.readyState === 2);
  return followed;
}

const begun = ({ events }) => events.some(({ type }) => type === 'LLM_CHUNK');
const cut = await resumed('/chat?message=slow', begun);
const polyfilled = await resumed('/chat?message=slow', begun, polyfill.EventSourcePolyfill);
const told = complaints.splice(0); // of the cut, which it logs
// cut before its first event, for which it has no cursor: a key makes the reconnect the same run
const keyed = await resumed('/chat?message=silent&idempotency_key=k', ({ source }) => source.readyState === 1);

const failed = follow('/chat?message=fail', TYPES);
await until(() => failed.source.readyState === 2);

const cancelled = follow('/chat?message=slow', TYPES);
await until(() => cancelled.events.some(({ type }) => type === 'LLM_CHUNK'));
const [, id] = cancelled.events[0].id.split('-');
await fetch(`${base}/runs/${id}/cancel`, { method: 'POST' });
await until(() => cancelled.source.readyState === 2);

const own = follow('/chat?message=tools&format=mine', ['message']);
await until(() => own.source.readyState === 2);
await report({ told, keyed: keyed.events, polyfilled: polyfilled.events, whole: whole.events, cut: cut.events, failed: failed.events, cancelled: cancelled.events, own: own.events });

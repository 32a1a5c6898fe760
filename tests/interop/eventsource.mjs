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

const cut = follow('/chat?message=slow', TYPES);
await until(() => cut.events.some(({ type }) => type === 'LLM_CHUNK'));
ask('cut');
await until(() => cut.source.readyState === 0);
await until(() => cut.source.readyState === 1);
ask('release');
await until(() => cut.source.readyState === 2);

const polyfilled = follow('/chat?message=slow', TYPES, polyfill.EventSourcePolyfill);
await until(() => polyfilled.events.some(({ type }) => type === 'LLM_CHUNK'));
ask('cut');
await until(() => polyfilled.source.readyState === 0);
await until(() => polyfilled.source.readyState === 1);
ask('release');
await until(() => polyfilled.source.readyState === 2);
const told = complaints.splice(0); // of the cut, which it logs

// cut before its first event, for which it has no cursor: a key makes the reconnect the same run
const keyed = follow('/chat?message=silent&idempotency_key=k', TYPES);
await until(() => keyed.source.readyState === 1);
ask('cut');
await until(() => keyed.source.readyState === 0);
await until(() => keyed.source.readyState === 1);
ask('release');
await until(() => keyed.source.readyState === 2);

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

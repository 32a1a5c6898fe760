// The npm package eventsource: named events of the native format, a cut that it resumes by itself, an app's own format.
import { EventSource } from 'eventsource';
import { ask, base, report, until } from './lib.mjs';

const TYPES = ['AGENT_START', 'STEP_START', 'THINKING', 'LLM_CHUNK', 'TOOL_CALL_START', 'TOOL_CALL_FINISH', 'STEP_FINISH', 'PROGRESS', 'AGENT_FINISH', 'ERROR'];

function follow(path, names) {
  const source = new EventSource(`${base}${path}`);
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

const failed = follow('/chat?message=fail', TYPES);
await until(() => failed.source.readyState === 2);

const cancelled = follow('/chat?message=slow', TYPES);
await until(() => cancelled.events.some(({ type }) => type === 'LLM_CHUNK'));
const [, id] = cancelled.events[0].id.split('-');
await fetch(`${base}/runs/${id}/cancel`, { method: 'POST' });
await until(() => cancelled.source.readyState === 2);

const own = follow('/chat?message=tools&format=mine', ['message']);
await until(() => own.source.readyState === 2);
await report({ whole: whole.events, cut: cut.events, failed: failed.events, cancelled: cancelled.events, own: own.events });

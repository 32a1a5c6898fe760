// Read by tsc alone: what the types must and must not allow.

import { createClient, GapError, type StreamEvent } from '../src/index.js';

export function narrows(event: StreamEvent): string | number {
  switch (event.type) {
    case 'LLM_CHUNK':
      return event.data.delta;
    case 'TOOL_CALL_FINISH':
      // @ts-expect-error - what a tool call's end does not have
      return event.data.delta;
    case 'AGENT_FINISH':
      // @ts-expect-error - nobody else ends a run
      if (event.data.reason === 'somebody') return 0;
      return event.data.reason ?? event.data.usage.total_tokens;
    default:
      return event.id;
  }
}

export function follows(): () => void {
  const run = createClient({ transport: 'ws' }).stream('hello', { types: ['LLM_CHUNK'] });
  run.on('TOOL_CALL_START', ({ data }) => data.tool_name.trim());
  run.on('MY_OWN', ({ data }) => data['anything']);
  run.on('status', (status) => status === 'reconnecting');
  // @ts-expect-error - no such transport
  createClient({ transport: 'smoke signals' });
  // @ts-expect-error - no such property of the data
  run.on('PROGRESS', ({ data }) => data.percent);
  if (run.error instanceof GapError) run.error.first.toFixed();
  return run.on('event', narrows);
}

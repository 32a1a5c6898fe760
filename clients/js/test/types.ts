// Read by tsc alone: what the types must and must not allow.

import {
  createClient, Gap, type Acknowledgement, type Client, type Part, type Question, type Retry, type Run, type RunInfo,
  type Status, type StreamEvent,
} from '../src/index.js';
import { checkAnswer, formOf, type Fault, type Field } from '../src/form.js';

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

export function gives(client: Client): Run {
  const image: Part = { type: 'image_url', image_url: { url: 'https://example.org/a.png' } };
  // @ts-expect-error - no such part
  client.stream('hello', { parts: [{ type: 'video' }] });
  // @ts-expect-error - a label is a text
  client.stream('hello', { metadata: { ticket: 4711 } });
  return client.stream('hello', { params: { temperature: 0 }, metadata: { ticket: '4711' }, parts: [image] });
}

export function follows(): () => void {
  const run = createClient({ transport: 'ws' }).stream('hello', { types: ['LLM_CHUNK'] });
  run.on('TOOL_CALL_START', ({ data }) => data.tool_name.trim());
  run.on('RUN_RESUMED', ({ data }) => data.void_after?.toFixed() ?? data.text?.trim());
  run.on('MY_OWN', ({ data }) => data['anything']);
  run.on('status', (status: Status) => status === 'reconnecting');
  run.on('retry', (retry: Retry) => retry.reason.trim());
  // @ts-expect-error - no such transport
  createClient({ transport: 'smoke signals' });
  // @ts-expect-error - no such property of the data
  run.on('PROGRESS', ({ data }) => data.percent);
  if (run.error instanceof Gap) run.error.first.toFixed();
  return run.on('event', narrows);
}

/** What a run asks, and what is said to it. */
export async function talks(run: Run, client: Client<Mine>): Promise<string> {
  run.on('input', ({ schema, expiresAt }: Question) => formOf(schema).map(({ label }: Field) => label + expiresAt));
  run.on('INPUT_REQUESTED', ({ data }) => data.prompt.trim());
  run.on('AGENT_FINISH', ({ metadata }) => metadata.unread?.join());
  const [question] = run.questions;
  // @ts-expect-error - it is a list
  await question?.approve(['a']);
  const fault: Fault | null = checkAnswer(question?.schema, 'a');
  const said: Acknowledgement = await client.send('a'.repeat(26), 'More.', { messageId: 'm' });
  // @ts-expect-error - no such status
  if (said.status === 'refused') return '';
  return (await question?.answer(1))?.messageId ?? fault?.field ?? (await client.get('a')).questions[0]!.prompt;
}

interface Mine {
  LIFT_OFF: { asked: string };
  LANDED: { at: number[] };
}

/** The agents' own types, beside the protocol's. */
export async function ownEvents(client: Client<Mine>): Promise<number> {
  const run: Run<Mine> = client.attach('a'.repeat(26));
  run.on('LIFT_OFF', ({ data }) => data.asked.trim());
  // @ts-expect-error - no such property of the data
  run.on('LANDED', ({ data }) => data.asked);
  for await (const event of run) {
    if (event.type === 'LIFT_OFF') event.data.asked.trim();
    else if (event.type === 'LLM_CHUNK') event.data.delta.trim();
    else if (event.type === 'LANDED') return event.data.at[0]!;
    // @ts-expect-error - nobody named this type
    else if (event.type === 'CRASHED') return 1;
  }
  const made: Client<Mine> = createClient({ url: undefined, credentials: 'include' });
  const listed: RunInfo[] = await made.runs();
  return createClient<Mine>().stream('go').on('LANDED', ({ data }) => data.at.length) ? 0 : listed.length;
}

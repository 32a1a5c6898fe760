// Read by tsc alone, as an ES module and as CommonJS, by each way to resolve modules: names that users write down.

import {
  createClient, ConnectionLost, RunFailed, TwinwireError,
  type Acknowledgement, type AnswerSchema, type AttachOptions, type Client, type ClientOptions, type CustomEvent, type EventOf,
  type Question, type QuestionData, type Retry, type Run, type RunInfo, type Snapshot, type StartOptions, type State, type Status, type StreamEvent, type TerminalEvent,
  type Token, type Transport, type Usage,
} from 'twinwire-client';
import { answerOf, checkAnswer, formOf, type Field } from 'twinwire-client/form';
import { useRun, type UserMessage } from 'twinwire-client/react';

interface Mine {
  LIFT_OFF: { asked: string };
}

export type Lifted = Extract<StreamEvent<Mine>, { type: 'LIFT_OFF' }>;
export type Kept = { info: RunInfo; last: TerminalEvent; state: State; usage: Usage; was: Snapshot; own: CustomEvent };
export const lifted = (event: Lifted): EventOf<'LIFT_OFF', { asked: string }> => event;

export type Said = { message: UserMessage; asked: QuestionData; field: Field };
export const labels = (schema: AnswerSchema | null): string[] => formOf(schema).map(({ label }) => label);

export async function reply({ schema, answer }: Question, filled: Record<string, string>): Promise<Acknowledgement> {
  const value = answerOf(schema, filled);
  const fault = checkAnswer(schema, value);
  if (fault) throw new Error(fault.message);
  return answer(value);
}

export async function follow(url: string | undefined, token: Token, transport: Transport): Promise<string[]> {
  const options: ClientOptions = { url, token, transport, credentials: 'include' };
  const client: Client<Mine> = createClient(options);
  const start: StartOptions = { agent: 'countdown' };
  const run: Run<Mine> = client.stream('go', start);
  const heard: string[] = [];
  run.on('status', (status: Status) => heard.push(status));
  run.on('retry', (retry: Retry) => heard.push(retry.reason));
  run.on('input', (question: Question) => reply(question, {}));
  try {
    for await (const event of run) {
      if (event.type === 'LIFT_OFF') heard.push(event.data.asked);
      // @ts-expect-error - no such property of the data
      if (event.type === 'LLM_CHUNK') heard.push(event.data.asked);
    }
  } catch (error) {
    if (error instanceof ConnectionLost || error instanceof RunFailed) heard.push(error.message);
    else if (error instanceof TwinwireError) heard.push(error.name);
  }
  const after: AttachOptions = { after: run.cursor };
  return client.attach(await run.started, after).active ? heard : [];
}

export function Page(props: { client: Client<Mine> }): string {
  const { text, send, events, questions } = useRun(props.client);
  for (const { approve } of questions) void approve();
  for (const event of events) if (event.type === 'LIFT_OFF') send(event.data.asked);
  return send.length > 0 ? text : '';
}

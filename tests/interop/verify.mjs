// Feeds runs that a test has made up, as SSE bodies, to the clients' own parsers, schemas and verifiers.
import { text } from 'node:stream/consumers';
import { report } from './lib.mjs';

const runs = JSON.parse(await text(process.stdin));
const answer = body => async () => new Response(body, { headers: { 'content-type': 'text/event-stream' } });
const failures = [];

for (const [version, bodies] of [['ai5', runs.ai_sdk_before], ['ai6', runs.ai_sdk], ['ai7', runs.ai_sdk]]) {
  const { DefaultChatTransport, readUIMessageStream } = await import(version);
  for (const [index, { body, failed }] of bodies.entries()) {
    const errors = [];
    try {
      const transport = new DefaultChatTransport({ api: 'http://127.0.0.1/', fetch: answer(body) });
      const stream = await transport.sendMessages({ trigger: 'submit-message', chatId: 'c', messages: [] });
      for await (const _ of readUIMessageStream({ stream, onError: error => errors.push(String(error)) }));
    } catch (error) {
      errors.push(`thrown: ${error}`);
    }
    if (errors.length !== failed) failures.push({ version, index, errors });
  }
}
for (const [version, bodies] of [['@ag-ui/client', runs.ag_ui], ['ag-ui-0.0.59', runs.ag_ui_before], ['ag-ui-0.0.42', runs.ag_ui_before]]) {
  const { HttpAgent } = await import(version);
  for (const [index, body] of bodies.entries()) {
    const errors = [];
    globalThis.fetch = answer(body); // clients before 1.0 take no fetch of their own
    const agent = new HttpAgent({ url: 'http://127.0.0.1/', threadId: 't' });
    await agent.runAgent({ runId: 'r' }, { onRunFailed: ({ error }) => { errors.push(error.message); } }).catch(error => errors.push(error.message));
    if (errors.length) failures.push({ version, index, errors });
  }
}
await report({ failures, count: runs.ai_sdk.length + runs.ai_sdk_before.length + runs.ag_ui.length + runs.ag_ui_before.length });

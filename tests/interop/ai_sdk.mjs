// The AI SDK of one version (`ai5`, `ai6`, `ai7`) against /ai-sdk: its transport and its chat, over HTTP or a WebSocket,
// with a token where there is one.
import WebSocket from 'ws';
import { chatOf, user } from './chat.mjs';
import { ask, base, report, until } from './lib.mjs';

const [, , , version, wire, token] = process.argv;
const headers = token ? { Authorization: `Bearer ${token}` } : {};
const ai = await import(version);
const { DefaultChatTransport, readUIMessageStream } = ai;

const transport = () => wire === 'ws'
  ? new ai.WebSocketChatTransport({ url: `${base}/ai-sdk/ws`, headers, webSocket: WebSocket })
  : new DefaultChatTransport({ api: `${base}/ai-sdk/chat`, headers });

const Chat = chatOf(ai, transport);
const seen = {};

// the bare transport
const chunks = [];
const errors = [];
const stream = await transport().sendMessages({ trigger: 'submit-message', chatId: 'bare', messages: [user('tools')] });
let last;
const [one, two] = stream.tee();
const reading = (async () => { for await (const chunk of one) chunks.push(chunk); })();
for await (const message of readUIMessageStream({ stream: two, onError: error => errors.push(String(error)) })) last = message;
await reading;
seen.bare = { chunks, errors, id: last.id, metadata: last.metadata };
seen.inactive = await transport().reconnectToStream({ chatId: 'bare' });

// a chat, and its second turn
const whole = new Chat('whole');
await whole.sendMessage({ text: 'tools' });
seen.whole = whole.summary;
await whole.sendMessage({ text: 'history' });
seen.second = whole.summary;
await whole.regenerate();
seen.again = whole.summary;

const failed = new Chat('failed');
await failed.sendMessage({ text: 'fail' });
seen.failed = failed.summary;

// stopped: over HTTP by the stop endpoint, over a WebSocket by the chat itself
const stopped = new Chat('stopped');
const stopping = stopped.sendMessage({ text: 'slow' });
await until(() => stopped.text === 'one ');
if (wire === 'ws') await stopped.stop();
else await fetch(`${base}/ai-sdk/chat/stopped/stop`, { method: 'POST', headers });
await stopping;
seen.stopped = stopped.summary;

// cut by the server, then resumed by the same chat
const cut = new Chat('cut');
const cutting = cut.sendMessage({ text: 'slow' });
await until(() => cut.text === 'one ');
ask('cut');
await cutting;
seen.broken = cut.summary;
const resuming = cut.resumeStream();
await until(() => cut.status === 'streaming');
ask('release');
await resuming;
seen.cut = cut.summary;

// a page that is loaded anew while the run goes on, and resumes twice
const old = new Chat('page');
const asking = old.sendMessage({ text: 'slow' });
await until(() => old.text === 'one ');
const fresh = new Chat('page', [user('slow')]);
const twice = [fresh.resumeStream(), fresh.resumeStream()];
await until(() => fresh.text === 'one ');
await new Promise(done => setTimeout(done, wire === 'ws' ? 1200 : 0)); // longer than the server waits to cancel
ask('release');
await Promise.all([asking, ...twice]);
seen.page = [old.summary, fresh.summary];

// another process goes on with the run, which then is resumed by a page that is loaded anew
const before = new Chat('resumed');
const resumed = before.sendMessage({ text: 'resumed' });
await until(() => before.text === 'no|one ');
const after = new Chat('resumed', [user('resumed')]);
const replayed = after.resumeStream();
await until(() => after.text === 'no|one ');
ask('release');
await Promise.all([resumed, replayed]);
seen.resumed = [before.summary, after.summary];

const nothing = new Chat('nothing');
await nothing.resumeStream();
seen.nothing = nothing.summary;

// a page that sends the chat again by itself once its tools are answered: none of the server's tools is one of them
const called = [];
const automatic = new Chat('automatic', [], {
  sendAutomaticallyWhen: ai.lastAssistantMessageIsCompleteWithToolCalls,
  onToolCall: ({ toolCall }) => { called.push(toolCall.toolName); },
});
await automatic.sendMessage({ text: 'call' });
await new Promise(done => setTimeout(done, 100));
seen.automatic = { ...automatic.summary, called };

// an approval is refused, and the question before it is not asked again
const approval = { id: 'a', approved: false, reason: 'NO, do not' };
const part = { type: 'tool-delete', toolCallId: '1', state: 'approval-responded', input: {}, approval };
const denied = new Chat('denied', [user('delete'), { id: 'm-denied', role: 'assistant', parts: [{ type: 'step-start' }, part] }]);
await denied.sendMessage();
seen.denied = denied.summary;

const image = new Chat('image');
await image.sendMessage({ text: 'tools', files: [{ type: 'file', mediaType: 'image/png', url: 'data:image/png;base64,AA==' }] });
seen.image = image.summary;

// an agent that accepts an image and what the app adds
const there = { headers, body: { webSearch: true, metadata: { ticket: '4711' } } };
const giving = wire === 'ws'
  ? new ai.WebSocketChatTransport({ url: `${base}/ai-sdk/ws?agent=given`, webSocket: WebSocket, ...there })
  : new DefaultChatTransport({ api: `${base}/ai-sdk/chat?agent=given`, ...there });
const picture = { type: 'file', mediaType: 'image/png', url: 'data:image/png;base64,AA==' };
const asked = { ...user('hi'), metadata: { quote: 7 } };
const given = await giving.sendMessages({
  trigger: 'submit-message', chatId: 'given', messages: [{ ...asked, parts: [...asked.parts, picture] }],
});
for await (const { parts } of readUIMessageStream({ stream: given })) seen.given = parts.map(({ text }) => text).join('');

const refused = new Chat('x'.repeat(200));
await refused.sendMessage({ text: 'tools' });
seen.refused = refused.summary;

await report(seen);

// The AI SDK of one version (`ai5`, `ai6`, `ai7`) and runs that ask: approvals, questions, and what a page sends by itself.
import WebSocket from 'ws';
import { chatOf, user } from './chat.mjs';
import { ask, base, report, until } from './lib.mjs';

const [, , , version, wire] = process.argv;
const ai = await import(version);
const { lastAssistantMessageIsCompleteWithApprovalResponses: decided = () => false, lastAssistantMessageIsCompleteWithToolCalls: answered } = ai;
let requests = 0;
const counted = { fetch: (...asked) => { requests += 1; return fetch(...asked); } };
const without = version !== 'ai5' ? {} : { // it knows no approvals
  body: { approval_requests: false },
  prepareReconnectToStreamRequest: ({ id }) => ({ api: `${base}/ai-sdk/chat/${id}/stream?approval_requests=false` }),
};
const transport = () => wire === 'ws'
  ? new ai.WebSocketChatTransport({ url: `${base}/ai-sdk/ws`, webSocket: WebSocket })
  : new ai.DefaultChatTransport({ api: `${base}/ai-sdk/chat`, ...counted, ...without });
const Chat = chatOf(ai, transport, { sendAutomaticallyWhen: seen => decided(seen) || answered(seen) });

const open = chat => chat.answer?.parts.filter(({ state, toolName }) => state === 'approval-requested' || (toolName === 'ask_user' && state === 'input-available')) ?? [];
const settled = async (chat, text) => {
  await until(() => chat.status === 'error' || (chat.status === 'ready' && chat.text === text));
  await new Promise(done => setTimeout(done, 50)); // in which a page that is wrong sends the chat again
};
/** Decide about the open approval, as the version can. */
const decide = (chat, approved, reason) => {
  const [part] = open(chat);
  if (part.approval) return chat.addToolApprovalResponse({ id: part.approval.id, approved, reason });
  const output = approved ? { decision: 'approve' } : { decision: 'reject', reason };
  return chat.addToolOutput({ tool: 'ask_user', toolCallId: part.toolCallId, output });
};
const choose = (chat, output) => chat.addToolOutput({ tool: 'ask_user', toolCallId: open(chat)[0].toolCallId, output });
const seen = {};

const approved = new Chat('approved');
await approved.sendMessage({ text: 'approve' });
seen.waiting = { ...approved.summary, open: open(approved) };
await decide(approved, true);
await settled(approved, 'a is gone');
seen.approved = approved.summary;

const rejected = new Chat('rejected');
await rejected.sendMessage({ text: 'approve' });
await decide(rejected, false, 'keep it');
await settled(rejected, 'rejected: keep it');
seen.rejected = rejected.summary;

const chosen = new Chat('chosen');
await chosen.sendMessage({ text: 'choose' });
seen.question = open(chosen)[0];
await choose(chosen, 'dev');
await settled(chosen, 'dev');
seen.chosen = chosen.summary;
await chosen.sendMessage({ text: 'history' });
seen.second = chosen.summary;

const both = new Chat('both');
await both.sendMessage({ text: 'both' });
await decide(both, true);
await until(() => both.status === 'error' || open(both)[0]?.toolName === 'ask_user');
await until(() => both.status !== 'streaming');
await choose(both, 'main');
await settled(both, 'a is gone|; main');
seen.both = both.summary;

// an answer that does not fit is refused, and another one is taken
const wrong = new Chat('wrong');
await wrong.sendMessage({ text: 'choose' });
await choose(wrong, 'neither');
await until(() => wrong.status === 'error');
seen.wrong = wrong.error.message;
wrong.messages = wrong.messages.map(message => ({ ...message, parts: message.parts.map(part => part.toolName === 'ask_user' ? { ...part, state: 'input-available', output: undefined } : part) }));
await choose(wrong, 'main');
await settled(wrong, 'main');
seen.mended = wrong.summary;

// a page that is loaded anew while the run waits, and a device that has answered in the meantime
const old = new Chat('page');
await old.sendMessage({ text: 'approve' });
const fresh = new Chat('page', [user('approve')]);
await fresh.resumeStream();
seen.fresh = { ...fresh.summary, open: open(fresh) };
const runId = old.answer.id;
await fetch(`${base}/runs/${runId}/inputs/ask-${runId}-1`, {
  method: 'POST', headers: { 'content-type': 'application/json' },
  body: JSON.stringify({ answer: { decision: 'approve', parameters: { path: 'b' } } }),
});
await decide(fresh, false, 'too late');
await settled(fresh, 'b is gone');
await decide(old, true);
await settled(old, 'b is gone');
seen.page = [old.summary, fresh.summary];

// a message instead of an answer
const instead = new Chat('instead');
await instead.sendMessage({ text: 'approve' });
await instead.sendMessage({ text: 'history' });
seen.instead = instead.summary;

seen.requests = requests;

// the turn after the answer is cut off, and resumed by the same chat: from the first event, in the same message
const cut = new Chat('cut');
await cut.sendMessage({ text: 'ask and wait' });
await choose(cut, 'main');
await until(() => cut.text === 'main ');
ask('cut');
await until(() => cut.status === 'error');
const resuming = cut.resumeStream();
await until(() => cut.status === 'streaming' && cut.text === 'main ');
ask('release');
await resuming;
seen.cut = cut.summary;
await report(seen);

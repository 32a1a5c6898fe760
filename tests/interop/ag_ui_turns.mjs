// AG-UI's HttpAgent of one version and runs that ask: interrupts, and the runs that answer them.
import { base, complaints, report } from './lib.mjs';

const [, , , version, query] = process.argv;
const { HttpAgent } = await import(version);
const user = content => ({ id: `m-${content}`, role: 'user', content });
const agentOf = (threadId, content) => new HttpAgent({ url: `${base}/ag-ui${query}`, threadId, initialMessages: [user(content)] });

/** One run of an agent: the types of its events, how it ended, and the agent's messages then. */
async function run(agent, runId, options = {}) {
  const types = [];
  const errors = [];
  let last;
  await agent.runAgent({ runId, ...options }, {
    onEvent: ({ event }) => { last = event; types.push(event.type); },
    onRunFailed: ({ error }) => { errors.push(error.message); },
  }).catch(error => errors.push(error.message));
  return { types, errors, last, pending: structuredClone(agent.pendingInterrupts), messages: structuredClone(agent.messages) };
}
const resolved = (agent, payload) => [{ interruptId: agent.pendingInterrupts[0].id, status: 'resolved', payload }];
const cancelled = agent => agent.pendingInterrupts.map(({ id }) => ({ interruptId: id, status: 'cancelled' }));
const seen = {};

const approved = agentOf('approved', 'approve');
seen.waiting = await run(approved, 'r1');
if (approved.pendingInterrupts) {
  seen.approved = await run(approved, 'r2', { resume: resolved(approved, { approved: true, editedArgs: { path: 'b' } }) });
  approved.addMessage(user('history'));
  seen.next = await run(approved, 'r3');

  const rejected = agentOf('rejected', 'approve');
  await run(rejected, 'r1');
  seen.rejected = await run(rejected, 'r2', { resume: resolved(rejected, { approved: false, reason: 'keep it' }) });

  const both = agentOf('both', 'both');
  await run(both, 'r1');
  seen.first = await run(both, 'r2', { resume: resolved(both, { approved: true }) });
  seen.both = await run(both, 'r3', { resume: resolved(both, 'main') });

  const wrong = agentOf('wrong', 'choose');
  await run(wrong, 'r1');
  seen.wrong = await run(wrong, 'r2', { resume: resolved(wrong, 'neither') });
  seen.mended = await run(wrong, 'r3', { resume: resolved(wrong, 'main') });
  seen.complaints = complaints.splice(0); // of the refusal: what it is for

  // a page that is loaded anew, and one that answers what another has answered
  const old = agentOf('page', 'approve');
  await run(old, 'r1');
  const fresh = agentOf('page', 'approve');
  seen.fresh = await run(fresh, 'r1');
  await run(fresh, 'r2', { resume: resolved(fresh, { approved: false, reason: 'keep it' }) });
  seen.late = await run(old, 'r3', { resume: resolved(old, { approved: true }) });

  const given = agentOf('given', 'approve');
  await run(given, 'r1');
  seen.given = await run(given, 'r2', { resume: cancelled(given) });

  const instead = agentOf('instead', 'approve');
  await run(instead, 'r1');
  instead.addMessage(user('history'));
  seen.instead = await run(instead, 'r2', { resume: cancelled(instead) });
}
await report(seen);

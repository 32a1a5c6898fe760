import { createClient } from 'twinwire-client';

interface Mine {
  LIFT_OFF: { asked: string };
}

const client = createClient<Mine>({ url: location.hash.slice(1) });
const run = client.stream('go', { agent: 'countdown' });
for await (const event of run) {
  if (event.type === 'LLM_CHUNK') document.body.append(event.data.content);
  if (event.type === 'LIFT_OFF') document.body.append(event.data.asked);
}
document.body.append(` ${run.status}`);

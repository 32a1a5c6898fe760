/** Reads a run as a user's program does, slowly or with a pause, and prints what came of it: options in, outcome out. */

import { WebSocket } from 'ws';

import { createClient } from '../src/index.js';

const { url, transport, policy, pace, pauseAt, pause, timeout, heartbeat } = JSON.parse(process.argv[2] ?? '');
/** @param {number} seconds */
const sleep = (seconds) => new Promise((resolve) => setTimeout(resolve, 1000 * seconds));

const client = createClient({ url, transport, WebSocket, timeout: 1000 * timeout, heartbeat: 1000 * heartbeat });
const run = client.stream('go', policy ? { onDisconnect: policy } : {});
let count = 0;
let retries = 0;
run.on('retry', () => (retries += 1));
for await (const event of run) {
  count += 1;
  if (Number(event.id.split('-')[2]) !== count) throw new Error(`${event.id} came where ${count} was due`);
  if (count === pauseAt) {
    console.log('begun');
    await sleep(pause);
  }
  if (pace) await sleep(pace);
}
console.log(JSON.stringify({ count, retries, status: run.status }));
client.close();

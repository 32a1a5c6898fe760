// What the programs share: how they talk to the test that runs them, and waiting.
import { setTimeout as sleep } from 'node:timers/promises';

export const base = process.argv[2];

/** Console warnings and unhandled rejections so far: clients complain there. */
export const complaints = [];
for (const level of ['warn', 'error']) console[level] = (...args) => complaints.push(args.map(String).join(' '));
process.on('unhandledRejection', error => complaints.push(`unhandled: ${error}`));

/** Ask the test for something: `release` the run that waits, or `cut` all connections. */
export const ask = what => process.stdout.write(`${JSON.stringify({ ask: what })}\n`);

/** Give the test what was seen, and end. */
export async function report(seen) {
  await new Promise(done => process.stdout.write(`${JSON.stringify({ seen, complaints })}\n`, done));
  process.exit(0);
}

/** Wait until something holds; the test bounds it. */
export async function until(holds) {
  while (!holds()) await sleep(2);
}

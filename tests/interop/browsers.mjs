// A browser's own EventSource, in Chromium (CDP) or Firefox (WebDriver BiDi), and libraries that are made for pages.
import { readFile } from 'node:fs/promises';
import { text } from 'node:stream/consumers';
import { fileURLToPath } from 'node:url';
import puppeteer from 'puppeteer-core';
import { base, report } from './lib.mjs';

const [, , , browser, PROGRAM] = process.argv;
const executablePath = fileURLToPath(new URL('mortal.sh', import.meta.url));
const code = async name => readFile(new URL(`node_modules/${name}`, import.meta.url), 'utf8');
const POLYFILL = await code('event-source-polyfill/src/eventsource.js');
const SSE = `${await code('sse.js/lib/sse.js')}; window.SSE = SSE;`;

/** In the page: follow the run at this URL to its end. */
function follow(name, url) {
  const open = {
    native: () => new EventSource(url),
    'event-source-polyfill': () => new EventSourcePolyfill(url),
    'sse.js': () => new SSE(url, { autoReconnect: true, reconnectDelay: 20 }),
  };
  return new Promise(done => {
    const seen = [];
    const source = open[name]();
    for (const type of ['AGENT_START', 'LLM_CHUNK', 'AGENT_FINISH', 'ERROR']) source.addEventListener(type, event => {
      seen.push([event.lastEventId ?? event.id, event.type, event.data]);
      if (type !== 'AGENT_FINISH' && type !== 'ERROR') return;
      source.close();
      done(seen);
    });
  });
}

const args = browser === 'chrome' ? ['--no-sandbox', '--disable-gpu', '--disable-quic'] : [];
const program = await puppeteer.launch({ browser, executablePath, args, headless: true, env: { ...process.env, PROGRAM } });
try {
  const seen = await Promise.all(Object.entries(JSON.parse(await text(process.stdin))).map(async ([name, url]) => {
    const page = await program.newPage();
    await page.goto(`${base}/healthz`);
    await page.addScriptTag({ content: POLYFILL });
    await page.addScriptTag({ content: SSE, type: 'module' });
    return [name, await page.evaluate(follow, name, url)];
  }));
  await program.close();
  await report(Object.fromEntries(seen));
} finally {
  await program.close();
}

// EventSource libraries of npm: each follows the run at its own URL, and reconnects as it does, or with the cursor it has.
import { fetchEventSource } from '@microsoft/fetch-event-source';
import polyfill from 'event-source-polyfill';
import { EventSource } from 'eventsource';
import { createEventSource } from 'eventsource-client';
import { EventSourceParserStream } from 'eventsource-parser/stream';
import { EventSource as Extended } from 'extended-eventsource';
import { events as eventsOf } from 'fetch-event-stream';
import launchDarkly from 'launchdarkly-eventsource';
import ReconnectingEventSource from 'reconnecting-eventsource';
import { text } from 'node:stream/consumers';
import { setTimeout as sleep } from 'node:timers/promises';
import { EventSource as Undici } from 'undici';
import { report } from './lib.mjs';

const TYPES = ['AGENT_START', 'LLM_CHUNK', 'AGENT_FINISH', 'ERROR'];
const terminal = type => type === 'AGENT_FINISH' || type === 'ERROR';
const RETRY = 20;

/** A library that is used as the browser's EventSource is. */
const native = open => url => new Promise(done => {
  const seen = [];
  const source = open(url);
  source.onerror = () => {};
  for (const name of TYPES) source.addEventListener(name, ({ type, data, lastEventId }) => {
    if (data === undefined) return; // an error of the connection, in a library that has but one listener for both
    seen.push([lastEventId, type, data]);
    if (terminal(type)) {
      source.close();
      done(seen);
    }
  });
});

/** A parser: the loop around it is ours, as its users write it. */
const parsed = read => async url => {
  const seen = [];
  while (!seen.length || !terminal(seen.at(-1)[1])) {
    try {
      const headers = seen.length ? { 'last-event-id': seen.at(-1)[0] } : {};
      for await (const { id, event, data } of read(await fetch(url, { headers }))) if (data) seen.push([id, event, data]);
    } catch {
      await sleep(RETRY);
    }
  }
  return seen;
};

globalThis.window = globalThis; // @microsoft/fetch-event-source expects a page
globalThis.document = { hidden: false, readyState: 'complete', body: {}, addEventListener() {}, removeEventListener() {} };

const LIBRARIES = {
  '@microsoft/fetch-event-source': async url => {
    const seen = [];
    await fetchEventSource(url, {
      openWhenHidden: true,
      onmessage: ({ id, event, data }) => { if (data) seen.push([id, event, data]); },
      onclose: () => { if (!terminal(seen.at(-1)?.[1])) throw new Error('cut'); },
      onerror: () => RETRY,
    });
    return seen;
  },
  'event-source-polyfill': native(url => new polyfill.EventSourcePolyfill(url)),
  eventsource: native(url => new EventSource(url)),
  'eventsource-client': async url => {
    const seen = [];
    const source = createEventSource({ url });
    for await (const { id, event, data } of source) {
      if (data) seen.push([id, event, data]);
      if (terminal(event)) break;
    }
    source.close();
    return seen;
  },
  'eventsource-parser': parsed(response => response.body.pipeThrough(new TextDecoderStream()).pipeThrough(new EventSourceParserStream())),
  'extended-eventsource': native(url => new Extended(url, { retry: RETRY })),
  'fetch-event-stream': parsed(response => eventsOf(response)),
  'launchdarkly-eventsource': native(url => new launchDarkly.EventSource(url, { initialRetryDelayMillis: RETRY, errorFilter: () => true })),
  'reconnecting-eventsource': native(url => new ReconnectingEventSource(url, { eventSourceClass: EventSource, max_retry_time: 100 })),
  undici: native(url => new Undici(url)),
};

const urls = Object.entries(JSON.parse(await text(process.stdin)));
const seen = await Promise.all(urls.map(async ([name, url]) => [name, await LIBRARIES[name](url)]));
await report(Object.fromEntries(seen));

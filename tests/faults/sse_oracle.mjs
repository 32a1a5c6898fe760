// What eventsource-parser makes of a body: {"body": base64, "cuts": [offsets]} on stdin, its events as JSON on stdout.
import {readFileSync} from 'node:fs';
import {createParser} from 'eventsource-parser';

const {body, cuts} = JSON.parse(readFileSync(0, 'utf8'));
const bytes = Buffer.from(body, 'base64');
const events = [], retries = [], errors = [];
const parser = createParser({
  onEvent: ({event, id, data}) => events.push([event, id, data]),
  onRetry: time => retries.push(time),
  onError: error => errors.push(String(error)),
});
const decoder = new TextDecoder();
[0, ...cuts].forEach((start, i) => parser.feed(decoder.decode(bytes.subarray(start, cuts[i]), {stream: true})));
process.stdout.write(JSON.stringify({events, retries, errors}));

/**
 * The event stream format of Server-Sent Events, fed piece by piece: WHATWG HTML, section 9.2.6. Pure.
 *
 * It takes decoded text: a `TextDecoder` with `stream: true` puts characters together and drops the byte order mark.
 */

/** @typedef {{event: string, data: string, id: string}} SseMessage  `event` is `message` if the stream names none */

export class SseParser {
  /** The last event id so far, also of a block without data. */
  lastEventId = '';
  /** The reconnection time that the stream asked for, in ms. @type {number | null} */
  retry = null;

  /** The line that is not whole, in the pieces it came in: it may be long. @type {string[]} */ #rest = [];
  #afterCr = false;
  #event = '';
  #data = '';
  #id = '';

  /**
   * The messages that this text completes.
   * @param {string} text
   * @returns {SseMessage[]}
   */
  feed(text) {
    /** @type {SseMessage[]} */
    const messages = [];
    if (this.#afterCr && text !== '') {
      if (text[0] === '\n') text = text.slice(1); // a CRLF that came in two pieces ended its line at the CR
      this.#afterCr = false;
    }
    let start = 0;
    for (const { 0: end, index } of text.matchAll(/\r\n?|\n/g)) {
      this.#line(this.#rest.join('') + text.slice(start, index), messages);
      this.#rest = [];
      start = index + end.length;
      this.#afterCr = end === '\r' && start === text.length;
    }
    if (start < text.length) this.#rest.push(text.slice(start));
    return messages;
  }

  /** @param {string} line @param {SseMessage[]} messages */
  #line(line, messages) {
    if (line === '') {
      this.#dispatch(messages);
      return;
    }
    const colon = line.indexOf(':');
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? '' : line.slice(line[colon + 1] === ' ' ? colon + 2 : colon + 1);
    if (field === 'event') this.#event = value;
    else if (field === 'data') this.#data += `${value}\n`;
    else if (field === 'id' && !value.includes('\0')) this.#id = value;
    else if (field === 'retry' && /^[0-9]+$/.test(value)) this.retry = Number(value);
  }

  /** @param {SseMessage[]} messages */
  #dispatch(messages) {
    this.lastEventId = this.#id;
    if (this.#data !== '') {
      messages.push({ event: this.#event || 'message', data: this.#data.slice(0, -1), id: this.#id });
    }
    this.#event = this.#data = '';
  }
}

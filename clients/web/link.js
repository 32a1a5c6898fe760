/**
 * The network below the client: counts what comes, and can be cut as a bad network would.
 *
 * It gives the client its `fetch` and its `WebSocket`. What is done about a cut is the client's own business.
 */

const SLICE = 8192;

/** Resolves when the browser had a chance to do something else; unlike with `setTimeout` in a hidden tab, too. */
function nextTask() {
  return new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = resolve;
    port2.postMessage(null);
  });
}

export class Link {
  /** Of event streams and sockets, uncompressed and without framing. */
  bytes = 0;
  /** What the last stream came over. @type {'SSE' | 'WebSocket' | null} */
  kind = null;

  /** @type {Set<() => void>} */ #cuts = new Set();

  /** @type {typeof fetch} */
  fetch = async (input, init) => {
    const response = await fetch(input, init);
    if (!response.body || !response.headers.get('content-type')?.startsWith('text/event-stream')) return response;
    this.kind = 'SSE';
    return new Response(this.#watched(response.body, init?.signal), response);
  };

  /** A WebSocket class whose instances are this link's. */
  get WebSocket() {
    const link = this;
    return class extends WebSocket {
      /** @param {string | URL} url */
      constructor(url) {
        super(url);
        // What a lost connection looks like, at once: a closing handshake would let more messages through.
        const cut = () => this.onclose?.(new CloseEvent('close', { code: 1006 }));
        this.addEventListener('open', () => {
          link.kind = 'WebSocket';
          link.#cuts.add(cut);
        });
        this.addEventListener('message', ({ data }) => {
          link.bytes += data.length; // one byte a character, but for the few that are not ASCII
        });
        this.addEventListener('close', () => link.#cuts.delete(cut));
      }
    };
  }

  /** Drops all connections. */
  cut() {
    for (const cut of [...this.#cuts]) cut();
  }

  /** @param {ReadableStream<Uint8Array<ArrayBuffer>>} body @param {AbortSignal | null | undefined} signal */
  #watched(body, signal) {
    /** @type {() => void} */
    let cut = () => {};
    signal?.addEventListener('abort', () => this.#cuts.delete(cut));
    return body.pipeThrough(
      new TransformStream({
        start: (controller) => {
          cut = () => {
            this.#cuts.delete(cut);
            controller.error(new TypeError('The connection was cut.'));
          };
          this.#cuts.add(cut);
        },
        transform: async (chunk, controller) => {
          this.bytes += chunk.byteLength;
          // All events of a chunk are handled in one task: what waited for a busy page could be thousands.
          for (let start = 0; start < chunk.byteLength; start += SLICE) {
            if (start > 0) await nextTask();
            controller.enqueue(chunk.subarray(start, start + SLICE));
          }
        },
        flush: () => void this.#cuts.delete(cut),
      }),
    );
  }
}

/** A TCP proxy that does to connections what networks do: cuts, stalls, splits, holds back. */

import net from 'node:net';

const LAST_CHUNK = '\r\n0\r\n\r\n'; // RFC 9112, section 7.1

/**
 * What to do with a request: reset its connection after so many bytes of the answer, let none of it through, hand it on
 * byte by byte, keep all of it until it ends, or reset the connection at once.
 * @typedef {{cutAfter?: number, mute?: boolean, split?: boolean, hold?: boolean, refuse?: boolean}} Fault
 */

/**
 * A proxy before `url`; `fault` gives what befalls the request that begins with this line, the `count`th of them.
 * @param {string} url
 * @param {(line: string, count: number) => Fault | void} fault
 */
export async function proxy(url, fault) {
  /** @type {Set<net.Socket>} */
  const clients = new Set();
  /** The first lines of all requests. @type {string[]} */
  const lines = [];
  // Without delay: a reset would throw away what Nagle's algorithm still holds back, and a client get nothing at all.
  const server = net.createServer({ noDelay: true }, (client) => {
    const upstream = net.connect(Number(new URL(url).port), '127.0.0.1');
    /** @type {Fault} */
    let now = {};
    let passed = 0;
    /** @type {Buffer[]} */
    const held = [];
    clients.add(client);
    client.on('error', () => {});
    client.on('close', () => {
      clients.delete(client);
      upstream.destroy();
    });
    client.on('data', (data) => {
      const [line] = /^(GET|POST) \S+/.exec(data.toString('latin1')) ?? [];
      if (line) {
        lines.push(line);
        now = fault(line, lines.length) ?? {};
        passed = 0;
      }
      if (now.refuse) client.resetAndDestroy();
      else upstream.write(data);
    });
    upstream.on('data', (chunk) => {
      const { cutAfter = Infinity, mute, split, hold } = now;
      const piece = chunk.subarray(0, cutAfter - passed);
      passed += chunk.length;
      if (mute) return;
      if (hold) {
        held.push(piece);
        const all = Buffer.concat(held); // which may have come in any pieces
        if (all.toString('latin1').endsWith(LAST_CHUNK)) {
          held.length = 0;
          client.write(all);
        }
      } else if (split) {
        for (const byte of piece) client.write(Buffer.of(byte));
      } else {
        client.write(piece);
      }
      if (passed >= cutAfter) client.resetAndDestroy();
    });
    upstream.on('close', () => client.end());
    upstream.on('error', () => client.destroy());
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', () => resolve(undefined)));
  const { port } = /** @type {net.AddressInfo} */ (server.address());
  const cut = () => clients.forEach((client) => client.resetAndDestroy());
  return {
    url: `http://127.0.0.1:${port}`,
    lines,
    cut,
    close: () => {
      cut();
      server.close();
    },
  };
}

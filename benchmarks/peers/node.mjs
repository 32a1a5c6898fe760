// Node's own http, and the package ws: the events of a load without bursts, each at its time, to one client each.
import { createServer } from "node:http";
import { createRequire } from "node:module";

const { WebSocketServer } = createRequire(new URL("../../clients/js/", import.meta.url))("ws");
const RUN = "a".repeat(26);
const now = () => process.hrtime.bigint(); // CLOCK_MONOTONIC

function event(type, data, number) {
  return { type, data, timestamp: new Date().toISOString(), metadata: {}, id: `evt-${RUN}-${number}` };
}

/** Give `load.count` events, each `1 / load.rate` seconds after the one before, then the end. */
function run(load, give, end) {
  const start = now() + BigInt(Math.round(load.delay * 1e9));
  const text = "x".repeat(Math.round(load.size));
  let number = 0;
  const next = () => {
    for (;;) {
      if (number === load.count) {
        give(event("AGENT_FINISH", { result: "", status: "completed" }, number + 1));
        end();
        return;
      }
      const due = start + BigInt(Math.round((number * 1e9) / load.rate));
      const wait = Number(due - now()) / 1e6;
      if (wait > 0) {
        timer = setTimeout(next, wait);
        return;
      }
      number += 1;
      const content = `@${due} ${text}`;
      give(event("LLM_CHUNK", { content, delta: content }, number));
    }
  };
  let timer = setTimeout(next, load.delay * 1000);
  return () => clearTimeout(timer);
}

const server = createServer((request, response) => {
  const query = new URL(request.url, "http://localhost").searchParams;
  response.writeHead(200, { "content-type": "text/event-stream" });
  const give = (one) =>
    response.write(`event: ${one.type}\ndata: ${JSON.stringify(one.data)}\nid: ${one.id}\n\n`);
  response.on("close", run(JSON.parse(query.get("message")), give, () => response.end()));
});
new WebSocketServer({ server, path: "/ws", perMessageDeflate: false }).on("connection", (socket) => {
  socket.once("message", (data) => {
    const load = JSON.parse(JSON.parse(data).message);
    socket.on("close", run(load, (one) => socket.send(JSON.stringify(one)), () => socket.close()));
  });
});
server.listen(0, "127.0.0.1", () => console.log(server.address().port));

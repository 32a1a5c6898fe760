/** A run over a WebSocket of its own: started or attached when it opens, and closed with it. */

/** @import { Link, Listener, Target } from './connection.js' */

const PING_MS = 15_000;
const TRY_AGAIN = new Set(['too_many_runs', 'draining', 'log_unavailable']);
/** The client's own mistakes (RFC 6455, section 7.4.1): the same again would end the same. */
const FATAL_CODES = new Set([1002, 1003, 1007, 1009]);

/** @param {Target} target @param {Listener} listener @returns {Link} */
export function openWebSocket(target, listener) {
  const url = new URL('/ws', target.base);
  url.protocol = url.protocol.replace('http', 'ws');
  const socket = new WebSocket(url);
  let heard = true;
  // A page does not see the server's ping frames, so it cannot tell a silent run from a dead connection without its own.
  const pinging = setInterval(() => {
    if (!heard) {
      close();
      listener.lost(false);
    } else if (send({ type: 'ping' })) {
      heard = false;
    }
  }, PING_MS);

  /** @param {object} command */
  function send(command) {
    if (socket.readyState !== WebSocket.OPEN) return false;
    socket.send(JSON.stringify(command));
    return true;
  }

  function close() {
    clearInterval(pinging);
    socket.onopen = socket.onmessage = socket.onclose = null;
    socket.close();
  }

  /** @param {Record<string, any>} reply */
  function take(reply) {
    if (reply.type === 'started') {
      listener.started(reply.run_id);
      listener.opened();
    } else if (reply.type === 'attached') {
      listener.opened();
    } else if (reply.type === 'gap') {
      const message = `the cursor cannot be served: the log holds events ${reply.first} to ${reply.last}`;
      listener.refused({ code: 'gap', message });
    } else if (reply.type === 'error') {
      if (TRY_AGAIN.has(reply.code)) {
        close();
        listener.lost(false);
      } else {
        listener.refused({ code: reply.code, message: reply.message });
      }
    }
  }

  socket.onopen = () => {
    const { id, cursor, message, sessionId, idempotencyKey } = target;
    send(
      id === null
        ? {
            type: 'start',
            request_id: 'r1',
            message,
            session_id: sessionId,
            idempotency_key: idempotencyKey,
            interrupt: true,
          }
        : { type: 'attach', run_id: id, after: cursor },
    );
  };
  socket.onmessage = ({ data }) => {
    heard = true;
    const message = JSON.parse(data);
    if (/^[A-Z]/.test(message.type)) listener.event(message);
    else take(message);
  };
  socket.onclose = ({ code, reason }) => {
    close();
    if (FATAL_CODES.has(code) || (code >= 4500 && code < 5000)) {
      listener.refused({ code: `closed_${code}`, message: reason || `the server closed the connection (${code})` });
    } else {
      listener.lost(false);
    }
  };
  return {
    close,
    cancel: () => send(target.id === null ? { type: 'cancel', request_id: 'r1' } : { type: 'cancel', run_id: target.id }),
  };
}

"""How model servers refuse, and the key that no error may show."""

from __future__ import annotations

from support.model_server import (
    DONE,
    Script,
    cut,
    delta,
    headers,
    reset,
    sse,
    status,
    text,
)

KEY = "sk-canary-7f3a"

REFUSED: dict[str, tuple[Script, str]] = {
    "429": ([status(429, body={"error": {"message": "secret"}})], "upstream_rate_limited"),
    "401": ([status(401, body={"error": {"message": f"bad key {KEY}"}})], "upstream_auth"),
    "403": ([status(403)], "upstream_auth"),
    "400": ([status(400, body={"error": {"message": "secret"}})], "upstream_rejected"),
    "404": ([status(404)], "upstream_rejected"),
    "302": ([status(302)], "upstream_rejected"),
    "context, by code": (
        [status(400, body={"error": {"code": "context_length_exceeded", "message": "secret"}})],
        "upstream_context_length",
    ),
    "context, by text": (
        [status(400, body={"error": {"message": "This model's maximum context length is 9 tokens, secret"}})],
        "upstream_context_length",
    ),
    "500": ([status(500, body={"error": {"message": "secret"}})], "upstream_error"),
    "503": ([status(503)], "upstream_error"),
    "an error in mid-answer": ([text("a"), sse({"error": {"message": "secret", "code": 500}})], "upstream_error"),
    "EOF without finish_reason": ([text("a")], "upstream_truncated"),
    "EOF at once": ([headers], "upstream_truncated"),
    "[DONE] without an answer": ([DONE], "upstream_truncated"),
    "a cut chunked body": ([text("a"), cut], "upstream_truncated"),
    "a cut event": ([delta({"content": "a"})[:-9], cut], "upstream_truncated"),
    "RST": ([text("a"), reset], "upstream_truncated"),
    "closed before the headers": ([cut], "upstream_unreachable"),
    "garbage": ([text("a"), b"data: secret\n\n"], "upstream_garbage"),
    "JSON of the wrong shape": ([text("a"), b'data: {"choices": "secret"}\n\n'], "upstream_garbage"),
    "a line without end": ([b"data: ", [b"x" * 2**20] * 33], "upstream_garbage"),
}

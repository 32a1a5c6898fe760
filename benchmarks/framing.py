"""What of the bytes on the wire is framing: of SSE the chunks of HTTP, of a WebSocket the frames' heads. Pure."""

from __future__ import annotations


def chunks(data: bytes) -> tuple[int, bytes]:
    """How many bytes the framing of the whole chunks is (RFC 9112, section 7.1), and what is in them."""
    framing, body, at = 0, [], 0
    while (end := data.find(b"\r\n", at)) >= 0:
        size = int(data[at:end], 16)
        if end + 2 + size + 2 > len(data) or not size:
            break
        body.append(data[end + 2 : end + 2 + size])
        framing += end - at + 4
        at = end + 2 + size + 2
    return framing, b"".join(body)


def messages(data: bytes) -> tuple[int, bytes]:
    """How many bytes the heads of a server's whole frames are (RFC 6455, section 5.2), and what is in them."""
    framing, body, at = 0, [], 0
    while at + 2 <= len(data):
        size, head = data[at + 1] & 0x7F, 2
        if size >= 126:
            head = 4 if size == 126 else 10
            size = int.from_bytes(data[at + 2 : at + head], "big")
        if at + head + size > len(data):
            break
        body.append(data[at + head : at + head + size])
        framing += head
        at += head + size
    return framing, b"\n".join(body)


def per_token(transport: str, data: bytes) -> float | None:
    """Bytes of framing for each token; None where there is none."""
    framing, body = (chunks if transport == "sse" else messages)(data)
    tokens = body.count(b'"content":')
    return framing / tokens if tokens else None

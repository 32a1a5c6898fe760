"""Servers that authenticate, and who they know."""

from __future__ import annotations

import base64
import re
from typing import Any

import httpx

from support.serving import Running

TOKENS = {"alice": "alice-token-0123456789", "bob": "bob-token-0123456789"}
AUTH: dict[str, Any] = {"auth_tokens": tuple(f"{user}:{token}" for user, token in TOKENS.items())}


def bearer(user: str | None) -> dict[str, str]:
    """The header that says who asks; none for nobody."""
    return {} if user is None else {"authorization": f"Bearer {TOKENS[user]}"}


def protocol(token: str) -> str:
    """The subprotocol in which a browser can send a token."""
    return "twinwire.auth." + base64.urlsafe_b64encode(token.encode()).decode().rstrip("=")


def asking(server: Running, user: str | None = None, **headers: str) -> httpx.AsyncClient:
    """A client of this user's, with a cookie jar of its own."""
    return httpx.AsyncClient(
        base_url=server.url, headers={**bearer(user), **headers}, trust_env=False, verify=False, timeout=20
    )


async def ticket(server: Running, user: str = "alice", **body: str) -> str:
    """A fresh ticket."""
    async with asking(server, user) as client:
        response = await client.post("/tickets", json=body or None)
        assert (response.status_code, response.headers["cache-control"]) == (201, "no-store")
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", response.json()["expires_at"])
        return str(response.json()["ticket"])

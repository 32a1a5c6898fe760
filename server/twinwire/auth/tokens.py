"""Bearer tokens from a list: `user:token` in the environment or, one a line, in a file."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable

from twinwire.auth.files import read
from twinwire.protocol.errors import SettingsError
from twinwire.settings import Settings
from twinwire.telemetry.logging import hide

# RFC 6750, section 2.1, at least 16 characters of it; the user is what `user_id` may be.
_ENTRY = re.compile(r"([^\s:][^\r\n:]{0,127}):([A-Za-z0-9._~+/-]{16,1024}=*)", re.ASCII)


class Tokens:
    """Users by token. Digests are compared, and all of them, so that time tells nothing."""

    def __init__(self, entries: Iterable[tuple[str, str]]) -> None:
        self._users = [(_digest(token), user) for user, token in entries]

    def verify(self, token: str) -> tuple[str, float | None] | None:
        """Return the token's user, and None: it never expires."""
        asked, found = _digest(token), None
        for digest, user in self._users:
            if hmac.compare_digest(asked, digest):
                found = user
        return None if found is None else (found, None)

    @classmethod
    def of(cls, settings: Settings) -> Tokens | None:
        """Return the tokens in the settings, if there are any. Raise `SettingsError`, which shows none of them."""
        users: dict[str, str] = {}  # by token
        _add(users, settings.auth_tokens, "TWINWIRE_AUTH_TOKENS", "entry")
        if settings.auth_tokens_file is not None:
            lines = read(settings.auth_tokens_file, "--auth-tokens-file").decode("utf-8", "replace").splitlines()
            listed = [line.strip() for line in lines]
            _add(users, listed, "--auth-tokens-file", "line")
            if not users:
                raise SettingsError(
                    "`--auth-tokens-file` must have at least one line of the form user:token.",
                    field="--auth-tokens-file",
                )
        hide(*users)
        return cls((user, token) for token, user in users.items()) if users else None


def _add(users: dict[str, str], texts: Iterable[str], field: str, place: str) -> None:
    """Add the user of each token. Raise `SettingsError` for a text that is no entry, and for a token of two users."""
    for number, text in enumerate(texts, 1):
        if not text or text.startswith("#"):
            continue
        match = _ENTRY.fullmatch(text)
        if match is None:
            raise SettingsError(
                f"`{field}` must have user:token as {place} {number}. "
                "The token must have 16 or more letters, digits or ._~+/-.",
                field=field,
            )
        if users.setdefault(match[2], match[1]) != match[1]:
            raise SettingsError(
                f"`{field}` must have another token for each user; {place} {number} repeats one.", field=field
            )


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()

"""Identities, the credentials that prove them, and what each may do.

`tokens` are the bearer tokens of a list, `jwt` those that somebody else signs, `grants` what this server signs itself:
tickets for URLs, and logins for cookies. `scopes` says how much of an identity each route and command needs. Where a
credential is found in a request is the business of `web`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from msgspec import Struct, structs

from twinwire.auth.grants import Grant, Signer
from twinwire.auth.scopes import Scope
from twinwire.auth.tokens import Tokens
from twinwire.protocol.errors import BadRequest, Forbidden, Unauthenticated
from twinwire.settings import Settings

if TYPE_CHECKING:
    from twinwire.auth.jwt import Jwt

__all__ = ["ANYBODY", "Auth", "Identity", "Scope", "rfc3339"]

MAX_TOKEN = 8192
NOBODY = ""
"""The name that no user has."""


def rfc3339(seconds: float | None) -> str | None:
    """Return a Unix time in the form that events have."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


class Identity(Struct, frozen=True):
    """An identity. `user_id` is None for anybody, if authentication is off: then a request names its user itself.

    `expires_at` is the Unix time after which its streams end, `run_id` the only run that it is for, `log_outs` how many
    log-outs this process had heard of when it was proved. An `admin` sees, cancels and deletes the runs of everybody.
    """

    user_id: str | None = None
    expires_at: float | None = None
    run_id: str | None = None
    log_outs: int = 0
    admin: bool = False

    @property
    def apart(self) -> Identity:
        """Return the same user without what an admin may."""
        return structs.replace(self, admin=False) if self.admin else self

    def named(self, claimed: str | None) -> str | None:
        """Return the user of a run whose start names this one. Raise `BadRequest` if that is somebody else."""
        if self.user_id is None:
            return claimed
        if claimed not in {None, self.user_id}:
            raise BadRequest("`user_id` must be the authenticated user, or left out.", field="user_id")
        return self.user_id

    def check(self, scope: Scope) -> None:
        """Raise `Forbidden` if this identity, a ticket for one run, does not cover the scope."""
        if self.run_id is not None and scope is Scope.WHOLE:
            raise Forbidden("This ticket only allows a client to follow one run.")

    def owner(self, run_id: str) -> str | None:
        """Return whose run this has to be for them to see it: None if anybody's will do, `NOBODY` if none will."""
        if self.run_id not in {None, run_id}:
            return NOBODY
        return None if self.admin else self.user_id

    def sees(self, run_id: str, user_id: str | None) -> bool:
        """Return whether this run, of this user, is there for them."""
        return self.owner(run_id) in {None, user_id}


ANYBODY = Identity()


class Auth:
    """The credentials that this server accepts; `on` if it asks for any, also for those of an application around it.

    `ticket_life` and `login_life` are in seconds; `clock` tells Unix time, of which all workers should have the same.
    Log-outs are remembered by this process for as long as any grant lives, `memory` seconds; who tells it of those on
    other workers is not its business. `admins` are users.
    """

    def __init__(
        self,
        verifiers: Sequence[Tokens | Jwt],
        signer: Signer,
        *,
        ticket_life: float,
        login_life: float,
        admins: Collection[str] = (),
        embedded: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.on = bool(verifiers) or embedded
        self.takes_tokens = bool(verifiers)
        self.admins = frozenset(admins)
        self._verifiers = verifiers
        self._signer = signer
        self._lives = {"ticket": ticket_life, "login": login_life}
        self.memory = max(self._lives.values())
        self.clock = clock
        self._logged_out: dict[str, tuple[float, int]] = {}  # when, and which log-out of those heard of it was
        self.log_outs = 0  # that this process has heard of

    def bearer(self, token: str) -> Identity:
        """Return the identity of a bearer token. Raise `Unauthenticated`."""
        for verifier in self._verifiers if len(token) <= MAX_TOKEN else ():
            if (known := verifier.verify(token)) is not None:
                return Identity(*known, log_outs=self.log_outs, admin=known[0] in self.admins)
        raise Unauthenticated

    def granted(self, kind: str, text: str) -> Identity:
        """Return the identity of a `ticket` or a `login`. Raise `Unauthenticated`, also after a log-out."""
        grant = self._signer.read(kind, text) if len(text) <= MAX_TOKEN else None
        if grant is None or grant.until <= self.clock() or grant.issued <= self._last_log_out(grant.user_id)[0]:
            raise Unauthenticated
        admin = grant.user_id in self.admins
        return Identity(grant.user_id, grant.expires_at, grant.run_id, self.log_outs, admin)

    def logged_out(self, by: Identity) -> bool:
        """Return whether this user has logged out since they were identified, by order and not by clocks."""
        return by.user_id is not None and self._last_log_out(by.user_id)[1] > by.log_outs

    def _last_log_out(self, user_id: str) -> tuple[float, int]:
        return self._logged_out.get(user_id, (0.0, 0))

    def grant(self, kind: str, by: Identity, run_id: str | None = None) -> tuple[str, float]:
        """Return a ticket or a login for a user, and until when it can be used.

        What a ticket opens stays open for as long as the credential that it was given for is good; a login ends the
        streams it opened when it expires itself.
        """
        if by.user_id is None:
            raise BadRequest("Authentication is off on this server: no ticket or login is required.")
        now = self.clock()
        until = min(now + self._lives[kind], by.expires_at or float("inf"))
        expires_at = until if kind == "login" else by.expires_at
        return self._signer.sign(kind, Grant(by.user_id, now, until, expires_at, run_id)), until

    def log_out(self, user_id: str, when: float) -> bool:
        """Revoke the tickets and logins that this user was given until then. Return whether that is news."""
        oldest = self.clock() - self.memory
        if when <= max(oldest, self._last_log_out(user_id)[0]):
            return False
        self.log_outs += 1
        self._logged_out.pop(user_id, None)
        self._logged_out[user_id] = (when, self.log_outs)  # as the last one
        while self._logged_out[first := next(iter(self._logged_out))][0] <= oldest:
            del self._logged_out[first]
        return True

    @classmethod
    def of(cls, settings: Settings, *, embedded: bool = False) -> Auth:
        """Return the authentication that the settings ask for; `embedded` if an application around authenticates, too.

        Raise `SettingsError` for an unusable file or key.
        """
        verifiers: list[Tokens | Jwt] = []
        if tokens := Tokens.of(settings):
            verifiers.append(tokens)
        if settings.jwt_key_file is not None or settings.jwt_jwks_file is not None:
            from twinwire.auth.jwt import Jwt

            verifiers.append(Jwt.of(settings))
        return cls(
            verifiers,
            Signer(settings.secret),
            ticket_life=settings.ticket_life,
            login_life=settings.login_life,
            admins=settings.admin,
            embedded=embedded,
        )

"""The things that an agent reads beside a text: its attribute `accepts`, or that of its `AgentSpec`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from twinwire.agents.spec import AgentSpec
from twinwire.protocol.errors import BadRequest
from twinwire.protocol.parts import KINDS, Part
from twinwire.protocol.wire import converted

SETTINGS = "params"
_PARTS = set(KINDS.values())


class Accepts(Struct, frozen=True):
    """The things that the `agent` of this name reads beside a text.

    Of the `words`, `image` and `file` are parts of a message, and `params` any setting of a run; each other word is the
    name of one setting. `types` has the types of settings that have one, as msgspec takes them. What an agent does not
    accept is refused, never dropped.
    """

    agent: str
    words: frozenset[str] = frozenset()
    types: Mapping[str, Any] = {}

    def setting(self, name: str) -> bool:
        """Return whether the agent reads the setting of this name."""
        return SETTINGS in self.words or (name in self.words and name not in _PARTS)

    def check(self, params: Mapping[str, Any], parts: Sequence[Part]) -> None:
        """Raise `BadRequest` for a setting or a part that the agent does not read, and for a value of another type."""
        for name, value in params.items():
            if not self.setting(name):
                raise self.refusal(f"params.{name}", "setting")
            converted(value, self.types.get(name, Any), within=f"params.{name}")
        for part in parts:
            if (kind := KINDS.get(part["type"])) is not None:
                self.check_part(kind, "parts")

    def check_part(self, kind: str, path: str) -> None:
        """Raise `BadRequest` if the agent does not read parts of this kind, `image` or `file`."""
        if kind not in self.words:
            raise self.refusal(path, kind)

    def refusal(self, path: str, kind: str) -> BadRequest:
        """Return the error for something of this kind, at this path, that the agent does not accept."""
        path = path[:128]
        known = ", ".join(sorted(self.words)[:16]) or "nothing"
        message = f"The agent `{self.agent}` does not accept the {kind} in `{path}`. Beside a text it accepts {known}."
        return BadRequest(message, field=path)


def accepted(name: str, spec: AgentSpec) -> Accepts:
    """Return what an agent accepts. Raise `TypeError` if its `accepts` has other than texts, or what is no type."""
    words: Any = getattr(spec.agent, "accepts", ()) if spec.accepts is None else spec.accepts
    if isinstance(words, str) or not (isinstance(words, Collection) and all(isinstance(word, str) for word in words)):
        raise TypeError(f'`accepts` of the agent {name} must be a collection of texts, such as {{"image", "params"}}.')
    types = {**words} if isinstance(words, Mapping) else {}
    for word, type_ in types.items():
        try:
            msgspec.convert(None, type_)
        except msgspec.ValidationError:
            pass  # it has no null
        except TypeError:
            raise TypeError(f"`accepts[{word!r}]` of the agent {name} must be a type that msgspec knows.") from None
    return Accepts(name, frozenset(words), types)

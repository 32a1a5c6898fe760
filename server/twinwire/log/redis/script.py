"""A script in Lua, with names for its keys and arguments."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from typing import Any

_DECLARED = re.compile(r"-- (KEYS|ARGV): ([a-z_: ]+)")
_OWN = """
local replaced = 0
for i, right in ipairs({%s}) do
  local found = KEYS[i] and redis.call('TYPE', KEYS[i]).ok or 'none'
  if found ~= 'none' and found ~= right then
    redis.call('DEL', KEYS[i])
    replaced = replaced + 1
  end
end
"""


class Script:
    """A script, called by its digest. It declares the names of its keys and arguments, which are local variables in it.

    If a key is declared with its type, it is deleted if another program has given it another type: else whoever needs
    it would be refused for ever. `replaced` is the number of those.
    """

    def __init__(self, source: str) -> None:
        declared = {kind: names.split() for kind, names in _DECLARED.findall(source)}
        keys = [name.partition(":") for name in declared["KEYS"]]
        self._arguments = declared.get("ARGV", [])
        lines = [f"local {', '.join(name for name, _, _ in keys)} = unpack(KEYS, 1, {len(keys)})"]
        if self._arguments:
            lines.append(f"local {', '.join(self._arguments)} = unpack(ARGV, 1, {len(self._arguments)})")
        if keys[0][2]:
            lines.append(_OWN % ", ".join(f"'{kind}'" for _, _, kind in keys))
        self.source = "\n".join([*lines, source])
        self._digest = hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()

    def __call__(self, *keys: str | bytes, rest: Iterable[Any] = (), **arguments: Any) -> tuple[Any, ...]:
        """Return the command that runs it on these keys with all its `arguments`, and then the `rest`."""
        values = [arguments.pop(name) for name in self._arguments]
        if arguments:
            raise TypeError(f"The script has no argument {', '.join(arguments)}.")
        return ("EVALSHA", self._digest, len(keys), *keys, *values, *rest)

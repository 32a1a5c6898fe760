"""Names that are meant to be known ones: within an edit, a case, a hyphen or an underscore of one."""

from __future__ import annotations

from collections.abc import Iterable


def plain(name: str) -> str:
    """Return a name in lower case, without hyphens and underscores."""
    return name.lower().replace("_", "").replace("-", "")


def meant(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that this one is meant to be, if it looks like one."""
    written = plain(name)
    return next((right for right in sorted(known) if _close(written, plain(right))), None)


def _close(one: str, other: str) -> bool:
    """Return whether at most one character was added, left out, replaced, or two neighbours exchanged."""
    if abs(len(one) - len(other)) > 1:
        return False
    start = 0
    while start < min(len(one), len(other)) and one[start] == other[start]:
        start += 1
    one, other = one[start:], other[start:]
    while one and other and one[-1] == other[-1]:
        one, other = one[:-1], other[:-1]
    return max(len(one), len(other)) <= 1 or (len(one) == 2 and one == other[::-1])

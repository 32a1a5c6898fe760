"""Small files with secrets or keys in them, which settings name."""

from __future__ import annotations

from pathlib import Path

from twinwire.protocol.errors import SettingsError

MAX_BYTES = 2**20


def read(path: str, field: str) -> bytes:
    """Return the content of a file, a megabyte at most. Raise `SettingsError`, which names the flag alone."""
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not a path"
        raise SettingsError(f"`{field}` must name a readable file: {reason}.", field=field) from None
    if len(data) > MAX_BYTES:
        raise SettingsError(f"`{field}` must name a file of at most {MAX_BYTES} bytes.", field=field)
    return data

"""Print REDbot's notes on the URL in the argument, without those that are good or only tell: name, level, summary.

Run in the environment of this folder.
"""

from __future__ import annotations

import json
import sys
from configparser import ConfigParser

import thor
from redbot.resource import HttpResource


def notes(url: str) -> list[tuple[str, str, str]]:
    """Check one URL, with the requests that REDbot makes besides."""
    config = ConfigParser()
    config.read_dict({"redbot": {"enable_local_access": "True"}})
    resource = HttpResource(config["redbot"], descend=False)
    resource.set_request(url)
    resource.on("check_done", thor.stop)
    resource.check()
    thor.run()
    found = [note for part in (resource.response, resource) for note in getattr(part, "notes", [])]
    told = {(type(note).__name__, note.level.value, str(note.summary)) for note in found}
    return sorted(note for note in told if note[1] in {"bad", "warning"})


if __name__ == "__main__":
    json.dump(notes(sys.argv[1]), sys.stdout)

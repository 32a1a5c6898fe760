"""The Python versions that pyproject.toml claims, and where this machine has them and uv. Needs no other package.

`python3 tests/interpreters.py` prints the versions, one a line; `python3 tests/interpreters.py 3.12` prints the path.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

UV = os.environ.get("UV") or shutil.which("uv") or str(Path(__file__).parents[2] / ".uv/bin/uv")
"""`uv run` sets the variable."""
CLASSIFIER = re.compile(r'"Programming Language :: Python :: (3\.\d+)"')


def claimed() -> list[str]:
    """Return the versions of the classifiers, oldest first."""
    return CLASSIFIER.findall((Path(__file__).parents[2] / "pyproject.toml").read_text())


def find(version: str) -> str | None:
    """Return the path of an interpreter of this version: pyenv's, uv's, or the system's. None if there is none."""
    places = [
        *sorted(Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser().glob(f"versions/{version}.*/bin/python")),
        *sorted(Path("~/.local/share/uv/python").expanduser().glob(f"cpython-{version}.*/bin/python")),
        *(Path(folder, f"python{version}") for folder in ("/usr/local/bin", "/usr/bin")),
    ]
    return next((str(place) for place in places if shutil.which(place)), None)


if __name__ == "__main__":
    if len(sys.argv) == 1:
        print(*claimed(), sep="\n")
    elif path := find(sys.argv[1]):
        print(path)
    else:
        sys.exit(f"Python {sys.argv[1]} is claimed by pyproject.toml and is not on this machine.")

"""The command line as users type it: what it refuses, in one line, and what it says of itself."""

from __future__ import annotations

import argparse
import re
import shutil
import signal
import socket
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

from support.processes import Process
from twinwire.cli import main
from twinwire.protocol.errors import SettingsError
from twinwire.settings import GROUPS, SECRETS, Settings, flag


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a user's modules, good and bad."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "interrupted.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    (folder / "bad_port.py").write_text("from twinwire import create_app\napp = create_app()\n")
    return folder


@pytest.fixture(scope="module")
def taken() -> Iterator[int]:
    """A port that somebody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


BAD: dict[str, tuple[list[str], str]] = {
    "no command": ([], "COMMAND"),
    "unknown command": (["sreve"], "'sreve'"),
    "unknown flag": (["serve", "--prot", "8000"], "--prot"),
    "shortened flag": (["serve", "--por", "8000"], "--por"),
    "flag without a value": (["serve", "--port"], "--port: expected one argument"),
    "no flag for the key": (["serve", "--api-key", "k"], "--api-key"),
    "two apps": (["serve", "a:b", "c:d"], "c:d"),
    "bad port": (
        ["serve", "--port", "http"],
        "`--port` must be a whole number, at least 0 and at most 65535, not 'http'.",
    ),
    "port out of range": (["serve", "--port", "65536"], "`--port` must be"),
    "port that is no UTF-8": (["serve", "--port", "\udcff"], "`--port` must be UTF-8."),
    "empty host": (["serve", "--host", ""], "`--host` must be "),
    "unknown host": (
        ["serve", "--host", "no-such-host.invalid"],
        "`--host` must be an address of this machine, not 'no-such-host.invalid'.",
    ),
    "long host": (["serve", "--host", "a" * 64], "`--host` must be "),
    "host of dots": (["serve", "--host", "a..b"], "`--host` must be "),
    "host that is no UTF-8": (["serve", "--host", "\udcff"], "`--host` must be "),
    "foreign address": (
        ["serve", "--host", "192.0.2.1", "--port", "0"],
        "`--host` is not usable: cannot listen on 192.0.2.1:0: ",
    ),
    "bad base URL": (["serve", "--base-url", "localhost:1"], "`--base-url` must be a URL"),
    "bad origin": (
        ["serve", "--cors-origin", "*", "--cors-origin", "x"],
        "`--cors-origin` must be *, null or scheme://host[:port], not 'x'.",
    ),
    "bad folder": (["serve", "--project-root", "nowhere"], "`--project-root` must be a folder, not 'nowhere'."),
    "unknown log": (["serve", "--port", "0", "--log", "redid://u:secret@h"], "`--log` must be memory://"),
    "server but no model": (
        ["serve", "--port", "0", "--base-url", "http://127.0.0.1:1/v1"],
        "`--model` or `TWINWIRE_MODEL` must name a model.",
    ),
    "a model's option without a model": (
        ["serve", "--port", "0", "--model-option", "temperature=0"],
        "`--model-option` requires a model's server, `--base-url` or a key. The demo model has no options.",
    ),
    "a model's option with a file": (
        ["serve", "--port", "0", "--local", "no.gguf", "--model-option", "temperature=0"],
        "`--model-option` requires a model's server, `--base-url` or a key. The local model has no options.",
    ),
    **{
        f"the model's option {option}": (
            ["serve", "--port", "0", "--base-url", "http://127.0.0.1:1/v1", "--model", "m", "--model-option", option],
            text,
        )
        for option, text in {
            "temperature=hot": "`--model-option temperature` must be a number of at least 0, not 'hot'.",
            "messages=[]": "`--model-option messages` must not be given. The agent's conversation is sent.",
            "extra_body={}": "`--model-option extra_body` must not be given. Give each of its fields as an option.",
            "temperature": "`--model-option` must be KEY=VALUE, such as temperature=0.",
            'headers={"a": "secret\\u0000"}': "`--model-option headers` must have printable ASCII in a.",
        }.items()
    },
}


def refused(process: Process, text: str) -> None:
    """The command ends with 2 and one line, which is for people."""
    code, out, err = process.end()
    assert code == 2, err
    assert out == ""
    assert err.startswith("twinwire: ")
    assert err.count("\n") == 1, err
    assert err.endswith("\n")
    assert text in err
    assert "secret" not in err


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_is_one_line(case: str, folder: Path) -> None:
    """Bad input ends the command with 2 and one line on standard error that names what is wrong; no traceback."""
    arguments, text = BAD[case]
    with Process(*arguments, cwd=folder) as process:
        refused(process, text)


@pytest.mark.parametrize(
    ("environ", "text"),
    [
        ({"TWINWIRE_PORT": "http"}, "`TWINWIRE_PORT` must be a whole number"),
        ({"PORT": "http"}, "`PORT` must be a whole number"),
        ({"TWINWIRE_HOST": "no-such-host.invalid"}, "not 'no-such-host.invalid'."),
        ({"TWINWIRE_RUN_TIMEOUT": "soon"}, "`TWINWIRE_RUN_TIMEOUT` must be a duration such as 90s"),
        ({"TWINWIRE_CORS_ORIGIN": "http://a, b"}, "`TWINWIRE_CORS_ORIGIN` must be *, null or"),
        ({"OPENAI_API_KEY": "sk-secret", "TWINWIRE_PORT": "0"}, "`--model` or `TWINWIRE_MODEL` must name a model."),
        ({"TWINWIRE_API_KEY": "sk-secret\u00e9", "TWINWIRE_MODEL": "m", "TWINWIRE_PORT": "0"}, "`TWINWIRE_API_KEY`"),
    ],
    ids=str,
)  # fmt: skip
def test_a_bad_variable_is_one_line(environ: dict[str, str], text: str, folder: Path) -> None:
    """So do bad variables; a key is never shown."""
    with Process("serve", cwd=folder, environ=environ) as process:
        refused(process, text)


def test_a_port_in_use(taken: int, folder: Path) -> None:
    """Somebody else's port is one clear line, from a flag and from a variable."""
    with (
        Process("serve", "--port", str(taken), cwd=folder) as first,
        Process("serve", cwd=folder, environ={"TWINWIRE_PORT": str(taken)}) as second,
    ):
        for process in (first, second):
            refused(process, f"`--port` is not usable: cannot listen on 127.0.0.1:{taken}: Address already in use.")


@pytest.mark.skipif(
    shutil.which("setpriv") is None or int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()) <= 80,
    reason="everybody may use port 80 here, or there is no telling",
)
def test_a_privileged_port(folder: Path) -> None:
    """A port that only root may use is one clear line for everybody else."""
    prefix = ("setpriv", "--inh-caps=-net_bind_service", "--bounding-set=-net_bind_service", "--no-new-privs")
    with Process("serve", "--port", "80", cwd=folder, prefix=prefix) as process:
        refused(process, "`--port` is not usable: cannot listen on 127.0.0.1:80: Permission denied.")


def test_an_app_with_bad_settings(folder: Path) -> None:
    """An app that the user's module makes from a bad environment is one line all the same."""
    with Process("serve", "--port", "0", "bad_port:app", cwd=folder, environ={"TWINWIRE_LOG": "x://"}) as process:
        refused(process, "`--log` must be memory://")


def test_interrupted_while_it_starts(folder: Path) -> None:
    """Ctrl-C before the server is up ends it without a traceback."""
    with Process("serve", "--port", "0", "interrupted:app", cwd=folder) as process:
        code, out, err = process.end()
    assert (out, err) == ("", "")
    assert code == -signal.SIGINT


def test_help(folder: Path) -> None:
    """`--help` tells the commands; that of `serve` each flag with what it means and its default."""
    with Process("--help", cwd=folder) as top, Process("serve", "--help", cwd=folder) as serve:
        assert (found := top.end())[0] == 0
        assert "serve" in found[1]
        code, out, err = serve.end()
    assert (code, err) == (0, "")
    for name in Settings.__struct_fields__:
        assert bool(re.search(rf"{flag(name)}\s", out)) == (name not in SECRETS)
    words = " ".join(out.split())
    assert "port to listen on; 0 picks a free one; default 8000" in words
    assert "+-50 %; default 1000" in words
    assert "--run-timeout DURATION a run's deadline; default 10m " in words
    assert "None" not in out
    titles = [line.removesuffix(":") for line in out.splitlines() if re.fullmatch(r"[a-z ]+:", line)]
    assert titles[2:] == [*GROUPS.values()]
    for name in SECRETS:
        assert f"TWINWIRE_{name.upper()}" in words


def test_version(folder: Path) -> None:
    """`twinwire --version` prints the version that the package has, and nothing else."""
    with Process("--version", cwd=folder) as process:
        assert process.end() == (0, f"twinwire {version('twinwire')}\n", "")


def test_each_group_of_help_begins_at_a_setting() -> None:
    """The titles stand at settings in the order of these, the first of which begins the first group."""
    assert [*GROUPS] == [name for name in Settings.__struct_fields__ if name in GROUPS]
    assert next(iter(GROUPS)) == Settings.__struct_fields__[0]


@pytest.mark.parametrize("command", ["chat", "runs"])
def test_without_the_client(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that talks to a server says in one line what to install if the Python client is missing."""
    monkeypatch.setitem(sys.modules, "twinwire_client", None)
    with pytest.raises(SettingsError, match=rf"^`twinwire {command}` requires .*: pip install 'twinwire\[chat\]'\.$"):
        getattr(main, f"_{command}")(argparse.Namespace())

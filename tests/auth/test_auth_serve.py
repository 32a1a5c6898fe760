"""`twinwire serve` and `twinwire chat` with authentication, as processes; and that no secret is ever shown."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from support.credentials import TOKENS, protocol
from support.processes import Process
from support.redis_server import fresh
from twinwire.auth import Auth
from twinwire.protocol.errors import SettingsError, Unauthenticated
from twinwire.settings import Settings, load

CANARY = "canary-canary-canary-canary-canary"
PARROT = """
from twinwire import Settings, StreamEvent, create_app

async def parrot(request):
    if request.message == "fail":
        raise ValueError(request.user_id)
    yield StreamEvent("LLM_CHUNK", {"content": request.user_id, "delta": request.user_id})

app = create_app(agents={"parrot": parrot})
own = create_app(agents={"parrot": parrot}, settings=Settings())
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(PARROT)
    return tmp_path


@pytest.mark.parametrize("target", [(), ("mine:parrot",), ("mine:app",)], ids=str)
@pytest.mark.parametrize("host", ["0.0.0.0", "::"])  # noqa: S104 - that is what is refused
def test_nobody_is_exposed_by_mistake(folder: Path, target: tuple[str, ...], host: str) -> None:
    """To listen beyond loopback without authentication is refused in one line, unless one says so."""
    with Process("serve", *target, "--port", "0", "--host", host, cwd=folder) as process:
        code, out, err = process.end()
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert err.startswith(f"twinwire: `--host` {host} is reachable by others without authentication.")
        assert "--insecure" in err


def test_flags_that_would_be_in_vain(folder: Path) -> None:
    """An app with settings of its own does not serve everybody while a flag says otherwise."""
    (folder / "tokens").write_text(f"alice:{TOKENS['alice']}\n")
    with Process("serve", "mine:own", "--port", "0", "--auth-tokens-file", "tokens", cwd=folder) as process:
        code, out, err = process.end()
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert "has settings of its own" in err


@pytest.mark.parametrize(
    ("flags", "environ"),
    [
        (("--insecure",), {}),
        ((), {"TWINWIRE_AUTH_TOKENS": f"alice:{TOKENS['alice']}"}),
        (("--auth-tokens-file", "tokens"), {}),
        (("--jwt-key-file", "key"), {}),
    ],
    ids=str,
)
@pytest.mark.parametrize("target", [(), ("mine:app",)], ids=str)
def test_beyond_loopback(
    folder: Path, target: tuple[str, ...], flags: tuple[str, ...], environ: dict[str, str]
) -> None:
    """With any way to authenticate, or on purpose, it serves everywhere, also an app; then any host will do."""
    (folder / "tokens").write_text(f"# who may\n\nalice:{TOKENS['alice']}\nbob:{TOKENS['bob']}\n")
    (folder / "key").write_text(CANARY)
    everywhere = "0.0.0.0"  # noqa: S104 - behind authentication
    with Process("serve", *target, "--port", "0", "--host", everywhere, *flags, cwd=folder, environ=environ) as process:
        process.ready()
        url = f"http://127.0.0.1:{process.port}/metrics"
        assert httpx.get(url, trust_env=False).status_code == (200 if "--insecure" in flags else 401)
        if "tokens" in flags or environ:
            headers = {"authorization": f"Bearer {TOKENS['alice']}"}
            assert httpx.get(url, headers=headers, trust_env=False).status_code == 200


@pytest.mark.full
def test_workers_share_a_secret(folder: Path) -> None:
    """A ticket of one worker is good for all of them, also where no secret is set."""
    environ = {"TWINWIRE_AUTH_TOKENS": f"alice:{TOKENS['alice']}", "TWINWIRE_LOG": fresh()}
    with Process("serve", "--port", "0", "--workers", "2", cwd=folder, environ=environ) as process:
        process.ready()
        headers = {"authorization": f"Bearer {TOKENS['alice']}"}
        ticket = httpx.post(f"{process.url}/tickets", headers=headers, trust_env=False).json()["ticket"]
        workers = set()
        for _ in range(40):
            response = httpx.get(f"{process.url}/metrics?ticket={ticket}", trust_env=False)
            assert response.status_code == 200
            workers |= {line for line in response.text.splitlines() if line.startswith("process_start_time_seconds")}
            if len(workers) == 2:
                break
        process.popen.terminate()


@pytest.mark.parametrize("transport", ["sse", "ws"])
@pytest.mark.full
def test_chat_with_a_token(folder: Path, transport: str) -> None:
    """`twinwire chat` takes its token from a file or a variable, never from the command line; without it says why."""
    (folder / "token").write_text(TOKENS["alice"] + "\n")
    environ = {"TWINWIRE_AUTH_TOKENS": f"alice:{TOKENS['alice']}"}
    with Process("serve", "mine:parrot", "--port", "0", cwd=folder, environ=environ) as server:
        server.ready()
        common = ("chat", "hi", "--url", server.url, "--transport", transport)
        for flags, variables in ((("--token-file", "token"), {}), ((), {"TWINWIRE_TOKEN": TOKENS["alice"]})):
            with Process(*common, *flags, cwd=folder, environ=variables) as chat:
                assert chat.end() == (0, "🚀 parrot start\nalice\n🎉 done\n", "")
        with Process(*common, cwd=folder, environ={"TWINWIRE_TOKEN": "wrong"}) as chat:
            code, out, err = chat.end()
            assert (code, out, err.count("\n")) == (1, "", 1)
            assert "A valid credential is required." in err
    with Process("chat", "hi", "--token-file", "nope", cwd=folder) as chat:
        assert chat.end() == (2, "", "twinwire: The token of `--token-file` must be one line of ASCII.\n")
    with Process("chat", "hi", cwd=folder, environ={"TWINWIRE_TOKEN": "é"}) as chat:
        assert chat.end() == (
            2,
            "",
            "twinwire: The token of `TWINWIRE_TOKEN` must be one line of ASCII.\n",
        )


BAD_ENTRIES = ["alice", "alice:", f":{CANARY}", "alice:short", f"alice:{CANARY} x", f"alice:{CANARY}é", f"a:b:{CANARY}"]


@pytest.mark.parametrize("entry", BAD_ENTRIES)
def test_a_bad_token_is_one_line_without_it(entry: str, tmp_path: Path) -> None:
    """It says which entry or line is wrong, and shows nothing of it."""
    good = f"bob:{TOKENS['bob']}"
    (tmp_path / "tokens").write_text(f"{good}\n{entry}\n")
    for settings, message in (
        (Settings(auth_tokens=(good, entry)), "`TWINWIRE_AUTH_TOKENS` must have user:token as entry 2."),
        (Settings(auth_tokens_file=str(tmp_path / "tokens")), "`--auth-tokens-file` must have user:token as line 2."),
    ):
        with pytest.raises(SettingsError) as caught:
            Auth.of(settings)
        assert str(caught.value).startswith(message)
        assert CANARY not in str(caught.value)


def test_an_empty_list_locks_everybody_out_or_is_told(tmp_path: Path) -> None:
    """A file without a token is no way to switch authentication off."""
    (tmp_path / "tokens").write_text("# nobody\n")
    with pytest.raises(
        SettingsError, match=r"^`--auth-tokens-file` must have at least one line of the form user:token"
    ):
        Auth.of(Settings(auth_tokens_file=str(tmp_path / "tokens")))


def test_one_user_may_have_two_tokens() -> None:
    """So that one can be replaced without an outage; names need not be ASCII."""
    with pytest.raises(
        SettingsError, match="`TWINWIRE_AUTH_TOKENS` must have another token for each user; entry 3 repeats one"
    ) as caught:
        Auth.of(Settings(auth_tokens=(f"zoë:{CANARY}1", f"zoë:{CANARY}1", f"yves:{CANARY}1")))
    assert CANARY not in str(caught.value)
    auth = Auth.of(Settings(auth_tokens=(f"zoë:{CANARY}1", f"zoë:{CANARY}2")))
    assert {auth.bearer(f"{CANARY}{n}").user_id for n in (1, 2)} == {"zoë"}
    with pytest.raises(Unauthenticated):
        auth.bearer(CANARY)


def test_settings_show_no_secret() -> None:
    """Neither their repr, nor an error about them or about others."""
    secrets: dict[str, Any] = {"auth_tokens": (f"alice:{CANARY}",), "secret": CANARY, "api_key": CANARY}
    assert CANARY not in repr(Settings(**secrets))
    assert "auth_tokens='***'" in repr(Settings(**secrets))
    environ = {"TWINWIRE_AUTH_TOKENS": f"alice:{CANARY}", "TWINWIRE_SECRET": CANARY[:31], "TWINWIRE_PORT": "0"}
    with pytest.raises(SettingsError) as caught:
        load(environ, {})
    assert str(caught.value) == "`TWINWIRE_SECRET` must have 32 characters or more."


async def test_a_canary_is_seen_nowhere(folder: Path) -> None:
    """Tokens, tickets, cookies and keys are in nothing that the server prints, in no body, event or close reason."""
    (folder / "tokens").write_text(f"alice:{CANARY}-token\n")
    (folder / "key").write_text(f"{CANARY}-key")
    environ = {
        "TWINWIRE_SECRET": f"{CANARY}-secret",
        "TWINWIRE_API_KEY": f"{CANARY}-api",
        "TWINWIRE_AUTH_TOKENS_FILE": "tokens",
        "TWINWIRE_JWT_KEY_FILE": "key",
    }
    seen: list[str] = []
    with (
        Process("serve", "mine:app", "--port", "0", cwd=folder, environ=environ) as process,
        Process("serve", "--help", cwd=folder, environ=environ) as helped,
    ):
        seen.append(process.ready())
        seen += helped.end()[1:]
        bearer = {"authorization": f"Bearer {CANARY}-token"}
        jwt_like = base64.urlsafe_b64encode(CANARY.encode()).decode()
        async with httpx.AsyncClient(base_url=process.url, trust_env=False, verify=False, timeout=20) as client:
            login = await client.post("/login", headers=bearer)
            cookie = login.cookies["twinwire_login"]
            ticket = (await client.post("/tickets", headers=bearer)).json()["ticket"]
            seen.append(login.text)
            for query in (f"ticket={ticket}", f"ticket={ticket}x", f"ticket={CANARY}", f"token={CANARY}"):
                for path in ("/chat?message=hi", "/chat?message=fail", "/chat?message=hi&stream=false", "/runs/x?a=b"):
                    response = await client.get(f"{path}&{query}")
                    seen += [response.text, str(response.headers)]
            for token in (CANARY, f"{CANARY}-token", f"{jwt_like}.{jwt_like}.{jwt_like}", f"{ticket}"):
                response = await client.post("/runs", headers={"authorization": f"Bearer {token}"}, content=b"{")
                seen += [response.text, str(response.headers)]
            seen.append((await client.get("/metrics", headers=bearer)).text)
        for options in (
            {"additional_headers": {"Authorization": f"Bearer {CANARY}"}},
            {"subprotocols": ["twinwire.v1", protocol(CANARY)]},
            {"subprotocols": ["twinwire.v1", protocol(f"{CANARY}-token")]},
        ):
            async with connect(process.ws_url, proxy=None, **options) as socket:
                try:
                    for command in (
                        {"type": "auth", "token": CANARY},
                        {"type": "auth", "token": CANARY, "x": 1},
                    ):
                        await socket.send(json.dumps(command))
                        seen.append(str(await socket.recv()))
                except ConnectionClosed as closed:
                    seen.append(str(closed))
        process.popen.terminate()
        seen += [str(part) for part in process.end()]
    for text in seen:
        for secret in (CANARY, cookie, ticket, protocol(CANARY).removeprefix("twinwire.auth."), jwt_like):
            assert secret not in text

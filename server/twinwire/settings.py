"""The settings of a server: one Struct, filled from defaults, the environment and flags, in that order.

Every field is a flag (`--run-timeout`) and a variable (`TWINWIRE_RUN_TIMEOUT`); a bad value is one clear line.
In both a duration may be `90`, `90s`, `5m`, `1h` or `2d`, and a size `65536`, `512KiB`, `10MB` or `64MiB`.
"""

from __future__ import annotations

import functools
import json
import os
import re
from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from typing import Annotated, Any, get_args, get_type_hints
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta, Struct

from twinwire.protocol.errors import SettingsError
from twinwire.protocol.webhooks import webhook_key

DURATION = Meta(extra={"kind": "a duration such as 90s, 5m or 1h", "units": {"s": 1, "m": 60, "h": 3600, "d": 86_400}})
SIZE = Meta(
    extra={
        "kind": "a size such as 512KiB, 10MB or 64MiB",
        "units": {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30},
    }
)
Seconds = Annotated[float, Meta(gt=0, le=86_400 * 365), DURATION]
Count = Annotated[int, Meta(ge=1, le=2**31)]
Bytes = Annotated[Count, SIZE]

MEMORY = "memory://"
_SHARED = (MEMORY, "redis://", "rediss://", "unix://", "private://")
"""The logs of several workers. `twinwire serve` puts `private://` in the place of one in memory."""

_KNOWN = {"log_format": ("text", "json"), "log_level": ("debug", "info", "warning", "error")}

_SEPARATORS = ", \t\r\n"
_raw_decode = json.JSONDecoder().raw_decode

_OTHERS = {"api_key": "OPENAI_API_KEY", "base_url": "OPENAI_BASE_URL", "model": "OPENAI_MODEL", "port": "PORT"}
"""Variables that others know, for settings whose own is not set. Platforms set PORT."""

_KINDS = {int: "a whole number", float: "a number", bool: "true or false"}
_NUMBER = re.compile(r"(\d+(?:\.\d+)?)([A-Za-z]+)", re.ASCII)

GROUPS = {
    "host": "server",
    "model": "model and tools",
    "cors_origin": "browsers and proxies",
    "auth_tokens": "authentication",
    "max_steps": "limits",
    "log": "log and conversations",
    "webhook": "webhooks",
    "heartbeat": "connections",
    "log_format": "log lines and traces",
}
"""The subjects of the settings, each at its first field."""

SECRETS = frozenset({"api_key", "auth_tokens", "secret", "webhook_secret"})
"""Settings that are variables only: a command line is there for all users of a machine to see."""
KEY_PATHS = frozenset({"ssl_keyfile", "auth_tokens_file", "jwt_key_file"})
"""Settings that say where secrets are; no log line and no repr does."""
NAMES_OF_SECRETS = (
    r"(?:[\w-]*[_-])?(?:api[_-]?key|key|token|ticket|secret|password|passwd|pwd|credential|sig|signature|auth|code)"
)
"""The names, as a regular expression, of what a URL's query may have that is a secret."""

_ORIGIN = re.compile(  # as browsers send it
    r"(?!http://[^/]*:80$|https://[^/]*:443$)[a-z][a-z0-9+.-]*://[^/?#@*\sA-Z,]+|file://|null", re.ASCII
)
_HEADER = re.compile(r"[0-9A-Za-z!#$%&'+.^_`|~-]+", re.ASCII)
_CREDENTIALS = {"authorization", "cookie", "proxy-authorization", "sec-websocket-protocol"}
"""The headers that may have a credential, which no agent reads."""
_HOST = re.compile(r"\*|[0-9A-Za-z._-]+|[0-9A-Fa-f:.]+", re.ASCII)
_PREFIX = re.compile(r"(/[\w.~!$&'()*+,;=:@%-]+)+", re.ASCII)
_MAPPED = "::ffff:"
_IPV4_MAPPED = re.compile(r"::ffff:(\d{1,3}\.){3}\d{1,3}", re.ASCII | re.IGNORECASE)
_URL = re.compile(r"https?://[^/?#\s]+\S*", re.ASCII)


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All settings. Times are seconds, sizes bytes."""

    host: Annotated[str, Meta(min_length=1, description="address to listen on")] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65_535, description="port to listen on; 0 picks a free one")] = 8000
    ssl_certfile: Annotated[
        str | None, Meta(description="serve https, with this certificate and its chain; a PEM file")
    ] = None
    ssl_keyfile: Annotated[str | None, Meta(description="the certificate's key; an unencrypted PEM file")] = None
    http2: Annotated[bool, Meta(description="offer HTTP/2, over TLS, for more streams in a browser")] = False
    workers: Annotated[
        int,
        Meta(ge=1, le=1024, description="processes that serve; they share --log redis://… or a Valkey of their own"),
    ] = 1
    model: Annotated[str | None, Meta(description="model to ask, as its server names it")] = None
    base_url: Annotated[str | None, Meta(description="an OpenAI-compatible server, such as http://host/v1")] = None
    api_key: Annotated[str | None, Meta(description="the model server's key; only as a variable")] = None
    model_option: Annotated[
        tuple[str, ...],
        Meta(description="KEY=VALUE for each request, such as temperature=0; repeatable"),
    ] = ()
    local: Annotated[str | None, Meta(description="a GGUF file to run here; it wins over --base-url")] = None
    local_context: Annotated[
        int, Meta(ge=1, le=2**24, description="tokens that one conversation with the local model may have")
    ] = 4096
    demo_rate: Annotated[float, Meta(ge=0, le=1e6, description="tokens a second of the demo model; 0: no pause")] = 40.0
    project_root: Annotated[str, Meta(description="the folder that the Read and Search tools may see")] = "."
    cors_origin: Annotated[
        tuple[str, ...], Meta(description="an origin whose pages may use this server, or *; repeatable")
    ] = ()
    cors_header: Annotated[
        tuple[str, ...], Meta(description="a request header that those pages may send as well; repeatable")
    ] = ()
    agent_header: Annotated[
        tuple[str, ...], Meta(description="a request header that agents may read (RunRequest.headers); repeatable")
    ] = ()
    allowed_host: Annotated[
        tuple[str, ...], Meta(description="a name this server goes by, or *; default: on loopback its own; repeatable")
    ] = ()
    root_path: Annotated[
        str, Meta(description="the path below which a proxy shows this server, such as /ai; default the ASGI server's")
    ] = ""
    auth_tokens: Annotated[
        tuple[str, ...], Meta(description="user:token of each who may use this server; only as a variable")
    ] = ()
    auth_tokens_file: Annotated[str | None, Meta(description="a file with a user:token in each line")] = None
    jwt_key_file: Annotated[
        str | None,
        Meta(description="the key of accepted JWTs: a PEM public key, or an HMAC secret of 32 bytes or more"),
    ] = None
    jwt_jwks_file: Annotated[str | None, Meta(description="a JWK set with the keys of accepted JWTs")] = None
    jwt_audience: Annotated[str | None, Meta(description="the aud that a JWT must have")] = None
    jwt_issuer: Annotated[str | None, Meta(description="the iss that a JWT must have")] = None
    secret: Annotated[
        str | None, Meta(description="what tickets and logins are signed with; only as a variable; default: random")
    ] = None
    admin: Annotated[
        tuple[str, ...], Meta(description="a user who may list, follow, cancel and delete everybody's runs; repeatable")
    ] = ()
    ticket_life: Annotated[Seconds, Meta(description="how long a ticket can be used to connect")] = 300.0
    login_life: Annotated[Seconds, Meta(description="how long a login's cookie is good")] = 43_200.0
    insecure: Annotated[bool, Meta(description="listen beyond loopback although nobody is authenticated")] = False
    max_steps: Annotated[Count, Meta(description="steps an agent may take (RunRequest.limits)")] = 8
    run_timeout: Annotated[Seconds, Meta(description="a run's deadline")] = 600.0
    model_timeout: Annotated[Seconds, Meta(description="how long a model may be silent (RunRequest.limits)")] = 120.0
    tool_timeout: Annotated[Seconds, Meta(description="how long a tool may take (RunRequest.limits)")] = 30.0
    input_timeout: Annotated[Seconds, Meta(description="how long a question of a run can be answered")] = 3600.0
    max_wait: Annotated[
        Seconds, Meta(description="how long a run may wait for its user in all; then its deadline goes on")
    ] = 604_800.0
    max_runs: Annotated[Count, Meta(description="runs at once, of everybody, in each worker")] = 1000
    user_runs: Annotated[Count, Meta(description="runs at once of one named user, on all workers")] = 20
    user_waiting: Annotated[
        Count, Meta(description="runs of one named user that wait for the user at once, which are not in user_runs")
    ] = 20
    user_starts: Annotated[Count, Meta(description="runs that one named user may start in a minute")] = 120
    max_connections: Annotated[Count, Meta(description="streams and sockets open at once, in each worker")] = 10_000
    user_connections: Annotated[Count, Meta(description="of these, how many may be of one named user")] = 100
    socket_rate: Annotated[
        Count, Meta(description="messages a second that a socket may send; ten times as many in one go")
    ] = 100
    run_events: Annotated[Count, Meta(description="events that one run may have")] = 1_000_000
    run_bytes: Annotated[Bytes, Meta(description="bytes of events that one run may have")] = 2**26
    live_bytes: Annotated[
        Bytes, Meta(description="bytes of events of all runs that go on, in each worker; a run over it ends")
    ] = 2**28
    checkpoint_bytes: Annotated[
        Bytes, Meta(description="bytes of a run's checkpoint; no other process goes on with a run that needs more")
    ] = 2**23
    run_tokens: Annotated[Count, Meta(description="tokens that one run may use, as the model counts them")] = 2_000_000
    max_tool_calls: Annotated[
        Count, Meta(description="tools that an agent may call in one step (RunRequest.limits)")
    ] = 32
    max_body: Annotated[Bytes, Meta(description="bytes of a request's body or a WebSocket message")] = 2**20
    reply_bytes: Annotated[
        Bytes, Meta(description="bytes of all large replies (snapshots, results) being sent at once, in each worker")
    ] = 2**26
    log: Annotated[
        str,
        Meta(description="where events are kept: memory://, sqlite:///file.db, redis://host:port/0 or unix:///socket"),
    ] = MEMORY
    log_events: Annotated[Count, Meta(description="events kept of one run; older ones are trimmed")] = 1_000_000
    log_bytes: Annotated[Bytes, Meta(description="bytes kept of all runs; the oldest ended ones go first")] = 2**28
    log_runs: Annotated[
        Count, Meta(description="ended runs kept by a log in memory; those that ended first go first")
    ] = 100_000
    retention: Annotated[Seconds, Meta(description="how long a run is kept after its end")] = 172_800.0
    claim_timeout: Annotated[
        Seconds, Meta(description="how long a run of a process that is gone waits for another to go on with it")
    ] = 60.0
    max_sessions: Annotated[Count, Meta(description="conversations kept; those unused for longest go first")] = 10_000
    session_bytes: Annotated[Bytes, Meta(description="bytes of one conversation; its oldest turns go first")] = 2**18
    sessions_bytes: Annotated[
        Bytes, Meta(description="bytes of all conversations in memory; those unused for longest go first")
    ] = 2**28
    session_idle: Annotated[Seconds, Meta(description="how long an unused conversation is kept")] = 172_800.0
    webhook: Annotated[
        tuple[str, ...],
        Meta(description="a URL that is told of each run's end, signed and again until it is; repeatable"),
    ] = ()
    webhook_secret: Annotated[
        tuple[str, ...], Meta(description="what webhooks are signed with, whsec_ and base64; only as a variable")
    ] = ()
    heartbeat: Annotated[Seconds, Meta(description="send a heartbeat after this long without an event")] = 15.0
    send_timeout: Annotated[
        Seconds, Meta(description="drop a client that takes nothing, or answers no ping, for this long")
    ] = 90.0
    drain_timeout: Annotated[
        float, Meta(ge=0, le=86_400, description="at shutdown, let runs finish for this long"), DURATION
    ] = 1.0
    retry_ms: Annotated[Count, Meta(description="milliseconds after which EventSource reconnects, +-50 %")] = 1000
    log_format: Annotated[str, Meta(description="how lines on standard error are written: text or json")] = "text"
    log_level: Annotated[
        str, Meta(description="debug, info (a line for each start and end of a run), warning or error")
    ] = "warning"
    debug: Annotated[
        bool,
        Meta(description="tell clients what an agent raised; always so on loopback without authentication"),
    ] = False
    otel: Annotated[bool, Meta(description="send traces and metrics over OTLP, as the OTEL_* variables say")] = False

    def __post_init__(self) -> None:
        if self.secret is not None and len(self.secret) < 32:
            raise ValueError("`secret` must have 32 characters or more.")
        if self.workers > 1 and not self.log.startswith(_SHARED):
            raise ValueError(
                "`workers` must be 1 with this log. Several share `--log redis://host:port/0`, or, if none is named, a "
                "Valkey of their own."
            )
        if self.workers > 1 and self.local is not None:
            raise ValueError("`workers` must be 1 with `--local`; several can share a model's server (`--base-url`).")
        if (self.jwt_audience or self.jwt_issuer) and not (self.jwt_key_file or self.jwt_jwks_file):
            name = "jwt_audience" if self.jwt_audience else "jwt_issuer"
            raise ValueError(f"`{name}` requires the keys of JWTs, `--jwt-key-file` or `--jwt-jwks-file`.")
        for name, known in _KNOWN.items():
            if (value := getattr(self, name)) not in known:
                raise ValueError(f"`{name}` must be one of {', '.join(known)}, not {_shown(value)}.")
        for host in self.allowed_host:
            if not _HOST.fullmatch(host):
                raise ValueError(
                    f"`allowed_host` must be a name or an address (without a port), or *, not {_shown(host)}."
                )
        if self.root_path and not _PREFIX.fullmatch(self.root_path):
            raise ValueError(
                f"`root_path` must be a path such as /ai, without a slash at its end, not {_shown(self.root_path)}."
            )
        for origin in self.cors_origin:
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                raise ValueError(
                    f"`cors_origin` must be *, null or scheme://host[:port], not {_shown(origin)}. "
                    "An origin is in lower case, without a path and without the default port."
                )
        for name in self.cors_header:
            if not _HEADER.fullmatch(name):
                raise ValueError(
                    f"`cors_header` must be the name of a header, such as traceparent, not {_shown(name)}."
                )
        for name in self.agent_header:
            if not _HEADER.fullmatch(name) or name.lower() in _CREDENTIALS:
                raise ValueError(
                    "`agent_header` must be the name of a header that has no credential, such as x-tenant, "
                    f"not {_shown(name)}."
                )
        model_options(self.model_option)
        for secret in self.webhook_secret:
            webhook_key(secret)
        for url in self.webhook:
            if not _is_url(url):
                raise ValueError("`webhook` must be a URL such as https://host/path.")
        if self.base_url is not None and not _is_url(self.base_url):
            raise ValueError("`base_url` must be a URL such as http://host/v1.")
        if not os.path.isdir(self.project_root):  # noqa: PTH112 - pathlib's raises for names that are too long
            raise ValueError(f"`project_root` must be a folder, not {_shown(self.project_root)}.")

    def __repr__(self) -> str:
        shown = {name: getattr(self, name) for name in self.__struct_fields__}
        shown |= {name: "***" for name in SECRETS | KEY_PATHS | {"model_option", "webhook"} if shown[name]}
        shown |= {name: _masked(shown[name]) for name in ("log", "base_url") if shown[name]}
        return f"Settings({', '.join(f'{name}={value!r}' for name, value in shown.items())})"

    @property
    def authenticates(self) -> bool:
        """Return whether a way to authenticate is configured, so that all must."""
        return bool(self.auth_tokens or self.auth_tokens_file or self.jwt_key_file or self.jwt_jwks_file)

    @property
    def demo(self) -> bool:
        """Return whether the embedded demo model answers: neither a key nor a server nor a file was given."""
        return self.api_key is None and self.base_url is None and self.local is None


HINTS = get_type_hints(Settings, include_extras=True)


def _extra(name: str) -> dict[str, Any]:
    return next((meta.extra for meta in get_args(HINTS[name])[1:] if meta.extra), {})


def units(name: str) -> dict[str, int]:
    """Return the units that a value of this setting may have, from the smallest, with what each stands for."""
    known: dict[str, int] = _extra(name).get("units", {})
    return known


def _is_url(text: str) -> bool:
    """Return whether a client can connect to what this URL names."""
    try:
        parts = urlsplit(text)
        return _URL.fullmatch(text) is not None and parts.port != 0 and bool((parts.hostname or "").encode("idna"))
    except ValueError:  # of the port, of an address in brackets, or of a name with an empty label
        return False


def unmapped(host: str) -> str:
    """Return the IPv4 address that an IPv6 address stands for (RFC 4291, section 2.5.5.2); else `host` as it is."""
    return host.lower().removeprefix(_MAPPED) if _IPV4_MAPPED.fullmatch(host) else host


@functools.lru_cache(64)
def is_loopback(host: str) -> bool:
    """Return whether only this machine goes by this name or address."""
    try:
        return ip_address(unmapped(host)).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def flag(name: str) -> str:
    """The command line's name of a setting."""
    return "--" + name.replace("_", "-")


def load(environ: Mapping[str, str], flags: Mapping[str, Any]) -> Settings:
    """Settings from the environment, over them the flags that are not None. Raises `SettingsError`.

    `TWINWIRE_<NAME>` for each; `OPENAI_API_KEY`, `OPENAI_BASE_URL`, `OPENAI_MODEL` and `PORT` if those are not set.
    `HOST` is not read: some shells set it to the machine's name.
    """
    values: dict[str, Any] = {}
    source: dict[str, str] = {}
    for name, hint in HINTS.items():
        for variable in (f"TWINWIRE_{name.upper()}", *([_OTHERS[name]] if name in _OTHERS else [])):
            if name not in values and environ.get(variable):
                text = environ[variable]
                values[name] = listed(name, text) if get_args(hint)[0] == tuple[str, ...] else text
                source[name] = variable
        if flags.get(name) is not None:
            values[name], source[name] = flags[name], flag(name)
    try:
        plain = {name: _plain(value, units(name)) for name, value in values.items()}
        return msgspec.convert(plain, Settings, strict=False)
    except msgspec.ValidationError as error:
        raise _settings_error(str(error), values, source) from None
    except UnicodeEncodeError as error:
        name = next(name for name, value in values.items() if value == error.object)
        raise SettingsError(f"`{source[name]}` must be UTF-8.", field=source[name]) from None


def listed(name: str, text: str) -> tuple[str, ...]:
    """Return the items of a variable that holds a list: commas or blanks separate them.

    A model's options are JSON or texts; what is within JSON separates nothing.
    """
    if name != "model_option":
        return tuple(text.replace(",", " ").split())
    found = []
    while text := text.lstrip(_SEPARATORS):
        key, equals, value = text.partition("=")
        try:
            end = _raw_decode(value)[1]
        except ValueError:
            end = 0
        if value[end : end + 1] not in _SEPARATORS or not end:
            end = next((at for at, char in enumerate(value) if char in _SEPARATORS), len(value))
        found.append(f"{key}{equals}{value[:end]}")
        text = value[end:]
    return tuple(found)


def model_options(told: Sequence[str]) -> dict[str, Any]:
    """Return the options that these `KEY=VALUE` are. A value that is not JSON is a text. Raises `ValueError`."""
    options: dict[str, Any] = {}
    for item in told:
        name, equals, value = item.partition("=")
        if not (equals and name.isascii() and name.isidentifier()):
            raise ValueError("`model_option` must be KEY=VALUE, such as temperature=0. KEY has letters, digits and _.")
        if name in options:
            raise ValueError(f"`model_option` must have each key once, and {name} is there twice.")
        try:
            options[name] = msgspec.json.decode(value)
        except (msgspec.DecodeError, ValueError, RecursionError):
            options[name] = value
    return options


def _plain(value: Any, known: Mapping[str, int]) -> Any:
    """Return a number with one of these units without it, and anything else as it is."""
    match = _NUMBER.fullmatch(value) if known and isinstance(value, str) else None
    return float(match[1]) * known[match[2]] if match and match[2] in known else value


def written(name: str, value: Any) -> str:
    """Return a setting's value as one writes it: `5m` for 300 seconds, `64MiB` for 2**26 bytes."""
    for unit, size in reversed(units(name).items()):
        if value and value % size == 0 and unit != "B":
            return f"{value / size:g}{unit}"
    return f"{value:.15g}"


def read(name: str, value: Any, field: str, owner: str) -> Any:
    """Return a value as `load` reads that of this setting. Raise `ValueError`, which names its field and its owner."""
    try:
        return msgspec.convert(_plain(value, units(name)), HINTS[name], strict=isinstance(value, bool))
    except (msgspec.ValidationError, UnicodeEncodeError):
        raise ValueError(f"`{field}` of {owner} must be {_expected(name)}, not {_shown(value)}.") from None


def variables(flags: Mapping[str, Any]) -> dict[str, str]:
    """The flags that are not None, as the variables that say the same: for an app that is made without flags."""
    told = {name: flags[name] for name in Settings.__struct_fields__ if flags.get(name) is not None}
    if "model_option" in told:
        options = model_options(told["model_option"])
        told["model_option"] = [f"{name}={msgspec.json.encode(value).decode()}" for name, value in options.items()]
    return {
        f"TWINWIRE_{name.upper()}": ",".join(value) if isinstance(value, list) else str(value)
        for name, value in told.items()
    }


def _masked(url: str) -> str:
    """Return a URL without its user, its password and what its query may have of secrets."""
    url = re.sub(r"^([^:/]*://)?.*@", r"\1***@", url)
    return re.sub(rf"([?&;]{NAMES_OF_SECRETS}=)[^&;#]*", r"\1***", url, flags=re.IGNORECASE)


def _shown(value: Any) -> str:
    text = repr(_masked(value) if isinstance(value, str) else value)
    return text if len(text) <= 80 else f"{text[:80]}…"


def _expected(name: str) -> str:
    """Return what a value of this setting must be, as its type and its bounds say."""
    kind, *metas = get_args(HINTS[name])
    if kind is str:
        return "a text that is not empty"
    bounds = [
        f"{word} {written(name, value)}"
        for meta in metas
        for word, value in (("above", meta.gt), ("at least", meta.ge), ("at most", meta.le))
        if value is not None
    ]
    named: str = _extra(name).get("kind") or _KINDS[kind]
    return f"{named}, {' and '.join(bounds)}" if bounds else named


def _settings_error(text: str, values: Mapping[str, Any], source: Mapping[str, str]) -> SettingsError:
    """Name the setting as the user does, by its flag or its variable; msgspec and our checks name the field."""
    at = re.search(r" - at `\$\.(\w+).*`$", text)
    if at:
        name = at[1]
        reason = f"must be {_expected(name)}, not {_shown(values[name])}"
    else:
        _, name, reason = text.removesuffix(" - at `$`").split("`", 2)
    field = source.get(name, flag(name))
    return SettingsError(f"`{field}` {reason.strip(' .')}.", field=field)

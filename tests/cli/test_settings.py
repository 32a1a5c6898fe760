"""Settings: where they come from, and one clear line for each bad value."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from twinwire.cli.main import parser
from twinwire.protocol.errors import SettingsError
from twinwire.settings import Settings, flag, load, model_options, units, variables, written

TEXTS: dict[str, Any] = {
    "host": "::1",
    "base_url": "http://127.0.0.1:11434/v1",
    "project_root": "/",
    "cors_origin": ("http://a.example",),
    "cors_header": ("traceparent",),
    "agent_header": ("x-tenant",),
    "allowed_host": ("app.example",),
    "auth_tokens": ("alice:0123456789abcdef",),
    "admin": ("root",),
    "webhook": ("https://h.example/ended",),
    "webhook_secret": (f"whsec_{'QUJD' * 8}",),
    "secret": "0123456789abcdef" * 2,
    "model_option": ("temperature=0",),
    "root_path": "/ai",
    "log_format": "json",
    "log_level": "info",
}


AROUND = {  # what else a setting needs
    "workers": {"TWINWIRE_LOG": "redis://h"},
    "jwt_audience": {"TWINWIRE_JWT_KEY_FILE": "key"},
    "jwt_issuer": {"TWINWIRE_JWT_KEY_FILE": "key"},
}


def another(name: str) -> Any:
    """A good value of this setting that is not its default."""
    default = getattr(Settings(), name)
    return default + 1 if isinstance(default, (int, float)) else TEXTS.get(name, "qwen3:0.6b")


def test_defaults() -> None:
    """An empty environment gives the defaults of the Struct: a demo on the loopback address."""
    assert load({}, {}) == Settings()
    assert Settings().host == "127.0.0.1"
    assert Settings().demo


@pytest.mark.parametrize("name", Settings.__struct_fields__)
def test_each_setting_has_a_variable_and_a_flag(name: str) -> None:
    """Each setting is read from its variable, and from its flag, which wins; an empty variable is none."""
    value = another(name)
    given = list(value) if isinstance(value, tuple) else str(value)
    text = "".join(given)
    variable = f"TWINWIRE_{name.upper()}"
    around = AROUND.get(name, {})
    alone = load(around, {})
    expected = msgspec.structs.replace(alone, **{name: value})
    assert expected != alone
    assert load({**around, variable: text}, {}) == load({**around, variable: text}, {name: None}) == expected
    assert load(around, {name: given}) == load({**around, variable: "overruled"}, {name: given}) == expected
    assert load({**around, variable: ""}, {}) == alone


def test_the_sdk_s_variables() -> None:
    """`OPENAI_…` counts for the model, its server and its key, where ours are not set; for nothing else."""
    theirs = {"OPENAI_API_KEY": "sk-2", "OPENAI_BASE_URL": "https://h/v1", "OPENAI_MODEL": "m", "OPENAI_PORT": "1"}
    settings = load(theirs, {})
    assert (settings.api_key, settings.base_url, settings.model) == ("sk-2", "https://h/v1", "m")
    assert settings.port == 8000
    assert not settings.demo
    settings = load({**theirs, "TWINWIRE_MODEL": "ours", "TWINWIRE_API_KEY": ""}, {"base_url": "http://flag"})
    assert (settings.api_key, settings.base_url, settings.model) == ("sk-2", "http://flag", "ours")


def test_demo() -> None:
    """A key, a server or a file ends the demo; a model's name alone does not."""
    assert load({"TWINWIRE_MODEL": "m"}, {}).demo
    assert not load({"OPENAI_API_KEY": "k"}, {}).demo
    assert not load({}, {"base_url": "http://h"}).demo
    assert not load({}, {"local": "model.gguf"}).demo


@pytest.mark.parametrize(
    "text",
    ["http://a,https://b:8443", "http://a https://b:8443", " http://a , https://b:8443 ,", "http://a\nhttps://b:8443"],
)
def test_lists(text: str) -> None:
    """A list in a variable has commas or spaces; a flag is given again."""
    assert load({"TWINWIRE_CORS_ORIGIN": text}, {}).cors_origin == ("http://a", "https://b:8443")
    assert load({}, {"cors_origin": ["http://a", "https://b:8443"]}).cors_origin == ("http://a", "https://b:8443")
    assert load({"TWINWIRE_CORS_ORIGIN": "*"}, {}).cors_origin == ("*",)


@pytest.mark.parametrize(
    "origin",
    ["tauri://localhost", "capacitor://localhost", "ionic://localhost", "chrome-extension://abc", "file://", "null"],
)
def test_origins_of_app_shells(origin: str) -> None:
    """What the web views of apps and a browser's extensions send can be listed."""
    assert Settings(cors_origin=(origin, "http://localhost:3000")).cors_origin[0] == origin


LISTS = {"cors_origin", "cors_header", "agent_header", "allowed_host", "model_option"}
BAD = [
    (name, text, reason)
    for name, reason, texts in [
        ("port", "a whole number", ["http", "80 ", "0x50", "\uff18\uff10", "true"]),
        ("port", "at least 0", ["-1"]),
        ("port", "at most 65535", ["65536", "1e9", "9" * 5000]),
        ("port", "UTF-8", ["\udcff"]),
        ("host", "a text that is not empty", [""]),
        ("run_timeout", "above 0", ["0", "-5", "nan", "0s"]),
        ("run_timeout", "at most 365d", ["inf", "366d", "9" * 5000 + "h"]),
        ("run_timeout", "a duration such as 90s, 5m or 1h", [
            "1,5", "5x", "5M", "5 m", "-5m", "m", "1h30m", "\uff15m", "5MiB"
        ]),
        ("run_timeout", "UTF-8", ["\udcff"]),
        ("drain_timeout", "at most 1d", ["25h"]),
        ("drain_timeout", "at least 0", ["-0.1", "nan"]),
        ("demo_rate", "at least 0", ["nan"]),
        ("demo_rate", "at most 1000000", ["inf"]),
        ("demo_rate", "a number", ["5m"]),
        ("max_runs", "at least 1", ["0"]),
        ("max_runs", "a whole number", ["1.5", "none", "1KB"]),
        ("max_body", "a size such as 512KiB, 10MB or 64MiB", ["1M", "1mb", "1 MiB", "MiB", "5m", "1.5B"]),
        ("max_body", "at least 1", ["0KiB"]),
        ("max_body", "at most 2GiB", ["3GiB", "9" * 5000 + "KiB"]),
        ("log_format", "must be one of text, json", ["xml"]),
        ("log_level", "must be one of debug", ["INFO"]),
        ("log_bytes", "at most 2GiB", ["99999999999"]),
        ("retention", "a duration such as 90s, 5m or 1h", [""]),
        ("cors_origin", "*, null or scheme://host[:port]", [
            "example.org", "http://a/", "http://a/path", "https://*.example.org", "NULL", "tauri://",
            "app.example:8000"
        ]),
        ("cors_origin", "lower case", ["http://App.example"]),
        ("cors_origin", "default port", ["https://app.example:443", "http://app.example:80"]),
        ("cors_header", "name of a header", ["x:y", "*", "traceparent:"]),
        ("agent_header", "name of a header that has no credential", ["x:y", "Authorization", "cookie"]),
        ("allowed_host", "a name or an address (without a port)", ["app.example:8000", "http://app.example"]),
        ("jwt_audience", "--jwt-key-file", ["us"]),
        ("jwt_issuer", "--jwt-key-file", ["them"]),
        ("base_url", "http://", [
            "localhost:11434/v1", "ftp://host/v1", "http://", "http:///v1", "http://u:p@host:port/v1",
            "http://host:65536/v1", "http://[::1/v1", "http://a..b/v1", "http://a b/v1", "http://host/v1\n"
        ]),
        ("model_option", "must be KEY=VALUE, such as temperature=0", ["temperature", "=0", "a-b=0", "1a=0", "a.b=0"]),
        ("project_root", "must be a folder", ["/no/such/folder", "pyproject.toml", "a" * 5000, "a\0b"]),
    ]
    for text in texts
]  # fmt: skip


@pytest.mark.parametrize(("name", "text", "reason"), BAD, ids=lambda value: repr(value)[:24])
def test_a_bad_value_is_one_line(name: str, text: str, reason: str) -> None:
    """It names what the user wrote, the flag or the variable, says what is expected, and shows the value, cut."""
    sources: list[tuple[str, dict[str, str], dict[str, Any]]] = [
        (flag(name), {}, {name: [text] if name in LISTS else text})
    ]
    if text and "\n" not in text:
        sources.append((f"TWINWIRE_{name.upper()}", {f"TWINWIRE_{name.upper()}": text}, {}))
    for field, environ, flags in sources:
        with pytest.raises(SettingsError) as caught:
            load(environ, flags)
        line = str(caught.value)
        assert caught.value.field == field
        assert line.startswith(f"`{field}` ")
        assert reason in line
        assert line.isprintable()
        assert len(line) < 250
        assert "$" not in line
        assert line.endswith(".")
        assert "Expected" not in line


FORMS = [
    ("run_timeout", "90", 90.0), ("run_timeout", "0.5", 0.5), ("run_timeout", "90s", 90.0),
    ("run_timeout", "5m", 300.0),
    ("run_timeout", "1h", 3600.0), ("run_timeout", "1.5h", 5400.0), ("run_timeout", "2d", 172_800.0),
    ("drain_timeout", "0s", 0.0), ("max_body", "65536", 65_536), ("max_body", "8B", 8), ("max_body", "10KB", 10_000),
    ("max_body", "10MB", 10**7), ("max_body", "1GB", 10**9), ("max_body", "512KiB", 2**19),
    ("max_body", "64MiB", 2**26),
    ("max_body", "2GiB", 2**31), ("max_body", "1.5KiB", 1536),
]  # fmt: skip


@pytest.mark.parametrize(("name", "text", "value"), FORMS)
def test_durations_and_sizes_have_units(name: str, text: str, value: float) -> None:
    """A duration and a size are plain numbers or have a unit, in a flag, in a variable, and in one made of the flag."""
    for settings in (
        load({}, {name: text}),
        load({f"TWINWIRE_{name.upper()}": text}, {}),
        load(variables({name: text}), {}),
    ):
        assert getattr(settings, name) == value
        assert type(getattr(settings, name)) is type(value)


def test_which_settings_have_units() -> None:
    """Each time but the milliseconds of EventSource is a duration, each number of bytes a size, and nothing else."""
    for name, default in msgspec.structs.asdict(Settings()).items():
        assert ("s" in units(name)) == (isinstance(default, float) and name != "demo_rate"), name
        assert ("B" in units(name)) == (name.endswith("_bytes") or name == "max_body"), name


@pytest.mark.parametrize("name", [name for name in Settings.__struct_fields__ if units(name)])
def test_what_is_written_is_read(name: str) -> None:
    """A default as the help writes it is the default when it is read."""
    default = getattr(Settings(), name)
    assert getattr(load({}, {name: written(name, default)}), name) == default
    assert written(name, default)[-1].isalpha()


OPTIONS: dict[str, dict[str, Any]] = {
    "temperature=0": {"temperature": 0},
    "temperature=0,top_k=3 seed=-1\n": {"temperature": 0, "top_k": 3, "seed": -1},
    "effort=low, user=a-b=c": {"effort": "low", "user": "a-b=c"},
    'stop=["a, b=1", "c"] a={"b": {"c": [1, 2]}},d=null': {
        "stop": ["a, b=1", "c"], "a": {"b": {"c": [1, 2]}}, "d": None
    },
    'stop="a, b" t=true': {"stop": "a, b", "t": True},
    "empty= nan=NaN broken=[1, x=1x": {"empty": "", "nan": "NaN", "broken": "[1", "x": "1x"},
}  # fmt: skip


@pytest.mark.parametrize(("text", "options"), OPTIONS.items())
def test_options_of_a_model_in_a_variable(text: str, options: dict[str, Any]) -> None:
    """Commas and blanks separate options, but within JSON; a value that is no JSON is a text."""
    assert model_options(load({"TWINWIRE_MODEL_OPTION": text}, {}).model_option) == options


def test_options_of_a_model_as_flags() -> None:
    """A flag has one option, whatever is in it, and says the same as the variable that is made of it."""
    flags = {"model_option": ["stop=a, b=1", 'format={"type": "x, y"}', "seed=1", 'text="1"']}
    options = {"stop": "a, b=1", "format": {"type": "x, y"}, "seed": 1, "text": "1"}
    assert model_options(load({}, flags).model_option) == options
    assert model_options(load(variables(flags), {}).model_option) == options
    with pytest.raises(SettingsError, match=r"^`--model-option` must have each key once, and seed is there twice"):
        load({}, {"model_option": ["seed=1", "seed=1"]})


def test_options_of_a_model_are_not_shown() -> None:
    """A header's value may be a secret: it is in no repr, and in no error about the option."""
    settings = load({}, {"model_option": ['headers={"api-key": "sk-secret"}']})
    assert "sk-secret" not in repr(settings)
    with pytest.raises(SettingsError) as caught:
        load({}, {"model_option": ['{"api-key": "sk-secret"}']})
    assert "sk-secret" not in str(caught.value)


def test_a_bad_origin_among_good_ones() -> None:
    """The one that is wrong is shown."""
    with pytest.raises(SettingsError, match=r"^`TWINWIRE_CORS_ORIGIN` must be .*, not 'b'"):
        load({"TWINWIRE_CORS_ORIGIN": "http://a,b"}, {})


def test_the_sdk_s_variable_is_named() -> None:
    """Also where the bad value came from a variable that is not ours."""
    with pytest.raises(SettingsError, match=r"^`OPENAI_BASE_URL` must be a URL"):
        load({"OPENAI_BASE_URL": "nonsense"}, {})


def test_the_key_is_not_shown() -> None:
    """Neither the settings' repr, which ends in logs, nor an error about others shows the key."""
    settings = load({"OPENAI_API_KEY": "sk-secret"}, {})
    assert "sk-secret" not in repr(settings)
    assert "sk-secret" not in f"{settings}"
    assert "api_key='***'" in repr(settings)
    assert "api_key=None" in repr(Settings())


def test_no_url_and_no_path_of_a_secret_is_shown() -> None:
    """Passwords and keys in URLs, and the paths of files with keys, are in no repr of the settings."""
    urls = (
        "http://u:p-0815@h/v1?api-key=k-0815&version=1",
        "https://k-0815@h/v1",
        "http://h/v1?version=1&token=k-0815#x",
    )
    for url in urls:
        shown = repr(
            Settings(base_url=url, log="redis://:p-0815@h:6379/0", ssl_keyfile="/0815/key", jwt_key_file="0815")
        )
        assert "0815" not in shown
        assert "@h" in shown
    assert "version=1" in repr(Settings(base_url=urls[0]))
    with pytest.raises(SettingsError) as caught:
        load({"OPENAI_API_KEY": "sk-secret", "TWINWIRE_PORT": "x"}, {})
    assert "sk-secret" not in str(caught.value)


def test_settings_made_by_hand_are_not_changed() -> None:
    """A library's user builds them with keywords; they cannot be changed under a running server."""
    with pytest.raises(TypeError):
        Settings(prot=1)  # type: ignore[call-arg]
    with pytest.raises(AttributeError):
        Settings().port = 1  # type: ignore[misc]


@pytest.mark.parametrize("log", ["sqlite:///x.db", "nosql://x"])
def test_workers_need_a_shared_log(log: str) -> None:
    """More than one worker on a log of one process is refused with what to use instead."""
    with pytest.raises(SettingsError) as caught:
        load({}, {"workers": "2", "log": log})
    assert str(caught.value) == (
        "`--workers` must be 1 with this log. Several share `--log redis://host:port/0`, or, if none is named, a "
        "Valkey of their own."
    )
    with pytest.raises(SettingsError, match="--workers"):
        load({}, {"workers": "2", "log": "redis://h", "local": "model.gguf"})


def test_flags_as_variables() -> None:
    """Variables made of flags say what the flags say, over what the environment says."""
    said = "--port 1 --insecure --run-timeout 2.5 --cors-origin http://a --cors-origin http://b"
    flags = vars(parser().parse_args(["serve", "mine:app", *said.split()]))
    assert len(variables(flags)) == 4
    assert load({"TWINWIRE_PORT": "7", **variables(flags)}, {}) == load({}, flags) != Settings()

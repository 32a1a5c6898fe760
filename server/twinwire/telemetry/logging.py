"""Standard error: one record, one line, for people or as JSON; no secret, and nothing that looks like another record.

Other modules choose what to say, by `logging`. A record's `fields` are what a program would look for in it. `hide`
makes a secret known; every record, and every line that the command line prints, goes through `scrub`.
"""

from __future__ import annotations

import base64
import json
import logging
import math
import re
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from itertools import islice
from typing import Any
from urllib.parse import quote, quote_plus, unquote, urlsplit

from twinwire.settings import KEY_PATHS, NAMES_OF_SECRETS, SECRETS, Settings
from twinwire.telemetry import ids

ANYWHERE = 8
"""A secret of so many characters is hidden wherever it stands, in all its forms."""
AS_A_WORD = 4
"""A shorter one is hidden if it stands alone, between characters that belong to no word; one below this is not."""
MAX_SECRETS = 2**16
"""The most secrets that are known; over it those that were hidden first are forgotten."""
MAX_TEXT = 2**16
"""The most characters of a message or of an exception that are written."""
MAX_EXTRA = 64
"""The most names of an `extra=` that are written, and the most items of a list or a mapping in it."""
MAX_EXTRA_TEXT = 2**12
"""The most characters of a text in an `extra=` that are written, and of all of a value, as JSON."""
ACCESS = ("uvicorn.access", "uvicorn.error", "gunicorn.access", "hypercorn.access", "granian.access")
"""The loggers of servers that write the URLs of requests, in which there may be tickets."""

_STANDARD = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName", "fields", "color_message"}
"""The attributes of a record that are no `extra=`; the last one is uvicorn's, and repeats its message."""

_HIDDEN = "***"
_NO_WORD = r"(?-i:(?=[A-Za-z]*[0-9._~+/=-]|[A-Za-z]*[a-z][A-Z]))"  # unlike the one after `basic` in a sentence
# Credentials that look like ones, whoever they belong to: a client's token is in no list of secrets.
_SHAPES = [
    (re.compile(pattern, flags | re.IGNORECASE), shown)
    for pattern, shown, flags in (
        (r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", _HIDDEN, re.DOTALL),
        (r"\b([a-z][a-z0-9+.-]{1,20}://)[^\s/?#\"'<>]*@", rf"\1{_HIDDEN}@", 0),
        (rf"([?&;](?:{NAMES_OF_SECRETS})=)[^&;\s\"'#]+", rf"\1{_HIDDEN}", 0),
        (rf"\b(bearer|basic) +{_NO_WORD}[a-z0-9._~+/-]{{8,}}=*", rf"\1 {_HIDDEN}", 0),
        (r"\b(twinwire_login=|twinwire\.auth\.)[\w.-]+", rf"\1{_HIDDEN}", re.ASCII),
        (r"\beyJ[\w-]{8,}\.[\w-]{8,}(?:\.[\w-]*)?", _HIDDEN, re.ASCII),
        (r"\bsk-[\w-]{16,}", _HIDDEN, re.ASCII),
    )
]
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]*")
_SECRET_VARIABLE = re.compile(
    r"(^|_)(API_?)?(KEY|TOKEN|SECRET|PASS|PASSPHRASE|CREDENTIAL|AUTHORIZATION)S?(_|$)|PASSWORD|PASSWD|_PWD$",
    re.IGNORECASE,
)
_NO_SECRET_VARIABLE = re.compile(r"_(FILE|PATH|DIR|SOCK|ID|NAME|URL|TTL|PARALLELISM)$", re.IGNORECASE)


class Redactor:
    """Replaces what it was told to hide by `***`: as it is, and as URLs, JSON, Python, Base64 and hexadecimal write it.

    A text is looked through once, however many secrets there are.
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._known: dict[str, list[str]] = {}  # the forms of each secret, the one hidden first is the first
        self._forms: dict[str, dict[int, set[str]]] = {}  # all of these, by their first characters and their length
        self._encoded: set[str] = set()  # those that may stand within a longer text in Base64
        self._words: set[str] = set()
        self._word = re.compile(r"(?!)")
        self._first = re.compile(r"(?!)")  # what a form may begin with
        self.longest = 0
        self.hide(*secrets)

    def hide(self, *secrets: str | None) -> None:
        """Hide these from now on, if they are long enough; see `ANYWHERE` and `AS_A_WORD`."""
        new = {secret for secret in secrets if secret} - self._known.keys() - self._words
        for secret in new:
            if len(secret) >= ANYWHERE:
                self._add(secret)
            elif len(secret) >= AS_A_WORD:
                self._words.add(secret)
                words = "|".join(map(re.escape, self._words))
                self._word = re.compile(rf"(?<!\w)(?:{words})(?!\w)")
        if new and self._forms:
            self._first = re.compile(f"[{re.escape(''.join({form[0] for form in self._forms}))}]")

    def _add(self, secret: str) -> None:
        encoded = set(_in_base64(secret))
        forms = self._known[secret] = [*{*_written(secret)} | encoded]
        self._encoded |= encoded
        for form in forms:
            self._forms.setdefault(form[:ANYWHERE], {}).setdefault(len(form), set()).add(form)
            self.longest = max(self.longest, len(form))
        if len(self._known) > MAX_SECRETS:  # a model for each user, each with a key of its own
            for form in self._known.pop(next(iter(self._known))):
                self._forms[form[:ANYWHERE]][len(form)].discard(form)
                self._encoded.discard(form)

    def scrub(self, text: str, limit: int = MAX_TEXT) -> str:
        """Return the text without secrets, and without what comes after so many characters."""
        cut = len(text) > limit
        if cut:
            text = text[: limit + self.longest]
        text = self._scrubbed(text)
        if cut:  # at the end there may be half a secret
            text = f"{text[: max(0, len(text) - self.longest)]}… (cut)"
        if self._words:
            text = self._word.sub(_HIDDEN, text)
        for shape, shown in _SHAPES:
            text = shape.sub(shown, text)
        return text

    def _scrubbed(self, text: str) -> str:
        forms = self._forms
        parts: list[str] = []
        start = at = 0
        while (begin := self._first.search(text, at)) is not None:
            at = begin.start()
            alike = forms.get(text[at : at + ANYWHERE])
            sizes = sorted(alike, reverse=True) if alike else ()
            size = next((size for size in sizes if alike and text[at : at + size] in alike[size]), 0)
            if size == 0:
                at += 1
                continue
            end = at + size
            if text[at:end] in self._encoded:
                at -= _more_base64(text[start:at][::-1], 0)
                end += _more_base64(text, end)
            parts += (text[start:at], _HIDDEN)
            start = at = end
        return "".join([*parts, text[start:]])


def _more_base64(text: str, at: int) -> int:
    """Return how many characters of Base64 go on from here: the rest of what a secret is encoded in."""
    found = _BASE64.match(text, at)
    return 0 if found is None else len(found[0])


def _written(secret: str) -> Iterator[str]:
    """Give the forms in which a text is written down."""
    data = secret.encode("utf-8", "surrogatepass")
    in_json = json.dumps(secret)[1:-1]
    yield from (secret, in_json, json.dumps(in_json)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1])
    yield from (repr(secret)[1:-1], repr(data)[2:-1], data.hex(), data.hex().upper())
    for encoded in (quote(data, safe=""), quote(data), quote_plus(data)):
        yield encoded
        yield re.sub(r"%..", lambda found: found[0].lower(), encoded)


def _in_base64(secret: str) -> Iterator[str]:
    """Give what stands in the Base64 of any text with this in it, as in Basic authentication, whatever is before it."""
    for before in range(3):
        data = b"\0" * before + secret.encode("utf-8", "surrogatepass")
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            core = encode(data)[(before * 8 + 5) // 6 : len(data) * 8 // 6].decode()
            if len(core) >= ANYWHERE:
                yield core


_redactor = Redactor()
hide = _redactor.hide
scrub = _redactor.scrub


def in_url(url: str | None) -> Iterator[str]:
    """Give the secrets of a URL: its password, or its user if it has none, and fields of its query."""
    try:
        parts = urlsplit(url or "")
    except ValueError:
        return
    user, colon, password = parts.netloc.rpartition("@")[0].partition(":")
    found = [password] if colon else [user]
    found += [text for _, text in re.findall(rf"(?:^|[&;])({NAMES_OF_SECRETS})=([^&;#]*)", parts.query, re.IGNORECASE)]
    for text in found:
        yield from (text, unquote(text))


def in_environment(environ: Mapping[str, str]) -> Iterator[str]:
    """Give the values of variables that are named like secrets, and what URLs in others, such as a proxy's, have."""
    ours = {f"TWINWIRE_{name.upper()}" for name in Settings.__struct_fields__ if name not in SECRETS}
    for name, value in environ.items():
        if "://" in value:
            yield from in_url(value)
        elif name not in ours and _SECRET_VARIABLE.search(name) and not _NO_SECRET_VARIABLE.search(name):
            yield value
            yield from (entry.partition(":")[2] for entry in re.split(r"[,\s]+", value))


def in_settings(settings: Settings) -> Iterator[str]:
    """Give the secrets of settings; those in files are hidden as they are read. A key's path is one, too."""
    for name in SECRETS:
        value = getattr(settings, name) or ()
        yield from [value] if isinstance(value, str) else [entry.partition(":")[2] or entry for entry in value]
    for url in settings.log, settings.base_url, *settings.webhook:
        yield from in_url(url)
    yield from (path for name in KEY_PATHS if "/" in (path := getattr(settings, name) or ""))


def in_pem(data: bytes) -> Iterator[str]:
    """Give the lines of a PEM file's body."""
    yield from (line for line in data.decode("latin-1").split() if re.fullmatch(r"[A-Za-z0-9+/]{16,}=*", line))


def one_line(text: str) -> str:
    """Return the text with each control character, line break and what else cannot be seen as its escape."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def tell(logger: logging.Logger, what: str, **fields: Any) -> None:
    """Log, at INFO, what happened, with the fields that are not None."""
    if logger.isEnabledFor(logging.INFO):
        logger.info(what, extra={"fields": {name: value for name, value in fields.items() if value is not None}})


class Text(logging.Formatter):
    """`<time> <level> <logger> <message> <name>=<value> …`; a record is one line, and begins with its time.

    An exception and a stack follow in lines that begin with two blanks. Whatever a client, a model or an agent has
    chosen, it begins no line of its own and moves no cursor.
    """

    def __init__(self, redactor: Redactor = _redactor) -> None:
        super().__init__()
        self._redactor = redactor

    def format(self, record: logging.LogRecord) -> str:
        """See `Formatter`."""
        clean = self._clean
        shown = [f"{name}={json.dumps(value)}" for name, value in self._fields(record).items()]
        head = [self.formatTime(record), record.levelname, clean(record.name), self._message(record), *shown]
        below = [self._exception(record), record.stack_info]
        lines = [line for text in below if text for line in clean(text).split("\n")]
        return "\n".join([one_line(" ".join(head)), *(f"  {one_line(line)}" for line in lines)])

    def _message(self, record: logging.LogRecord) -> str:
        try:
            message = record.getMessage()
        except Exception:  # noqa: BLE001 - the arguments are not those of the message, or have no text
            message = f"{self._clean(record.msg)} (its arguments do not fit)"
        return self._redactor.scrub(message)

    def _fields(self, record: logging.LogRecord) -> dict[str, Any]:
        fields = self._clean(getattr(record, "fields", {}))
        return fields if isinstance(fields, dict) else {"fields": fields}

    def _exception(self, record: logging.LogRecord) -> str | None:
        if not record.exc_info or record.exc_info[0] is None:
            return record.exc_text
        try:
            return self.formatException(record.exc_info)
        except Exception:  # noqa: BLE001 - an exception's own text may fail
            return f"{record.exc_info[0].__name__}, which has no text"

    def _extra(self, record: logging.LogRecord) -> dict[str, Any]:
        """Return what the record's `extra=` has, without secrets and within bounds."""
        more = ((name, value) for name, value in vars(record).items() if name not in _STANDARD)
        found: dict[str, Any] = {}
        for name, given in islice(more, MAX_EXTRA):
            try:
                value = self._clean(_bounded(given))
            except Exception:  # noqa: BLE001 - somebody else's mapping or list
                value = type(given).__name__
            text = value if isinstance(value, str) else json.dumps(value)
            cut = len(text) > MAX_EXTRA_TEXT
            found[self._redactor.scrub(str(name), 100)] = f"{text[:MAX_EXTRA_TEXT]}… (cut)" if cut else value
        return found

    def _clean(self, value: Any, depth: int = 0) -> Any:
        """Return a value as JSON has it, without secrets."""
        if isinstance(value, str):
            return self._redactor.scrub(value)
        if value is None or isinstance(value, bool) or (isinstance(value, int) and abs(value) < 2**64):
            return value
        if isinstance(value, float) and math.isfinite(value):
            return value
        if depth < 8 and isinstance(value, Mapping):
            return {self._redactor.scrub(str(name)): self._clean(item, depth + 1) for name, item in value.items()}
        if depth < 8 and isinstance(value, list | tuple | set | frozenset):
            return [self._clean(item, depth + 1) for item in value]
        try:
            return self._redactor.scrub(str(value))
        except Exception:  # noqa: BLE001 - somebody else's __str__
            return type(value).__name__


def _bounded(value: Any, depth: int = 0) -> Any:
    """Return the value with at most `MAX_EXTRA` items in each list and mapping, three levels deep; the rest as texts.

    A text is not cut here: half a secret is not found any more.
    """
    if isinstance(value, Mapping) and depth < 3:
        return {str(name): _bounded(item, depth + 1) for name, item in islice(value.items(), MAX_EXTRA)}
    if isinstance(value, list | tuple | set | frozenset) and depth < 3:
        return [_bounded(item, depth + 1) for item in islice(value, MAX_EXTRA)]
    return value


class Json(Text):
    """`{"time", "level", "logger", "pid", "message", …, "exception"?, "stack"?}`; `time` is RFC 3339, in UTC.

    Between them are the ids of the run and the request within which the line is written, and what the record's `extra=`
    has. A name of the line's own that is in that gets an underscore behind it.
    """

    def format(self, record: logging.LogRecord) -> str:
        """See `Formatter`."""
        told = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": self._clean(record.name),
            "pid": record.process,
            "message": self._message(record),
        }
        known = {**ids.log_ids(), **self._extra(record), **self._fields(record)}
        line = {f"{name}_" if name in told or name in {"exception", "stack"} else name: known[name] for name in known}
        for name, text in (("exception", self._exception(record)), ("stack", record.stack_info)):
            if text:
                line[name] = self._clean(text)
        return json.dumps({**told, **line})


class _WithoutSecrets(Mapping[str, Any]):
    """The arguments of an access line by name, whatever kind of mapping a server has them in."""

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        self._arguments = arguments

    def __getitem__(self, name: str) -> Any:
        return _scrubbed(self._arguments[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._arguments)

    def __len__(self) -> int:
        return len(self._arguments)


def _scrubbed(value: Any) -> Any:
    """Return a part of an access line without secrets. It may be a query alone, which nothing stands before."""
    return scrub(f"?{value}")[1:] if isinstance(value, str) else value


def _hide_secrets(record: logging.LogRecord) -> bool:
    """Take the secrets out of a record of another server's; what else it has its own formatter may rely on."""
    record.msg = _scrubbed(record.msg)
    if isinstance(record.args, Mapping):
        record.args = _WithoutSecrets(record.args)
    elif record.args:
        record.args = tuple(_scrubbed(argument) for argument in record.args)
    return True


def guard_access_lines() -> None:
    """Have the access lines of other servers show no ticket and no token of a URL. Idempotent."""
    for name in ACCESS:
        logging.getLogger(name).addFilter(_hide_secrets)


class Handler(logging.StreamHandler[Any]):
    """Standard error. A record that cannot be written is told of without what is in it."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's
        """See `Handler`, which would print the record as it is."""
        try:
            kind = sys.exc_info()[0]
            name = "nothing" if kind is None else kind.__name__
            sys.stderr.write(f"a record of {one_line(scrub(record.name))} could not be written: {name}\n")
        except (OSError, ValueError):
            pass  # standard error is closed


def set_up(settings: Settings) -> None:
    """Log what the settings ask for, as they ask for it; and nothing goes to standard error by another way."""
    hide(*in_settings(settings))
    handler = Handler()
    handler.setFormatter(Json() if settings.log_format == "json" else Text())
    logging.basicConfig(handlers=[handler], level=settings.log_level.upper(), force=True)
    for chatty in ("httpcore", "httpcore2", "httpx", "httpx2", "openai"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    logging.captureWarnings(capture=True)
    logger = logging.getLogger("twinwire")

    def uncaught(kind: Any, error: Any, trace: Any) -> None:
        if not issubclass(kind, Exception):
            sys.__excepthook__(kind, error, trace)
        else:
            logger.critical("The program failed.", exc_info=(kind, error, trace))

    def in_thread(failed: threading.ExceptHookArgs) -> None:
        logger.critical("A thread failed.", exc_info=failed.exc_value)

    def unraisable(failed: Any) -> None:
        logger.error("An error could not be raised.", exc_info=failed.exc_value)

    sys.excepthook, threading.excepthook, sys.unraisablehook = uncaught, in_thread, unraisable

"""The failures of a model's server, in the words of each provider: an `UpstreamError` for each kind."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any

from twinwire.models.openai.fields import count_of
from twinwire.protocol.errors import UpstreamError

MAX_WORDS = 4096
"""The number of characters of a server's words that are read."""

_CONTEXT = re.compile(  # each provider's words for a conversation that is too long; `test_failures.py`
    r"context[ _-]?(length|window|size|limit|overflow)|exceed_context"
    r"|(prompt|input|inputs|message|messages|conversation|request)( token count| length| tokens)?"
    r"( is| are|:)?( too long| too large for model| exceeds? (the )?(max|limit|model))"
    r"|token count.{0,40}(exceeds|only supports)|number of (input|prompt) tokens.{0,20} exceed"
    r"|too many (input |prompt )?tokens(?! per)|reduce the length"
    r"|maximum (prompt|input) length|max(imum)? prompt length"
    r"|tokens_limit_exceeded|max_prompt_tokens|prompt_tokens_exceeded|exceeded model token limit"
    r"|string_above_max_length"
    r"|range of input length|maximum allowed (content|input) length|must (have less than|be <=) \d+"
    r"|tokens to keep from the initial prompt|longer than the maximum model length"
    r"|exceeds? the maximum number of tokens",
    re.IGNORECASE,
)
_RATE = re.compile(
    r"rate.?limit|too many requests|quota|tokens per (min|day)|requests per (min|day)|resource.?exhausted|throttl",
    re.IGNORECASE,
)
_KEY = re.compile(
    r"(invalid|incorrect|missing|no|wrong|bad).{0,8}api.?key|unauthori[sz]ed|authentication|permission.?denied",
    re.IGNORECASE,
)


def garbage(what: str) -> UpstreamError:
    """Build the error for an answer that is none."""
    return UpstreamError(f"The model's server sent {what}.", code="upstream_garbage")


def refused(status: int, body: object, wait: float | None = None) -> UpstreamError:
    """Build the error for an answer of this status, or within an answer if it is 0, and a `wait` as `retry_after`.

    The body is read but not told: it may hold what was sent.
    """
    words, number = str(body)[:MAX_WORDS], f" ({status})" if status else ""
    seconds = None if wait is None else math.ceil(wait)
    if _CONTEXT.search(words) and status in {0, 400, 413, 422, 500} and not (status == 413 and _RATE.search(words)):
        message = f"The conversation is too long for the model{number}."
        return UpstreamError(message, code="upstream_context_length")
    if status == 429 or (status in {0, 413} and _RATE.search(words)):
        message = f"The model's server limits the rate of requests{number}."
        return UpstreamError(message, code="upstream_rate_limited", retry_after=seconds)
    if status in {401, 403} or (status == 0 and _KEY.search(words)):
        return UpstreamError(f"The model's server refused the key{number}.", code="upstream_auth")
    if status == 0:
        return UpstreamError("The model's server reported an error in the middle of its answer.")
    if status >= 500:
        return UpstreamError(f"The model's server failed ({status}).", retry_after=seconds)
    return UpstreamError(f"The model's server refused the request ({status}).", code="upstream_rejected")


def reported(error: Any) -> UpstreamError:
    """Build the error for what a server reports within an answer of status 200: an object, a text, or anything."""
    status = 0
    if isinstance(error, dict):
        found = (count_of(error.get(name)) for name in ("code", "status", "status_code"))
        status = next((number for number in found if 400 <= number < 600), 0)
    failure = refused(0, error)
    return failure if failure.code != UpstreamError.code or not status else refused(status, error)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return for how many seconds a server wants to be left alone, if it says so.

    `Retry-After` is a number of seconds or a date (RFC 9110, section 10.2.3); `retry-after-ms`, of milliseconds, wins.
    """
    for name, unit in (("retry-after-ms", 1000), ("retry-after", 1)):
        value = headers.get(name, "").strip()
        if re.fullmatch(r"[0-9]{1,15}(\.[0-9]{0,9})?", value, re.ASCII):
            return float(value) / unit
    try:
        return max(0.0, parsedate_to_datetime(headers.get("retry-after", "")).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None

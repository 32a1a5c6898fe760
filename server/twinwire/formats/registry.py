"""All formats by name, as `?format=` asks for them over SSE: Twinwire's own, other protocols', and an app's."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType

from msgspec import Struct

from twinwire.fence import report
from twinwire.formats import View, ag_ui, ai_sdk, openai
from twinwire.protocol.events import Record, StreamEvent, decode

logger = logging.getLogger("twinwire.formats")

Transform = Callable[[StreamEvent], bytes | None]
"""An event in an app's own format: the `data` of an SSE block, of one line or several; None leaves the event out."""


class Format(Struct, frozen=True):
    """A format of a run's events over SSE. `view` makes a new view of a run from its first event on.

    `any_cursor` is whether the view may also begin after any other event; `headers` are the answer's.
    """

    view: Callable[[], View]
    any_cursor: bool = False
    headers: Mapping[str, str] = MappingProxyType({})


FORMATS: Mapping[str, Format] = MappingProxyType(
    {
        "ai-sdk": Format(ai_sdk.view, headers=ai_sdk.HEADERS),
        "ag-ui": Format(lambda: ag_ui.Late(ag_ui.Events())),
        "openai": Format(openai.view),
    }
)
"""Other protocols' formats. `native` is none of them: it has options of its own."""


class TransformView:
    """An app's own format. An event for which the function raises is left out; the first of them is logged."""

    def __init__(self, transform: Transform) -> None:
        self._transform = transform
        self._failed = False

    def frames(self, records: Sequence[Record]) -> Sequence[bytes]:
        """See `View`. Each block has the event's id, so that EventSource resumes."""
        frames = []
        for record in records:
            try:
                body = self._transform(decode(record.body))
                lines = b"" if body is None else b"".join(b"data: %b\n" % line for line in body.splitlines() or [b""])
            except BaseException as error:  # noqa: BLE001 - this is the fence: it would end a pump, or an append
                if not self._failed:
                    report(logger, error, "A format failed on %s. The event is left out.", record.id.decode())
                self._failed = True
                continue
            if lines:
                frames.append(b"%bid: %b\n\n" % (lines, record.id))
        return frames


def registry(own: Mapping[str, Transform]) -> Mapping[str, Format]:
    """Return all formats but `native`, with an app's own. Raise `ValueError` if one of those has a name in use."""
    if taken := sorted({*own} & {"native", *FORMATS}):
        raise ValueError(f"An app's formats must have other names than these: {', '.join(taken)}.")
    return {**FORMATS, **{name: Format(partial(TransformView, own[name]), any_cursor=True) for name in own}}

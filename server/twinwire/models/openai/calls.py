"""Tool calls, put together from their deltas: which piece belongs to which call. Servers differ in all they can."""

from __future__ import annotations

import uuid
from typing import Any

from msgspec import Struct

from twinwire.models import ToolCall, bytes_of
from twinwire.models.openai.fields import arguments_of, id_of, index_of, is_object, joined, mended, name_of, settled

_FUNCTION = {"name", "arguments"}
_KNOWN = {"index", "id", "type", "function", *_FUNCTION}


class _Call(Struct):
    """A call that is being put together. `state` is what came with it that we do not know, piece by piece."""

    index: int | None
    id: str = ""
    name: str = ""
    pieces: list[str] = []
    state: list[dict[str, Any]] = []

    @property
    def arguments(self) -> str:
        if len(self.pieces) > 1:
            self.pieces[:] = ["".join(self.pieces)]
        return self.pieces[0] if self.pieces else ""

    @property
    def whole(self) -> bool:
        """Return whether the arguments are all there."""
        return is_object(self.arguments)


class Calls:
    """The calls of one answer.

    A delta goes on with the call of its index, else of its id, else, without either, with the last call. It begins a
    call beside that one if both have ids and these differ; else, if it has a name, and the open call's arguments are a
    whole object. A whole call that comes again is not another one.
    """

    def __init__(self) -> None:
        self.size = 0
        """The bytes of all arguments so far."""
        self._calls: list[_Call] = []

    def __bool__(self) -> bool:
        return bool(self._calls)

    def add(self, delta: Any) -> None:
        """Take in one delta of `tool_calls`, or a `function_call`. Raise `ValueError` for a name that is no text."""
        if not isinstance(delta, dict):
            return
        function = delta.get("function")
        if not isinstance(function, dict):
            function = delta  # as in `function_call`
        name, arguments = name_of(function.get("name")), arguments_of(function.get("arguments"))
        index, call_id = index_of(delta.get("index")), id_of(delta.get("id"))
        call = self._open(index, call_id, name)
        if call is None or self._begins(call, call_id, name, arguments):
            call = _Call(index)
            self._calls.append(call)
        elif name and call.arguments and arguments.strip() == call.arguments.strip() and call.whole:
            arguments = ""  # the whole call again
        call.id = call.id or call_id
        call.name = call.name or name
        if arguments:
            call.pieces.append(arguments)
            self.size += bytes_of(arguments)
        state = {key: value for key, value in delta.items() if key not in _KNOWN and value is not None}
        if function is not delta and (inner := {key: function[key] for key in function.keys() - _FUNCTION}):
            state["function"] = inner
        if state:
            call.state.append(state)

    def end(self, *, cut: bool) -> list[ToolCall]:
        """Return the calls, each with an id of its own. If the answer was `cut`, leave out those that are not whole."""
        ids: set[str] = set()
        calls = []
        for call in self._calls:
            if cut and not call.whole:
                continue
            call_id = call.id if call.id and call.id not in ids else f"call_{uuid.uuid4().hex}"
            ids.add(call_id)
            calls.append(ToolCall(call_id, call.name, mended(settled(call.arguments)), joined("", call.state) or {}))
        return calls

    def _open(self, index: int | None, call_id: str, name: str) -> _Call | None:
        """Return the newest call that a delta may go on with."""
        newest = self._calls[::-1]
        if index is not None:
            for call in newest:
                if call.index == index:
                    return call
        if call_id:
            for call in newest:
                if call.id == call_id:
                    return call
        if not newest or (index is not None and (name or call_id or newest[0].whole)):
            return None
        return newest[0]

    @staticmethod
    def _begins(call: _Call, call_id: str, name: str, arguments: str) -> bool:
        """Return whether a delta that may go on with this call begins another."""
        if call_id and call.id and call_id != call.id:
            return bool(name) or call.whole
        if not name or arguments.strip()[:1] not in {"", "{"} or not call.whole:
            return False
        if (not call.name and not arguments) or (call_id and call_id == call.id and call.arguments.strip() == "{}"):
            return False  # the name is late, or the arguments were a placeholder
        return call.name != name or arguments.strip() not in {"", call.arguments.strip()}

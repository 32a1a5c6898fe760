"""A run as a terminal shows it: events in, text out. Writing it, and what to do about it, are `chat`'s."""

from __future__ import annotations

import json
import re
from typing import Any, Protocol

BAR = "progress"
BAR_WIDTH = 20
_ERASED = "\r\x1b[2K"
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class Shown(Protocol):
    """The parts of an event that are shown. The Python client's events have them, and the server's too."""

    type: str
    data: dict[str, Any]


class Terminal:
    """Renders one run. With `style` (on a terminal) the model's thinking is shown too, dimmed, and a bar of progress.

    The bar is a line that is written anew until something else comes. `said` are the ids of the answers and messages
    that come from this terminal.
    """

    def __init__(self, *, style: bool) -> None:
        self.said: set[str] = set()
        self._style = style
        self._spoken = False  # there was a text since the newest step began
        self._line = ""  # what the unfinished line holds: "answer", "thinking", a tool's call, `BAR`, or nothing

    def render(self, event: Shown) -> str:
        """Return what this event adds to the screen."""
        data = event.data
        match event.type:
            case "AGENT_START":
                return self._block(f"🚀 {data.get('config', {}).get('agent', 'agent')} start")
            case "STEP_START":
                self._spoken = False
                return self._block(f"📍 step {data.get('step')}")
            case "PROGRESS":
                return self._bar(data.get("progress"))
            case "THINKING":
                return self._flow("thinking", f"\x1b[2m{plain(data.get('content'))}\x1b[0m") if self._style else ""
            case "LLM_CHUNK":
                self._spoken = True
                return self._flow("answer", plain(data.get("content")))
            case "TOOL_CALL_START":
                return self._flow(f"tool {data.get('tool_call_id')}", f"  🔧 {plain(data.get('tool_name'))}...")
            case "TOOL_CALL_FINISH":
                mark = "✅" if data.get("status") == "ok" else "❌"
                if self._line == f"tool {data.get('tool_call_id')}":
                    return self._block(mark, before=" ")
                return self._block(f"  🔧 {plain(data.get('tool_name'))}... {mark}")
            case "INPUT_REQUESTED":
                return self._block(_asked(data))
            case "INPUT_ANSWERED":
                return self._block(_answered(data, self._who(data)))
            case "USER_MESSAGE":
                who = self._who(data).removeprefix(" by ").strip()
                return self._block(f"💬 {who}{': ' if who else ''}{data.get('content')}")
            case "RUN_RESUMED" if data.get("void_after") is not None:
                self._spoken = bool(data.get("text"))
                return self._block("🔁 interrupted here; going on")
            case "AGENT_FINISH":
                ends = {
                    "incomplete": f"🛑 cut off: {plain(data.get('finish_reason'))}",
                    "cancelled": "🛑 cancelled",
                    "max_steps": "🛑 stopped: too many steps",
                }
                return self._result(data) + self._block(ends.get(str(data.get("status")), "🎉 done"))
            case "ERROR":
                return self.close()
        return ""

    def close(self) -> str:
        """Return the text that ends an unfinished line."""
        unfinished, self._line = self._line, ""
        if unfinished == BAR:
            return _ERASED
        return "\n" if unfinished else ""

    def _who(self, data: dict[str, Any]) -> str:
        """Return who else said something, or nothing if it comes from this terminal."""
        if data.get("message_id") in self.said:
            return ""
        return f" by {data['by']}" if data.get("by") else " elsewhere"

    def _bar(self, progress: object) -> str:
        """Return how far the run is, in percent; not in the middle of another line."""
        if not (isinstance(progress, int | float) and 0 <= progress <= 100):
            return ""
        if not self._style or self._line not in {"", BAR}:
            return ""
        self._line = BAR
        filled = round(BAR_WIDTH * progress / 100)
        return f"{_ERASED}  \x1b[2m{'█' * filled}{'░' * (BAR_WIDTH - filled)} {progress:.0f} %\x1b[0m"

    def _result(self, data: dict[str, Any]) -> str:
        """Return an answer that is in the result alone; as JSON, if it is no text."""
        result = data.get("result")
        if self._spoken or result is None or result == "" or data.get("status") == "cancelled":
            return ""
        return self._flow("answer", plain(result) if isinstance(result, str) else _json(result))

    def _block(self, text: str, before: str | None = None) -> str:
        """A line of its own, or with `before` the end of the unfinished one."""
        end = self.close()
        return f"{end if before is None else before}{plain(text)}\n"

    def _flow(self, line: str, text: str) -> str:
        """More of the unfinished line, if that is this one; else its beginning."""
        end = "" if self._line == line else self.close()
        self._line = "" if line == "answer" and text.endswith("\n") else line
        return end + text


def _asked(data: dict[str, Any]) -> str:
    """Return a question as lines."""
    if data.get("kind") != "approval":
        return f"❓ {data.get('prompt')}"
    return f"✋ {data.get('prompt')}\n   {data.get('tool_name')} {_json(data.get('parameters'))}"


def _answered(data: dict[str, Any], who: str) -> str:
    """Return how a question was answered."""
    if data.get("expired"):
        return "⌛ not answered in time"
    answer = data.get("answer")
    match answer if isinstance(answer, dict) else {}:
        case {"decision": "approve", "parameters": parameters}:
            return f"👍 approved{who}, with {_json(parameters)}"
        case {"decision": "approve"}:
            return f"👍 approved{who}"
        case {"decision": "reject", "reason": reason}:
            return f"👎 rejected{who}: {reason}"
        case {"decision": "reject"}:
            return f"👎 rejected{who}"
    return f"👉 answered{who}: {answer if isinstance(answer, str) else _json(answer)}"


def _json(value: object) -> str:
    """Return JSON in which each character can be seen: what is approved must not look like something else."""
    text = json.dumps(value, ensure_ascii=False)
    return "".join(each if each.isprintable() else json.dumps(each)[1:-1] for each in text)


def plain(text: object) -> str:
    """Text that cannot steer a terminal: a model may say anything, control sequences too."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", str(text).replace("\r\n", "\n"))

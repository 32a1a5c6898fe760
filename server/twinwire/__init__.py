"""Twinwire serves an LLM agent's event stream over Server-Sent Events and WebSocket from one source.

The names below are the public ones. They are imported when first used: a client pulls in no server, and nobody the
model's SDK who does not ask a model.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from twinwire.agents import Agent, AgentLimits, RunRequest
    from twinwire.agents.functions import call_request, tool
    from twinwire.agents.given import Progress, ToolEnd, ToolStart
    from twinwire.agents.react import ReActAgent
    from twinwire.agents.simple import SimpleAgent
    from twinwire.agents.spec import AgentSpec
    from twinwire.agents.talk import Call, Decision, Said
    from twinwire.agents.threads import from_thread
    from twinwire.models import ChatModel, Finish, ShapedModel, Text, Thinking, ToolCall, Usage
    from twinwire.models.demo import DemoModel
    from twinwire.models.openai.model import OpenAIChatModel
    from twinwire.protocol.errors import InputExpired, InputNotPossible, TwinwireError
    from twinwire.protocol.events import StreamEvent, StreamEventType
    from twinwire.runs.endings import EndedRun
    from twinwire.settings import Settings
    from twinwire.telemetry.ids import log_ids
    from twinwire.tools.ask import AskTool
    from twinwire.tools.base import Tool, ToolError, ToolRegistry, call_key
    from twinwire.tools.read import ReadTool
    from twinwire.tools.search import SearchTool
    from twinwire.web.app import create_app
    from twinwire.web.twinwire import RunHandle, Twinwire

__version__ = "0.1.0"

_HOME = {
    "Agent": "agents",
    "AgentLimits": "agents",
    "AgentSpec": "agents.spec",
    "AskTool": "tools.ask",
    "Call": "agents.talk",
    "ChatModel": "models",
    "Decision": "agents.talk",
    "DemoModel": "models.demo",
    "EndedRun": "runs.endings",
    "Finish": "models",
    "InputExpired": "protocol.errors",
    "InputNotPossible": "protocol.errors",
    "OpenAIChatModel": "models.openai.model",
    "Progress": "agents.given",
    "ReActAgent": "agents.react",
    "ReadTool": "tools.read",
    "RunHandle": "web.twinwire",
    "RunRequest": "agents",
    "Said": "agents.talk",
    "SearchTool": "tools.search",
    "Settings": "settings",
    "ShapedModel": "models",
    "SimpleAgent": "agents.simple",
    "StreamEvent": "protocol.events",
    "StreamEventType": "protocol.events",
    "Text": "models",
    "Thinking": "models",
    "Tool": "tools.base",
    "ToolCall": "models",
    "ToolEnd": "agents.given",
    "ToolError": "tools.base",
    "ToolRegistry": "tools.base",
    "ToolStart": "agents.given",
    "Twinwire": "web.twinwire",
    "TwinwireError": "protocol.errors",
    "Usage": "models",
    "call_key": "tools.base",
    "call_request": "agents.functions",
    "create_app": "web.app",
    "from_thread": "agents.threads",
    "log_ids": "telemetry.ids",
    "tool": "agents.functions",
}

__all__ = [
    "Agent",
    "AgentLimits",
    "AgentSpec",
    "AskTool",
    "Call",
    "ChatModel",
    "Decision",
    "DemoModel",
    "EndedRun",
    "Finish",
    "InputExpired",
    "InputNotPossible",
    "OpenAIChatModel",
    "Progress",
    "ReActAgent",
    "ReadTool",
    "RunHandle",
    "RunRequest",
    "Said",
    "SearchTool",
    "Settings",
    "ShapedModel",
    "SimpleAgent",
    "StreamEvent",
    "StreamEventType",
    "Text",
    "Thinking",
    "Tool",
    "ToolCall",
    "ToolEnd",
    "ToolError",
    "ToolRegistry",
    "ToolStart",
    "Twinwire",
    "TwinwireError",
    "Usage",
    "call_key",
    "call_request",
    "create_app",
    "from_thread",
    "log_ids",
    "tool",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"The module {__name__!r} has no attribute {name!r}.")
    value = getattr(import_module(f"twinwire.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)

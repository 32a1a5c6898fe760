"""The contract of a tool, and the registry an agent looks tools up in.

A tool knows nothing of runs, logs or transports.
"""

from __future__ import annotations

from twinwire.tools.ask import AskTool
from twinwire.tools.base import Effects, Tool, ToolError, ToolRegistry, ToolResult, call_key
from twinwire.tools.read import ReadTool
from twinwire.tools.search import SearchTool

__all__ = [
    "AskTool",
    "Effects",
    "ReadTool",
    "SearchTool",
    "Tool",
    "ToolError",
    "ToolRegistry",
    "ToolResult",
    "call_key",
]

"""The tool that the demo model needs an approval for. It does nothing, so that a newcomer can say yes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from msgspec import Meta, Struct

from twinwire.tools.base import Tool, parse, schema


class SendParameters(Struct, forbid_unknown_fields=True):
    """The parameters that a model gives."""

    to: Annotated[str, Meta(max_length=256, description="The address to send to")]
    text: Annotated[str, Meta(max_length=4096, description="The text to send")]


class SendTool(Tool):
    """Plays at sending a message, as a tool that would need an approval."""

    name = "Send"
    description = "Pretend to send a message. Nothing is sent: this tool shows what an approval looks like."
    parameters = schema(SendParameters)

    async def run(self, parameters: Mapping[str, Any]) -> str:
        """Return the sentence that nothing was sent. Raise `ToolError`."""
        asked = parse(parameters, SendParameters)
        return f'"{asked.text}" would have gone to {asked.to}. This is a demo: nothing was sent.'

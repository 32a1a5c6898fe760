"""The Ask tool: a model's question to the user of its run. The ReActAgent asks it, since a tool knows of no run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from twinwire.tools.base import Tool, ToolError, parse


class Question(Struct, forbid_unknown_fields=True):
    """The parameters that a model gives: the question, and the form of its answer, a text if there is none."""

    question: str
    schema: dict[str, Any] | None = None


class AskTool(Tool):
    """Lets a model ask its user. Its call is no tool call of the run's, but a question: `RunRequest.ask`."""

    name = "Ask"
    description = (
        "Ask the user a question and wait for the answer. Ask only what you cannot find out or decide yourself."
    )
    parameters: Mapping[str, Any] = {
        "type": "object",
        "properties": {
            "question": {"type": "string", "description": "The question, in the user's language"},
            "schema": {
                "type": "object",
                "description": (
                    "The answer's JSON Schema; without it the answer is a text. Either one value: a string (enum, "
                    "minLength, maxLength, format), a number or an integer (minimum, maximum), or a boolean. Or an "
                    "object whose properties are such values. Each may have title, description and default."
                ),
            },
        },
        "required": ["question"],
    }
    effects = "none"

    @staticmethod
    def question(parameters: Mapping[str, Any]) -> Question:
        """Return a call as a question. Raise `ToolError`."""
        return parse(parameters, Question)

    async def run(self, parameters: Mapping[str, Any]) -> str:
        """Raise `ToolError`: whoever calls this as a tool has no user to ask."""
        self.question(parameters)
        raise ToolError("The user cannot be asked here.")

"""The SimpleAgent: one call of a model, no tools."""

from __future__ import annotations

from collections.abc import Collection

from twinwire.agents.react import ReActAgent
from twinwire.models import ChatModel

SYSTEM_PROMPT = "You are a helpful assistant. Answer briefly, in Markdown and in the user's language."


class SimpleAgent(ReActAgent):
    """The same loop and the same events as the ReActAgent's, with one step and no tools. It reads no messages."""

    takes_messages = False

    def __init__(
        self, name: str, model: ChatModel, *, system_prompt: str | None = None, accepts: Collection[str] = ()
    ) -> None:
        prompt = SYSTEM_PROMPT if system_prompt is None else system_prompt
        super().__init__(name, model, max_steps=1, system_prompt=prompt, accepts=accepts)

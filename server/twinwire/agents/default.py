"""The agents of a server that is given none: `react`, with the Read and Search tools, and `simple`."""

from __future__ import annotations

from twinwire.agents import Agent
from twinwire.agents.react import ReActAgent
from twinwire.agents.simple import SimpleAgent
from twinwire.models import ChatModel
from twinwire.models.demo import DemoModel
from twinwire.models.local import LocalModel
from twinwire.protocol.errors import SettingsError
from twinwire.settings import Settings
from twinwire.tools import AskTool, ReadTool, SearchTool, ToolRegistry
from twinwire.tools.demo import SendTool


def default_model(settings: Settings) -> ChatModel:
    """The model the settings name, or the demo. Raises `SettingsError`."""
    if settings.model_option and (settings.demo or settings.local is not None):
        raise SettingsError(
            "`--model-option` requires a model's server, `--base-url` or a key. "
            f"The {'demo' if settings.demo else 'local'} model has no options.",
            field="--model-option",
        )
    if settings.demo:
        return DemoModel(settings.demo_rate)
    if settings.local is not None:
        return LocalModel(settings.local, context=settings.local_context, timeout=settings.model_timeout)
    from twinwire.models.openai.model import OpenAIChatModel
    from twinwire.models.openai.options import from_settings

    return OpenAIChatModel(
        settings.model,
        api_key=settings.api_key,
        base_url=settings.base_url,
        timeout=settings.model_timeout,
        **from_settings(settings.model_option, "--model-option "),
    )


def default_agents(settings: Settings, model: ChatModel) -> dict[str, Agent]:
    """`react` and `simple` on this model; the demo model also has a tool that asks, and one that needs approval."""
    tools = ToolRegistry()
    tools.register_tool(ReadTool(settings.project_root))
    tools.register_tool(SearchTool(settings.project_root))
    if settings.demo:
        tools.register_tool(AskTool())
        tools.register_tool(SendTool(), approval=True)
    return {
        "react": ReActAgent("react", model, tools),
        "simple": SimpleAgent("simple", model),
    }

"""An agent with policies of its own: `AgentSpec`."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any

from twinwire.agents import Agent
from twinwire.agents.check import check_agent


@dataclass(frozen=True)
class AgentSpec:
    """An agent, and the policies of its runs. None is the server's setting.

    Durations are seconds, or texts such as `90s`, `5m`, `1h` and `3d`: `timeout` is a run's deadline (`run_timeout`),
    `retention` the time that a run is kept after its end. `on_disconnect` holds if a start names none. `max_steps`,
    `max_tool_calls`, `tool_timeout` and `model_timeout` are `RunRequest.limits`, for the agent to keep to; an
    `OpenAIChatModel` keeps to the last, unless it is made with a `timeout`. `accepts` names what the agent reads beside
    a text, in a mapping with types; None is what its attribute `accepts` has, or nothing. `resumable` says that it goes
    on from `RunRequest.past`, so that another process can go on with its runs; None is what its attribute `resumable`
    says, or no. Raises `SettingsError` for an agent that is none.
    """

    agent: Agent
    _: KW_ONLY
    timeout: float | str | None = None
    on_disconnect: str | None = None
    retention: float | str | None = None
    accepts: Collection[str] | Mapping[str, Any] | None = None
    resumable: bool | None = None
    max_steps: int | None = None
    max_tool_calls: int | None = None
    tool_timeout: float | str | None = None
    model_timeout: float | str | None = None

    def __post_init__(self) -> None:
        check_agent(self.agent)


def spec_of(agent: Agent | AgentSpec) -> AgentSpec:
    """Return an agent's spec: that of a bare agent has no policies."""
    return agent if isinstance(agent, AgentSpec) else AgentSpec(agent)

"""The policies of each agent's runs: what its `AgentSpec` says, over the server's settings. Read once."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import UNSET, Struct, UnsetType

from twinwire import settings
from twinwire.agents import AgentLimits
from twinwire.agents.spec import AgentSpec
from twinwire.log import Quota
from twinwire.protocol.errors import BadRequest
from twinwire.protocol.wire import parse_on_disconnect
from twinwire.runs.spec import RunSpec

_READ_AS = {"timeout": "run_timeout", "retention": "retention"} | {name: name for name in AgentLimits.__struct_fields__}
"""The fields of a spec, and the setting whose form and bounds each has."""


class Policy(Struct, frozen=True, kw_only=True):
    """The policies of one agent's runs; times in seconds.

    `orphan_timeout` is that of a run whose start names no `on_disconnect`: None for no limit, UNSET for what the way
    that it was started says. `retention` is None for the log's own, `model_timeout` for what each model is made with.
    If the agent is `resumable`, another process can go on with its runs.
    """

    deadline: float
    limits: AgentLimits
    orphan_timeout: float | UnsetType | None = UNSET
    retention: float | None = None
    model_timeout: float | None = None
    resumable: bool = False

    def orphaned(self, spec: RunSpec) -> float | None:
        """Return the seconds that a run which is started so may go on with nobody following it; None for no limit."""
        own = self.orphan_timeout
        return spec.orphan_timeout if isinstance(own, UnsetType) or not spec.by_default else own

    def quota(self, quota: Quota | None) -> Quota | None:
        """Return the user's quota, as the start of such a run counts in it."""
        return None if quota is None else msgspec.structs.replace(quota, longest=self.deadline)


def policies(agents: Mapping[str, AgentSpec], *, deadline: float, limits: AgentLimits) -> dict[str, Policy]:
    """Return the policies of these agents by their names. `deadline` and `limits` are the server's.

    Raise `ValueError` for a field that is wrong; the message names it and its agent.
    """
    return {name: _policy(name, spec, deadline, limits) for name, spec in agents.items()}


def longest(known: Mapping[str, Policy]) -> float:
    """Return the longest deadline of any run."""
    return max(policy.deadline for policy in known.values())


def _policy(name: str, spec: AgentSpec, deadline: float, limits: AgentLimits) -> Policy:
    told = {field: value for field in _READ_AS if (value := getattr(spec, field)) is not None}
    own = {field: settings.read(_READ_AS[field], value, field, f"the agent {name}") for field, value in told.items()}
    timeout, retention = own.pop("timeout", deadline), own.pop("retention", None)
    return Policy(
        deadline=timeout,
        limits=msgspec.structs.replace(limits, **own),
        orphan_timeout=UNSET if spec.on_disconnect is None else _orphan_timeout(name, spec.on_disconnect),
        retention=retention,
        model_timeout=own.get("model_timeout"),
        resumable=_resumable(name, spec),
    )


def _resumable(name: str, spec: AgentSpec) -> bool:
    own = inspect.getattr_static(spec.agent, "resumable", None) is not None  # not one that a mock makes up
    told: Any = own and spec.agent.resumable if spec.resumable is None else spec.resumable  # type: ignore[attr-defined]
    if not isinstance(told, bool):
        raise ValueError(f"`resumable` of the agent {name} must be True or False, not {str(told)[:80]!r}.")  # noqa: TRY004 - as of the others
    return told


def _orphan_timeout(name: str, text: Any) -> float | None:
    try:
        return parse_on_disconnect(text)
    except (BadRequest, TypeError):
        raise ValueError(
            f"`on_disconnect` of the agent {name} must be `continue`, `cancel` or `cancel_after:<seconds>`, "
            f"not {str(text)[:80]!r}."
        ) from None

"""Runs: the only owner of agent tasks. Starts, cancels and drains them; each writes its own log, nobody else does.

A run does not know who follows it, only how many: what happens to a run that nobody follows is its policy.
"""

from __future__ import annotations

from twinwire.runs.budget import Budget
from twinwire.runs.registry import Runs
from twinwire.runs.spec import RunSpec

__all__ = ["Budget", "RunSpec", "Runs"]

"""What the suites share with the faults: chance with a seed that is told."""

from __future__ import annotations

from faults.conftest import chance

__all__ = ["chance"]

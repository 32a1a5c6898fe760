"""What `/metrics` tells, read by a client."""

from __future__ import annotations

import httpx
from prometheus_client.parser import text_string_to_metric_families


async def figures(url: str) -> dict[tuple[str, ...], float]:
    """All samples, by name and the values of their labels in the order of the labels' names."""
    async with httpx.AsyncClient(trust_env=False, verify=False, timeout=20) as client:
        text = (await client.get(f"{url}/metrics")).text
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {(s.name, *(value for _, value in sorted(s.labels.items()))): s.value for s in samples}

"""EventSource libraries of PyPI: each follows the run at its own URL, and resumes it as its users do.

Run in the environment of this folder. Standard input has the URL for each library; standard output tells what each saw.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import aiohttp
import aiosseclient
import httpx
import httpx_sse
import requests
import requests_sse
import sseclient
from aiohttp_sse_client2.client import EventSource
from ld_eventsource import SSEClient
from ld_eventsource.actions import Event as LaunchDarklyEvent
from ld_eventsource.config import ErrorStrategy, RetryDelayStrategy

Event = tuple[str | None, str | None, str]
"""Its id, type and data."""
RETRY = 0.02
BROKEN = (OSError, httpx.TransportError, requests.RequestException, aiohttp.ClientError)


def with_httpx_sse(url: str, headers: dict[str, str]) -> Iterator[Event]:
    with httpx.Client(trust_env=False) as client, httpx_sse.connect_sse(client, "GET", url, headers=headers) as source:
        for event in source.iter_sse():
            yield event.id, event.event, event.data


def with_requests_sse(url: str, headers: dict[str, str]) -> Iterator[Event]:
    """Reconnects by itself, some of the time."""
    with requests_sse.EventSource(url, headers=headers, reconnection_time=timedelta(seconds=RETRY)) as source:
        for event in source:
            yield event.last_event_id, event.type, event.data


def with_sseclient_py(url: str, headers: dict[str, str]) -> Iterator[Event]:
    with requests.get(url, headers=headers, stream=True, timeout=30) as response:
        for event in sseclient.SSEClient(response.iter_content(chunk_size=None)).events():
            yield event.id, event.event, event.data


def with_launchdarkly_eventsource(url: str, headers: dict[str, str]) -> Iterator[Event]:
    """Reconnects by itself, always."""
    assert not headers, "it came back"
    client = SSEClient(
        url,
        initial_retry_delay=RETRY,
        retry_delay_strategy=RetryDelayStrategy.default(max_delay=5 * RETRY),  # else it comes to half a minute
        error_strategy=ErrorStrategy.always_continue(),
    )
    for event in client.all:
        if isinstance(event, LaunchDarklyEvent):
            yield event.last_event_id, event.event, event.data
    client.close()


async def with_aiohttp_sse_client2(url: str, headers: dict[str, str]) -> AsyncIterator[Event]:
    async with EventSource(url, headers=headers, reconnection_time=timedelta(seconds=RETRY)) as source:
        async for event in source:
            yield event.last_event_id, event.type, event.data


async def with_aiosseclient(url: str, headers: dict[str, str]) -> AsyncIterator[Event]:
    async for event in aiosseclient.aiosseclient(url, headers=headers):
        yield event.id, event.event, event.data


def over(seen: list[Event]) -> bool:
    return bool(seen) and seen[-1][1] in {"AGENT_FINISH", "ERROR"}


def headers(seen: list[Event]) -> dict[str, str]:
    """The cursor to resume with."""
    return {"Last-Event-ID": str(seen[-1][0])} if seen else {}


def follow(connect: Callable[[str, dict[str, str]], Iterator[Event]], url: str) -> list[Event]:
    seen: list[Event] = []
    while not over(seen):
        try:
            for event in connect(url, headers(seen)):
                seen += [event] if event[2] else []
                if over(seen):
                    break
        except BROKEN:
            time.sleep(RETRY)
    return seen


async def follow_asynchronously(
    connect: Callable[[str, dict[str, str]], AsyncIterator[Event]], url: str
) -> list[Event]:
    seen: list[Event] = []
    while not over(seen):
        try:
            async for event in connect(url, headers(seen)):
                seen += [event] if event[2] else []
                if over(seen):
                    break
        except BROKEN:
            await asyncio.sleep(RETRY)
    return seen


SYNCHRONOUS = {
    "httpx-sse": with_httpx_sse,
    "launchdarkly-eventsource": with_launchdarkly_eventsource,
    "requests-sse": with_requests_sse,
    "sseclient-py": with_sseclient_py,
}
ASYNCHRONOUS = {"aiohttp-sse-client2": with_aiohttp_sse_client2, "aiosseclient": with_aiosseclient}


def run(name: str, url: str) -> list[Event]:
    if name in SYNCHRONOUS:
        return follow(SYNCHRONOUS[name], url)
    return asyncio.run(follow_asynchronously(ASYNCHRONOUS[name], url))


def main() -> None:
    urls = json.load(sys.stdin)
    with ThreadPoolExecutor(len(urls)) as pool:
        json.dump(dict(zip(urls, pool.map(run, urls, urls.values()), strict=True)), sys.stdout)


if __name__ == "__main__":
    main()

"""The number of runs that one processor carries: the most whose tokens come in time.

    uv run python -m benchmarks.capacity [--rate 50] [--seconds 4] [--most 2000] [--runs 400] [--json | --out DIR]

For each log, transport and kind of agent: each run gives `rate` tokens a second to one follower. A token's added
latency counts from the time at which it was due, or in a relay from the time at which the model's server wrote it. `in
time`: 99 of 100 tokens add no more than 20 ms, or 100 ms. The number of runs is halved in until it is known to a
twentieth; what is measured has a processor of its own, and the load, the model's server and Valkey share the others.
If those are full first, the figure is a lower bound.

`own` agents yield; `relay` passes on the tokens of an OpenAI-compatible server. In the same run the same work is done
by nginx (relay), by an ASGI app on uvicorn and by Node (own), none of which has a log. `at 400` is the CPU per token of
so many runs; `ratio` is over that of the log in memory, with Valkey's own CPU apart. `at 70 %` is the latency there.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from benchmarks.command import Report, command
from benchmarks.generators import BUSY, Generators, generators
from benchmarks.histogram import Histogram
from benchmarks.load import Ask
from benchmarks.processes import ROOT, program, twinwire
from benchmarks.relay import nginx, straight
from benchmarks.schedule import Load
from benchmarks.targets import AGENT, FLAGS, Target, peer_of
from benchmarks.workers import Site

sys.path.insert(0, str(ROOT / "tests"))
from support import redis_server

BOUNDS = {"p99_20": 20.0, "p99_100": 100.0}  # ms
FINE = 1.05  # how exactly the number of runs is known
CONNECTING = 0.913  # seconds; no multiple of a token's distance
DELAY = 2.0  # seconds from a run's start to its first token
LEAD = 1.5  # after which all are connected
TRANSPORTS = ("sse", "ws")
LOGS = ("memory", "sqlite", "redis")
Take = dict[str, float]


Asking = Callable[[str, Load], Ask]
"""Returns the request for a run over this transport."""


@contextmanager
def log_of(name: str) -> Iterator[tuple[str, int | None]]:
    """A log of its own, as `--log` names it, and the process that keeps it, if any."""
    with tempfile.TemporaryDirectory(prefix="tw-") as folder:
        if name == "redis":
            with redis_server.own_server(Path(folder), appendonly="no", unixsocket=f"{folder}/s") as store:
                yield f"unix://{folder}/s", store.pid
        else:
            yield "memory://" if name == "memory" else f"sqlite:///{folder}/log.db", None


@contextmanager
def ours(name: str, upstream: str | None) -> Iterator[tuple[Site, Asking]]:
    """Twinwire with this log; its agent is its own, or one that relays what `upstream` gives."""
    with log_of(name) as (log, store):
        agent = (AGENT,) if upstream is None else ("--base-url", upstream, "--model", "m")
        with twinwire(*agent, *FLAGS, "--log", log, environ={"OPENAI_API_KEY": "none"}) as (process, port):
            target = Target("twinwire", "127.0.0.1", port, process, agent=None if upstream is None else "simple")
            yield Site(target, [process.pid], store), target.start


@contextmanager
def asgi(_: str | None) -> Iterator[tuple[Site, Asking]]:
    """An ASGI app on uvicorn."""
    with peer_of("asgi") as target:
        assert target.process is not None
        yield Site(target, [target.process.pid]), target.start


@contextmanager
def node(_: str | None) -> Iterator[tuple[Site, Asking]]:
    """Node's http, and ws."""
    found = shutil.which("node")
    if found is None:
        raise SystemExit("Node is measured beside Twinwire, and is not installed.")
    with program(found, "benchmarks/peers/node.mjs", measured=True) as process:
        target = Target("node", "127.0.0.1", int(process.line), process)
        yield Site(target, [process.pid]), target.start


@contextmanager
def floor(upstream: str | None) -> Iterator[tuple[Site, Asking]]:
    """Nginx before the model's server."""
    assert upstream is not None
    with nginx(upstream.removesuffix("/v1")) as (process, port):
        yield Site(Target("nginx", "127.0.0.1", port, process), [process.pid]), lambda *_: Ask(straight().decode())


def rows() -> list[tuple[str, str, str, Callable[[str | None], Any]]]:
    """Agent, server, transport, and how the server is started."""

    def log(name: str) -> Callable[[str | None], Any]:
        return lambda upstream: ours(name, upstream)

    own = [("own", name, each, log(name)) for each in TRANSPORTS for name in LOGS]
    peers = [("own", name, each, start) for each in TRANSPORTS for name, start in (("uvicorn", asgi), ("node", node))]
    relays = [("relay", name, each, log(name)) for each in TRANSPORTS for name in LOGS]
    return [*own, *peers, ("relay", "nginx", "sse", floor), *relays]


async def measure(
    bench: Generators, site: Site, ask: Asking, transport: str, *, runs: int, rate: float, seconds: float
) -> Take:
    """So many runs at once."""
    count = int(rate * seconds)
    asks = [
        ask(transport, Load(rate=rate, count=count, delay=DELAY + 0.618034 * i % 1 / rate, burst=0.0))
        for i in range(runs)
    ]
    begin, gap = time.monotonic_ns(), CONNECTING / runs
    running = asyncio.ensure_future(bench.run(site.target, asks, begin=begin, gap=gap, seconds=2 * seconds + DELAY + 5))
    await asyncio.sleep(LEAD)
    before = site.cpu()
    out = await running
    server, store = (after - earlier for after, earlier in zip(site.cpu(), before, strict=True))
    latency = Histogram.from_pairs(out.delivery)
    return {
        "runs": runs,
        "failed": out.failed + (runs * count > out.tokens),
        "cpu_us": server * 1e6 / max(1, out.tokens),
        "store_us": store * 1e6 / max(1, out.tokens),
        "p50_ms": latency.quantile(0.5) / 1e6,
        "p99_ms": latency.quantile(0.99) / 1e6,
        "load": out.cpu / out.wall,
    }


async def most(take: Callable[[int], Any], bound: float, highest: int, known: dict[int, Take]) -> int:
    """Return the most runs whose tokens are in time, as exactly as `FINE`."""

    async def good(runs: int) -> bool:
        if runs not in known:
            known[runs] = await take(runs)
        return not known[runs]["failed"] and known[runs]["p99_ms"] <= bound

    low = max((runs for runs, seen in known.items() if not seen["failed"] and seen["p99_ms"] <= bound), default=10)
    high = min((runs for runs, seen in known.items() if seen["failed"] or seen["p99_ms"] > bound), default=0)
    while not high and low < highest:
        step = min(highest, low * 2)
        low, high = (step, 0) if await good(step) else (low, step)
    while high and high / low > FINE:
        middle = round((low * high) ** 0.5)
        if middle in {low, high}:
            break
        low, high = (middle, high) if await good(middle) else (low, middle)
    return low


async def row(
    bench: Generators,
    site: Site,
    ask: Asking,
    transport: str,
    *,
    runs: int,
    rate: float,
    seconds: float,
    highest: int,
) -> Report:
    """All of one server."""

    async def take(count: int) -> Take:
        return await measure(bench, site, ask, transport, runs=count, rate=rate, seconds=seconds)

    await take(50)  # what is loaded once
    at = await take(runs)
    known = {runs: at}
    report: Report = {"at": at}
    for name, bound in BOUNDS.items():
        report[name] = await most(take, bound, highest, known)
    report["at_70"] = await take(max(1, report["p99_20"] * 7 // 10))
    report["load_bound"] = known.get(report["p99_20"], at)["load"] > BUSY
    return report


async def run(rate: float, seconds: float, runs: int, most: int) -> Report:
    """All of it."""
    found: dict[str, Report] = {}
    serving = (sys.executable, "-m", "benchmarks.upstream", f"{rate}", f"{int(rate * seconds)}", f"{DELAY}")
    async with generators() as bench:
        for agent, server, transport, start in rows():
            with ExitStack() as stack:
                upstream = stack.enter_context(program(*serving)).line if agent == "relay" else None
                site, ask = stack.enter_context(start(upstream))
                key = f"{agent}, {server}, {transport}"
                print(key, file=sys.stderr)
                found[key] = await row(bench, site, ask, transport, runs=runs, rate=rate, seconds=seconds, highest=most)
    for key, of in found.items():
        agent, server, transport = key.split(", ")
        if server in LOGS:
            of["ratio"] = of["at"]["cpu_us"] / found[f"{agent}, memory, {transport}"]["at"]["cpu_us"]
    return {"rate": rate, "seconds": seconds, "at": runs, "rows": found}


def table(report: Report) -> str:
    """The report as a Markdown table."""
    runs = report["at"]
    lines = [
        f"Runs of {report['rate']:g} tokens/s that one processor carries.",
        "",
        f"| agent, server, transport | p99 <= 20 ms | <= 100 ms | at 70 %, p50; p99 | {runs} runs | ratio | Valkey |",
        "|---|---|---|---|---|---|---|",
    ]
    for key, of in report["rows"].items():
        least = "at least " if of["load_bound"] else ""
        at, calm = of["at"], of["at_70"]
        ratio = f"{of['ratio']:.2f}" if "ratio" in of else ""
        store = f"{at['store_us']:.1f} us" if at["store_us"] else ""
        lines.append(
            f"| {key} | {least}{of['p99_20']:,} | {least}{of['p99_100']:,} | "
            f"{calm['p50_ms']:.1f}; {calm['p99_ms']:.1f} ms | {at['cpu_us']:.1f} us | {ratio} | {store} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    command(__doc__ or "", run, table, published="capacity", rate=50.0, seconds=4.0, runs=400, most=2000)

"""The figures: how each is called and shown, whether less is better, and which ones each profile is about."""

from __future__ import annotations

import math
from dataclasses import dataclass

QUANTILE_NAMES = ("p50", "p90", "p99", "p99.9", "max")


@dataclass(frozen=True)
class Metric:
    """A figure. What is stored is divided by `scale` to be shown in `unit`."""

    label: str
    unit: str
    scale: float = 1.0
    less_is_better: bool = True
    places: int = 3

    def show(self, value: float | None) -> str:
        """For a person, without the unit: three figures that count, and so many decimal places at most."""
        if value is None:
            return "-"
        shown = value / self.scale
        places = min(self.places, max(0, 2 - math.floor(math.log10(shown)))) if shown > 0 else 0
        return f"{shown:,.{places}f}"


_TIMES = {
    "delivery": Metric("delivery", "ms", 1e6),
    "first": Metric("time to first token", "ms", 1e6),
    "gaps": Metric("between tokens", "ms", 1e6),
    "connect": Metric("connecting", "ms", 1e6),
    "resume": Metric("reconnect and resume", "ms", 1e6),
    "cancel_close": Metric("cancel by closing", "ms", 1e6),
    "cancel_command": Metric("cancel by command", "ms", 1e6),
}
METRICS = {
    f"{name}.{quantile}": Metric(f"{time.label}, {quantile}", time.unit, time.scale)
    for name, time in _TIMES.items()
    for quantile in QUANTILE_NAMES
} | {
    "server_us": Metric("server CPU per token", "µs"),
    "load_us": Metric("load generator CPU per token", "µs"),
    "client_us": Metric("client CPU per event, from the log", "µs"),
    "client_live_us": Metric("client CPU per event, live", "µs"),
    "run_us": Metric("server CPU per run", "µs", places=0),
    "throughput": Metric("throughput", "tokens/s", less_is_better=False, places=0),
    "wire_bytes": Metric("bytes per token", "B"),
    "framing_bytes": Metric("of these framing", "B"),
    "head_bytes": Metric("response head", "B", places=0),
    "connect_us": Metric("server CPU per connection", "µs", places=0),
    "memory": Metric("memory per connection", "kB", 1024),
    "resume_us": Metric("server CPU per resumption", "µs", places=0),
    "reconnects": Metric("reconnects", "", places=0),
    "slow_cuts": Metric("slow reader cut off", "times", places=0),
    "slow_whole": Metric("slow reader whole in the end", "of 1", less_is_better=False, places=0),
}

_LATENCIES = ("delivery.p50", "delivery.p90", "delivery.p99", "delivery.p99.9", "delivery.max")
SHOWN: dict[str, tuple[str, ...]] = {
    "first": ("first.p50", "first.max", "run_us"),
    "chat": (
        *_LATENCIES,
        "gaps.p50",
        "gaps.p99",
        "server_us",
        "wire_bytes",
        "framing_bytes",
        "head_bytes",
    ),
    "many": ("first.p50", "first.p99", *_LATENCIES, "server_us"),
    "fanout": (*_LATENCIES, "server_us"),
    "saturate": ("throughput", "server_us"),
    "client": ("client_us", "client_live_us"),
    "cancel": ("cancel_close.p50", "cancel_close.max", "cancel_command.p50", "cancel_command.max"),
    "resume": ("resume.p50", "resume.max", "resume_us"),
    "idle": ("connect.p50", "connect.max", "connect_us", "memory"),
    "lossy": (*_LATENCIES, "reconnects"),
    "tls": ("first.p50", *_LATENCIES, "server_us"),
    "slow": (*_LATENCIES, "slow_cuts", "slow_whole"),
}
ABOUT = {
    "first": "short runs one after another: connect, start, the first token",
    "chat": "1 run, 1 follower, at a fast model's pace",
    "many": "many runs at once, each with its follower",
    "fanout": "1 run, many followers",
    "saturate": "16 runs as fast as their tokens are taken: what one core does",
    "client": "Twinwire's own Python client reads a run from the log, and follows one that goes on",
    "cancel": "from the cancel's sending until the agent has stopped",
    "resume": "reconnect with a cursor, and read the rest of a run that is over",
    "idle": "connections to a run that says nothing",
    "lossy": "many runs on a bad network: 20 to 30 ms away, 2 % of reads 200 ms late, resets",
    "tls": "as many, behind TLS",
    "slow": "1 run of long tokens, 20 followers, and one who does not read for two seconds",
}
_UNJUDGED = ("slow_cuts", "slow_whole", "reconnects", "head_bytes", "framing_bytes", ".max", ".p90")


def judged(profile: str) -> list[str]:
    """The figures of a profile that verdicts are made of."""
    return [name for name in SHOWN[profile] if not name.endswith(_UNJUDGED) and not name.startswith("gaps")]

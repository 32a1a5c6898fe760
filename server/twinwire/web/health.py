"""The liveness, the readiness and the metrics of the server."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import chain

from litestar import Response, get
from litestar.di import NamedDependency
from prometheus_client import ProcessCollector, core, generate_latest
from prometheus_client.registry import Collector

from twinwire.protocol.errors import Draining, ModelUnavailable
from twinwire.runs.probe import probe
from twinwire.telemetry.metrics import EVENTS, Histogram
from twinwire.web.guard import PROBE
from twinwire.web.service import Service

_process = ProcessCollector(registry=None)


@get("/healthz", opt=PROBE, summary="Liveness")
async def healthz() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok"}


@get("/readyz", opt=PROBE, summary="Readiness")
async def readyz(service: NamedDependency[Service]) -> dict[str, str]:
    """Answer 200 if a run can be carried out, the log can be reached and the local model runs; else 503 and why not."""
    if service.runs.draining:
        raise Draining
    await probe()
    await service.runs.log.ping()
    if service.local is not None and not service.local.running:
        raise ModelUnavailable
    return {"status": "ready"}


def _counter(name: str, text: str, label: str, counts: Mapping[str, int]) -> core.Metric:
    family = core.CounterMetricFamily(name, text, labels=[label])
    for value in sorted(counts):
        family.add_metric([value], counts[value])
    return family


def _seconds(name: str, text: str, figure: Histogram) -> core.Metric:
    return core.HistogramMetricFamily(f"{name}_seconds", text, buckets=[*figure.buckets()], sum_value=figure.total)


class Collected(Collector):
    """The metrics of this process, read at a scrape: counting costs the hot path little, and a look-up nothing.

    If there are more processes, each sample has the pid of its `worker`.
    """

    def __init__(self, service: Service) -> None:
        self._service = service

    def collect(self) -> Iterator[core.Metric]:
        """See `Collector`."""
        worker = {"worker": str(os.getpid())} if self._service.settings.workers > 1 else {}
        for family in chain(self._runs(), self._times(), self._connections(), _process.collect()):
            family.samples = [sample._replace(labels={**sample.labels, **worker}) for sample in family.samples]
            yield family

    def _runs(self) -> Iterator[core.Metric]:
        runs = self._service.runs
        metrics = self._service.metrics
        yield core.GaugeMetricFamily("twinwire_runs_live", "Runs that go on", len(runs))
        waiting, questions = runs.waiting
        yield core.GaugeMetricFamily("twinwire_runs_waiting", "Runs that wait for their users", waiting)
        yield core.GaugeMetricFamily("twinwire_questions_open", "Questions that no user has answered yet", questions)
        yield core.CounterMetricFamily("twinwire_runs_started", "Runs that were started", runs.started)
        yield _counter("twinwire_runs_ended", "Runs that ended, by how", "status", runs.ended)
        yield _counter("twinwire_cursors", "Wishes to follow a run from a cursor", "verdict", metrics.cursors)
        yield _counter("twinwire_refusals", "Requests and commands that were refused", "code", metrics.refused)

    def _times(self) -> Iterator[core.Metric]:
        metrics = self._service.metrics
        yield _seconds("twinwire_first_token", "From a run's start to the model's first token", metrics.first_token)
        yield _seconds("twinwire_token_gap", "Between a run's tokens, of a sample of them", metrics.token_gap)
        yield _seconds("twinwire_append", "Appends to a log that is not in memory", metrics.append)
        for gauge in self._service.runs.log.gauges():
            yield core.GaugeMetricFamily(f"twinwire_{gauge.name}", gauge.text, gauge.value)
        yield _seconds("twinwire_cancel", "From a run's cancel to its terminal event", metrics.cancelled)

    def _connections(self) -> Iterator[core.Metric]:
        heartbeats = self._service.heartbeats
        lag = Histogram(EVENTS)
        connections, followers = Counter({"sse": 0, "ws": 0}), Counter({"sse": 0, "ws": 0})
        for pump in heartbeats.pumps:
            lags = [*pump.lags()]
            connections[pump.transport] += 1
            followers[pump.transport] += len(lags)
            for events in lags:
                lag.add(events)
        for name, text, counts in (
            ("connections", "Open streams and sockets", connections),
            ("followers", "Cursors of these into runs whose newest events are in memory", followers),
        ):
            gauge = core.GaugeMetricFamily(f"twinwire_{name}", text, labels=["transport"])
            for transport, count in counts.items():
                gauge.add_metric([transport], count)
            yield gauge
        yield core.GaugeHistogramMetricFamily(
            "twinwire_cursor_lag_events", "How far followers are behind", buckets=[*lag.buckets()], gsum_value=lag.total
        )
        accepted = self._service.lifetimes.accepted
        yield core.GaugeMetricFamily("twinwire_accepted", "Accepted connections, those of streams included", accepted)
        closed = core.CounterMetricFamily(
            "twinwire_connections_closed", "Connections that ended, by why", labels=["transport", "verdict"]
        )
        for (transport, verdict), count in heartbeats.closed.items():
            closed.add_metric([transport, verdict.name.lower()], count)
        yield closed


@get("/metrics", summary="Figures for Prometheus", media_type="text/plain")
async def metrics(service: NamedDependency[Service]) -> Response[bytes]:
    """Prometheus text format."""
    return Response(generate_latest(Collected(service)), media_type="text/plain; version=0.0.4")

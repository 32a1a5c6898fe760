"""The liveness, the readiness and the metrics of the server."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from types import MappingProxyType
from typing import Any

from litestar import Response, get
from litestar.di import NamedDependency
from prometheus_client import ProcessCollector, core, generate_latest
from prometheus_client.registry import Collector

from twinwire.log import kind_of
from twinwire.protocol.errors import Draining, ModelUnavailable
from twinwire.runs.probe import probe
from twinwire.telemetry.metrics import EVENTS, MAX_LABELS, Histogram
from twinwire.telemetry.shared import WORKER, Family, Sample
from twinwire.web.guard import PROBE, SCRAPED
from twinwire.web.service import Service

NO_LABELS: Mapping[str, str] = MappingProxyType({})

_process = ProcessCollector(registry=None)


@get("/healthz", opt=PROBE, summary="Liveness")
async def healthz(service: NamedDependency[Service]) -> dict[str, str]:
    """The process answers, and says which kind of log it has: `memory`, `sqlite`, `redis` or `private`."""
    return {"status": "ok", "log": kind_of(service.settings.log)}


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


def _counter(name: str, text: str, labels: Sequence[str], counts: Mapping[Any, int]) -> core.Metric:
    family = core.CounterMetricFamily(name, text, labels=labels)
    for values, count in sorted(counts.items()):
        family.add_metric((values,) if isinstance(values, str) else values, count)
    return family


def _seconds(name: str, text: str, figure: Histogram) -> core.Metric:
    return core.HistogramMetricFamily(f"{name}_seconds", text, buckets=[*figure.buckets()], sum_value=figure.total)


class Collected:
    """The metrics of this process, read at a scrape: counting costs the hot path little, and a look-up nothing."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def families(self) -> list[Family]:
        """Return them. If there are more processes, a sample of the process itself has the pid of its `worker`."""
        worker = {} if self._service.metrics.slot is None else {WORKER: str(os.getpid())}
        ours = chain(self._runs(), self._times(), self._connections())
        return [*map(_family, ours), *(_family(metric, worker) for metric in _process.collect())]

    def _runs(self) -> Iterator[core.Metric]:
        runs = self._service.runs
        metrics = self._service.metrics
        yield core.GaugeMetricFamily("twinwire_workers", "Processes that these figures are the sum of", 1)
        log = core.GaugeMetricFamily("twinwire_log_workers", "Processes with this kind of log", labels=["log"])
        log.add_metric([kind_of(self._service.settings.log)], 1)
        yield log
        yield core.GaugeMetricFamily("twinwire_runs_live", "Runs that go on", len(runs))
        waiting, questions = runs.waiting
        yield core.GaugeMetricFamily("twinwire_runs_waiting", "Runs that wait for their users", waiting)
        yield core.GaugeMetricFamily("twinwire_questions_open", "Questions that no user has answered yet", questions)
        started: dict[tuple[str, ...], int] = {(name,): 0 for name in islice(runs.agents, MAX_LABELS)}
        started |= metrics.started
        yield _counter("twinwire_runs_started", "Runs that were started", ("agent",), started)
        resumed = "Runs that another process had begun, and this one goes on with"
        yield _counter("twinwire_runs_resumed", resumed, ("agent",), metrics.resumed)
        yield _counter("twinwire_runs_ended", "Runs that ended, by how", ("agent", "status"), metrics.ended)
        yield _counter("twinwire_run_errors", "Runs that ended with an error", ("agent", "error_type"), metrics.errors)
        yield _counter("twinwire_run_tokens", "Tokens of runs that ended", ("agent", "kind"), metrics.tokens)
        yield _counter("twinwire_cursors", "Wishes to follow a run from a cursor", ("verdict",), metrics.cursors)
        yield _counter("twinwire_refusals", "Requests and commands that were refused", ("code",), metrics.refused)

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


def _family(metric: core.Metric, labels: Mapping[str, str] = NO_LABELS) -> Family:
    samples = [Sample(one.name, {**one.labels, **labels}, one.value) for one in metric.samples]
    return Family(metric.name, metric.documentation, metric.type, samples)


def share(service: Service) -> None:
    """Let the other workers see the metrics of this one, if there are others."""
    if (slot := service.metrics.slot) is not None:
        slot.write(Collected(service).families())


class _Exposed(Collector):
    """Families as Prometheus's library takes them."""

    def __init__(self, families: Iterable[Family]) -> None:
        self._families = families

    def collect(self) -> Iterator[core.Metric]:
        """See `Collector`."""
        for family in self._families:
            metric = core.Metric(family.name, family.text, family.kind)
            for sample in family.samples:
                metric.add_sample(sample.name, sample.labels, sample.value)
            yield metric


@get("/metrics", opt=SCRAPED, summary="Figures for Prometheus", media_type="text/plain")
async def metrics(service: NamedDependency[Service]) -> Response[bytes]:
    """Answer in Prometheus's text format, with the figures of all workers of this supervisor."""
    slot = service.metrics.slot
    share(service)  # first, so that no later answer, by whichever worker, has less
    families = Collected(service).families() if slot is None else slot.families()
    return Response(generate_latest(_Exposed(families)), media_type="text/plain; version=0.0.4")

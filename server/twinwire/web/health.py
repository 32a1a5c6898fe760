"""Whether the server lives, whether it can serve, and its figures for Prometheus."""

from __future__ import annotations

from collections.abc import Iterator

from litestar import Response, get
from litestar.di import NamedDependency
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from twinwire.errors import Draining
from twinwire.web.service import Service


@get("/healthz", summary="Liveness")
async def healthz() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok"}


@get("/readyz", summary="Readiness")
async def readyz(service: NamedDependency[Service]) -> dict[str, str]:
    """The log can be reached and new runs are taken; else 503 and why not."""
    if service.runs.draining:
        raise Draining
    await service.runs.log.ping()
    return {"status": "ready"}


class Figures(Collector):
    """Read when asked for: counting costs the hot path nothing."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def collect(self) -> Iterator[Metric]:
        """See `Collector`."""
        runs = self._service.runs
        yield GaugeMetricFamily("twinwire_runs_live", "Runs that go on in this process", len(runs))
        yield CounterMetricFamily("twinwire_runs_started", "Runs started by this process", runs.started)
        ended = CounterMetricFamily("twinwire_runs_ended", "Runs ended in this process", labels=["status"])
        for status, count in sorted(runs.ended.items()):
            ended.add_metric([status], count)
        yield ended
        yield GaugeMetricFamily("twinwire_connections", "Open streams", len(self._service.sweep.pumps))


@get("/metrics", summary="Figures for Prometheus", media_type="text/plain")
async def metrics(figures: NamedDependency[CollectorRegistry]) -> Response[bytes]:
    """Prometheus text format."""
    return Response(generate_latest(figures), media_type="text/plain; version=0.0.4; charset=utf-8")


def registry(service: Service) -> CollectorRegistry:
    """The figures of one app."""
    figures = CollectorRegistry()
    figures.register(Figures(service))
    ProcessCollector(registry=figures)
    return figures

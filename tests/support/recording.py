"""What OpenTelemetry's SDK records in this process. All tests share it: a process has one set of providers."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from opentelemetry import metrics, trace
from opentelemetry.context import Context
from opentelemetry.sdk.metrics import Histogram, MeterProvider
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Histogram as Points,
    HistogramDataPoint,
    InMemoryMetricReader,
)
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter


class Faulty(SpanProcessor):
    """A processor of somebody's that raises while it is `broken`."""

    broken = False

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:  # noqa: ARG002
        if self.broken:
            raise RuntimeError("the processor is broken")

    def on_end(self, span: ReadableSpan) -> None:  # noqa: ARG002
        if self.broken:
            raise RuntimeError("the processor is broken")


class Recorded:
    """The spans and metrics since the last `clear`."""

    def __init__(self) -> None:
        self.faulty = Faulty()
        self._spans = InMemorySpanExporter()
        self._metrics = InMemoryMetricReader({Histogram: AggregationTemporality.DELTA})
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self._spans))
        provider.add_span_processor(self.faulty)
        trace.set_tracer_provider(provider)
        metrics.set_meter_provider(MeterProvider([self._metrics]))

    def clear(self) -> None:
        """Forget what was recorded."""
        self.faulty.broken = False
        self._spans.clear()
        self._metrics.get_metrics_data()

    def spans(self, operation: str = "") -> list[ReadableSpan]:
        """Return the spans that have ended, in this order, of one operation or all."""
        return [span for span in self._spans.get_finished_spans() if span.name.startswith(operation)]

    def measured(self) -> dict[str, list[HistogramDataPoint]]:
        """Return the points of each histogram since this was last asked."""
        data = self._metrics.get_metrics_data()
        resources = [] if data is None else data.resource_metrics
        found = [metric for one in resources for scope in one.scope_metrics for metric in scope.metrics]
        return {metric.name: [*metric.data.data_points] for metric in found if isinstance(metric.data, Points)}


@functools.cache
def _recorded() -> Recorded:
    return Recorded()


def recorded() -> Recorded:
    """Return what is recorded, empty."""
    _recorded().clear()
    return _recorded()


def told(recorded: ReadableSpan | HistogramDataPoint) -> Mapping[str, Any]:
    """Return the attributes of a span or of a point."""
    return dict(recorded.attributes or {})


def traceparent(span: ReadableSpan) -> str:
    """Return how a request names this span as its parent."""
    context = span.get_span_context()
    assert context is not None
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-01"


def parent(span: ReadableSpan) -> str | None:
    """Return the same of a span's parent, None if it has none."""
    return None if span.parent is None else f"00-{span.parent.trace_id:032x}-{span.parent.span_id:016x}-01"

"""Traces and metrics for OpenTelemetry, by its semantic conventions for generative AI.

These are in development; what is here is version 1.41.0, the last one that was released with all other conventions.
`OpenTelemetry` uses the API alone: the providers of the process decide what becomes of a span. `export` sets providers
that export, for a process without any. No content is recorded: neither messages, nor parameters, nor results.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
import time
from collections.abc import Mapping
from contextvars import ContextVar, Token
from typing import Any, Protocol, Self, Unpack, runtime_checkable
from urllib.parse import unquote

from opentelemetry import context as contexts, metrics, trace
from opentelemetry.context import Context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from twinwire import __version__
from twinwire.fence import Fence
from twinwire.protocol.errors import SettingsError
from twinwire.telemetry.logging import ANYWHERE, hide
from twinwire.telemetry.tracing import NO_HEADERS, NOTHING, Ending, Span, Tracer, current

logger = logging.getLogger("twinwire.telemetry")

SCHEMA = "https://opentelemetry.io/schemas/1.41.0"
SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
TOKENS = tuple(4**power for power in range(14))
"""The bounds of the histograms' buckets that the conventions name."""

FLUSH_SECONDS = 1.0
"""For how long a server that ends waits for its exporters, which may hang."""

MAX_HEADER = 512
"""Characters of a `traceparent` or `tracestate`; W3C Trace Context has nobody pass a longer one on."""

_CONVERSATION = contexts.create_key("twinwire.conversation")
_USAGE = {
    "prompt_tokens": "input",
    "completion_tokens": "output",
    "cached_tokens": "cache_read.input",
    "reasoning_tokens": "reasoning.output",
}
_NUMBERS = {
    "temperature": "temperature",
    "top_p": "top_p",
    "max_tokens": "max_tokens",
    "max_completion_tokens": "max_tokens",
    "seed": "seed",
    "frequency_penalty": "frequency_penalty",
    "presence_penalty": "presence_penalty",
}
"""The names of counts, and of a request's fields that are numbers, in OpenAI's protocol and in the conventions."""

_W3C = TraceContextTextMapPropagator()

_asked: ContextVar[Context | None] = ContextVar("asked", default=None)
"""The trace that the request which is answered names in its headers."""


@runtime_checkable
class _Exporting(Protocol):
    """A provider that exports, as the SDK's do. The API, which alone is required, has no name for it."""

    def force_flush(self) -> bool: ...


class _Span(Span):
    """A span of OpenTelemetry. `called` are the attributes of a model's call in metrics."""

    __slots__ = ("_began", "_called", "_context", "_span", "_tokens", "_tracer")

    def __init__(
        self, tracer: OpenTelemetry, span: trace.Span, context: Context, called: dict[str, Any] | None = None
    ) -> None:
        self._tracer = tracer
        self._span = span
        self._context = trace.set_span_in_context(span, context)
        self._called = called
        self._began = time.monotonic()
        self._tokens: tuple[Token[Context], Token[Tracer]] | None = None

    @property
    def trace_id(self) -> str | None:
        """See `Span`."""
        with Fence(logger, "OpenTelemetry failed to name the trace of a span."):
            known = self._span.get_span_context()
            return trace.format_trace_id(known.trace_id) if known.is_valid else None
        return None

    def __enter__(self) -> Self:
        with Fence(logger, "OpenTelemetry failed to enter a span."):
            self._tokens = contexts.attach(self._context), current.set(self._tracer)
        return self

    def __exit__(self, *_: object) -> None:
        if self._tokens is not None:
            with Fence(logger, "OpenTelemetry failed to leave a span."):
                current.reset(self._tokens[1])
                contexts.detach(self._tokens[0])

    def end(self, error: str | None = None, **known: Unpack[Ending]) -> None:
        """See `Span`. A cancel is an `error.type`, but no failure: the status stays unset."""
        usage, reason, first_chunk = known.get("usage") or {}, known.get("reason"), known.get("first_chunk")
        tokens = {kind: usage[name] for name, kind in _USAGE.items() if usage.get(name)}
        with Fence(logger, "OpenTelemetry failed to end a span."):
            told = {
                "error.type": error,
                "twinwire.run.status": known.get("status"),
                "gen_ai.response.finish_reasons": None if reason is None else [reason],
                "gen_ai.response.time_to_first_chunk": first_chunk,
                **{f"gen_ai.usage.{kind}_tokens": count for kind, count in tokens.items()},
            }
            self._span.set_attributes({name: value for name, value in told.items() if value is not None})
            if error is not None and error != "cancelled":
                self._span.set_status(trace.StatusCode.ERROR, known.get("message") or None)
            self._span.end()
        if self._called is not None:
            seconds = time.monotonic() - self._began
            self._tracer.measure(self._called, seconds, error, tokens=tokens, first_chunk=first_chunk)


class OpenTelemetry(Tracer):
    """Records with the providers of the process, those that are set later included."""

    def __init__(self) -> None:
        self.middleware = (_Trace,)
        self._spans = trace.get_tracer("twinwire", __version__, schema_url=SCHEMA)
        meter = metrics.get_meter("twinwire", __version__, schema_url=SCHEMA)
        self._duration, self._first_chunk, self._tokens = (
            meter.create_histogram(f"gen_ai.client.{name}", unit, text, explicit_bucket_boundaries_advisory=bounds)
            for name, unit, text, bounds in (
                ("operation.duration", "s", "GenAI operation duration.", SECONDS),
                ("operation.time_to_first_chunk", "s", "Time to receive the first chunk.", SECONDS),
                ("token.usage", "{token}", "Number of input and output tokens used.", TOKENS),
            )
        )

    def run(self, agent: str, run_id: str, session_id: str | None, traceparent: str | None, *, epoch: int = 0) -> Span:
        """See `Tracer`. A span that is current already, such as the host's for the request, wins over the headers."""
        with Fence(logger, "OpenTelemetry failed to begin the span of the run %s.", run_id):
            around = contexts.get_current()
            if traceparent is not None:
                around = _W3C.extract({"traceparent": traceparent}, around)
            elif not trace.get_current_span(around).get_span_context().is_valid:
                around = _asked.get() or around
            told = {
                "gen_ai.agent.name": agent,
                "gen_ai.conversation.id": session_id,
                "twinwire.run.id": run_id,
                "twinwire.run.epoch": epoch or None,
            }
            inside = contexts.set_value(_CONVERSATION, session_id, around)
            return self._begin("invoke_agent", agent, told, inside)
        return NOTHING

    def chat(self, model: str, provider: str, address: str, port: int, options: Mapping[str, Any]) -> Span:
        """See `Tracer`."""
        with Fence(logger, "OpenTelemetry failed to begin the span of a call of the model %s.", model):
            around = contexts.get_current()
            called = {
                "gen_ai.operation.name": "chat",
                "gen_ai.provider.name": provider,
                "gen_ai.request.model": model,
                "server.address": address,
                "server.port": port,
            }
            told = {**called, "gen_ai.request.stream": True, "gen_ai.conversation.id": around.get(_CONVERSATION)}
            numbers = {name: value for name, value in options.items() if type(value) in {int, float}}
            told |= {f"gen_ai.request.{_NUMBERS[name]}": numbers[name] for name in _NUMBERS.keys() & numbers.keys()}
            return self._begin("chat", model, told, around, called)
        return NOTHING

    def tool(self, name: str, call_id: str) -> Span:
        """See `Tracer`."""
        with Fence(logger, "OpenTelemetry failed to begin the span of a call of the tool %s.", name):
            told = {"gen_ai.tool.name": name, "gen_ai.tool.call.id": call_id or None, "gen_ai.tool.type": "function"}
            return self._begin("execute_tool", name, told, contexts.get_current())
        return NOTHING

    def _begin(
        self, operation: str, name: str, told: Mapping[str, Any], around: Context, called: dict[str, Any] | None = None
    ) -> Span:
        kind = trace.SpanKind.INTERNAL if called is None else trace.SpanKind.CLIENT
        attributes = {name: value for name, value in told.items() if value is not None}
        attributes["gen_ai.operation.name"] = operation
        return _Span(self, self._spans.start_span(f"{operation} {name}", around, kind, attributes), around, called)

    def measure(
        self,
        called: Mapping[str, Any],
        seconds: float,
        error: str | None,
        *,
        tokens: Mapping[str, int],
        first_chunk: float | None,
    ) -> None:
        """Add a call of a model that took so many seconds to the metrics."""
        with Fence(logger, "OpenTelemetry failed to measure a call."):
            self._duration.record(seconds, called if error is None else {**called, "error.type": error})
            if first_chunk is not None:
                self._first_chunk.record(first_chunk, called)
            for kind in ("input", "output"):
                if kind in tokens:
                    self._tokens.record(tokens[kind], {**called, "gen_ai.token.type": kind})

    def headers(self) -> Mapping[str, str]:
        """See `Tracer`."""
        with Fence(logger, "OpenTelemetry failed to name the trace of a request."):
            carrier: dict[str, str] = {}
            _W3C.inject(carrier)
            return carrier
        return NO_HEADERS

    async def flush(self) -> None:
        """See `Tracer`. A thread that hangs in an exporter ends with the process."""
        flushed = asyncio.Event()
        loop = asyncio.get_running_loop()

        def flush() -> None:
            for provider in (trace.get_tracer_provider(), metrics.get_meter_provider()):
                with Fence(logger, "OpenTelemetry failed to export the last spans and metrics."):
                    if isinstance(provider, _Exporting):
                        provider.force_flush()
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(flushed.set)

        threading.Thread(target=flush, name="twinwire-flush", daemon=True).start()
        try:
            async with asyncio.timeout(FLUSH_SECONDS):
                await flushed.wait()
        except TimeoutError:
            logger.warning("The last spans and metrics may be lost: their exporter took over %g s.", FLUSH_SECONDS)


class _Trace:
    """Middleware that notes which trace a request is part of (W3C Trace Context); what is ill-formed names none."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        found: dict[str, list[str]] = {"traceparent": [], "tracestate": []}
        for name, value in scope["headers"]:
            if name in {b"traceparent", b"tracestate"} and len(value) <= MAX_HEADER:
                found[name.decode()].append(value.decode("latin-1"))
        asked = None
        with Fence(logger, "OpenTelemetry failed to read the trace of a request."):
            asked = _W3C.extract(found) if len(found["traceparent"]) == 1 else None
        _asked.set(asked)  # and not reset: the session of a socket begins once this has returned
        await self._app(scope, receive, send)


def export() -> None:
    """Set providers that export over OTLP as the variables `OTEL_…` say, unless the process has some.

    Raise `SettingsError` for an exporter or a protocol that is not installed.
    """
    if not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ModuleNotFoundError:
        raise SettingsError("`--otel` requires: pip install 'twinwire[otel]'.", field="--otel") from None
    hide(*_secrets())
    resource = Resource.create()
    if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):  # neither variable names it
        resource = resource.merge(Resource({SERVICE_NAME: "twinwire"}))
    spans = TracerProvider(resource=resource, shutdown_on_exit=False)
    if _exports("TRACES"):
        spans.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    readers = [PeriodicExportingMetricReader(OTLPMetricExporter())] if _exports("METRICS") else []
    trace.set_tracer_provider(spans)
    metrics.set_meter_provider(MeterProvider(readers, resource, shutdown_on_exit=False))


def _exports(signal: str) -> bool:
    """Return whether this signal is exported. Raise `SettingsError` for a way that only other packages know."""
    instead = "For any other, set OpenTelemetry up by `opentelemetry-instrument` or in an app of your own."
    variable = f"OTEL_{signal}_EXPORTER"
    exporter = os.environ.get(variable) or "otlp"
    if exporter == "none":
        return False
    if exporter != "otlp":
        raise SettingsError(f"`{variable}` must be otlp or none. {instead}", field=variable)
    for variable in (f"OTEL_EXPORTER_OTLP_{signal}_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"):
        if protocol := os.environ.get(variable):
            if protocol != "http/protobuf":
                raise SettingsError(f"`{variable}` must be http/protobuf. {instead}", field=variable)
            break
    return True


def _secrets() -> list[str]:
    """Return the values of the headers that the exporters send. Those long enough for a key are taken for one."""
    headers = [value for name, value in os.environ.items() if name.startswith("OTEL_EXPORTER_") and "HEADERS" in name]
    values = [field.partition("=")[2].strip() for text in headers for field in text.split(",")]
    return [form for value in values if len(value) >= ANYWHERE for form in (value, unquote(value))]

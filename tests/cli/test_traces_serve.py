"""`twinwire serve --otel` in a process of its own: it exports by OpenTelemetry's variables, and waits for nobody."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry import trace
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from support.documents import ROOT, snippets
from support.model_server import ModelServer, answer
from support.processes import Process
from support.raw_server import listening, receive
from support.redis_server import fresh
from twinwire.protocol.errors import SettingsError
from twinwire.telemetry import otel
from twinwire.telemetry.logging import Redactor
from twinwire.telemetry.tracing import open_tracer

ACCEPTED = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\nContent-Length: 0\r\n\r\n"


class Collector:
    """An OTLP endpoint that keeps what it is sent, by path, and answers if it is not `silent`."""

    def __init__(self, *, silent: bool = False) -> None:
        self.asked = asyncio.Event()
        self.heads: list[str] = []
        self.bodies: dict[str, list[bytes]] = {}
        self._silent = silent

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head, _, body = (await receive(reader)).partition(b"\r\n\r\n")
            self.heads.append(head.decode())
            self.bodies.setdefault(head.split(b" ")[1].decode(), []).append(body)
            self.asked.set()
            if self._silent:
                await asyncio.Event().wait()
            writer.write(ACCEPTED)

    def spans(self) -> list[tuple[str, str]]:
        """Return the service and the name of each span that was exported."""
        requests = [ExportTraceServiceRequest.FromString(body) for body in self.bodies.get("/v1/traces", [])]
        return [
            (_text(resource.resource.attributes, "service.name"), span.name)
            for request in requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def metrics(self) -> set[str]:
        """Return the names of the metrics that were exported."""
        requests = [ExportMetricsServiceRequest.FromString(body) for body in self.bodies.get("/v1/metrics", [])]
        scopes = [scope for request in requests for one in request.resource_metrics for scope in one.scope_metrics]
        return {metric.name for scope in scopes for metric in scope.metrics}


def _text(attributes: Any, name: str) -> str:
    (found,) = [attribute.value.string_value for attribute in attributes if attribute.key == name]
    return str(found)


def environ(model: ModelServer, collector: str, **more: str) -> dict[str, str]:
    """A server that asks this model and exports there, without a pause and past any proxy."""
    return {
        "OPENAI_API_KEY": "sk-secret",
        "OPENAI_BASE_URL": model.url,
        "OPENAI_MODEL": "scripted",
        "TWINWIRE_OTEL": "true",
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector,
        "OTEL_BSP_SCHEDULE_DELAY": "50",
        "NO_PROXY": "*",
        **more,
    }


async def ask(client: httpx.AsyncClient, process: Process) -> None:
    """Have a run made from its start to its end."""
    response = await client.get(f"{process.url}/chat", params={"message": "hi", "stream": "false", "agent": "simple"})
    assert (response.status_code, response.json()["result"]) == (200, "a")


@pytest.mark.parametrize(
    ("service", "more"),
    [
        ("twinwire", {}),
        ("shop", {"OTEL_SERVICE_NAME": "shop"}),
        ("mall", {"OTEL_RESOURCE_ATTRIBUTES": "service.name=mall"}),
    ],
)
async def test_it_exports(service: str, more: dict[str, str], tmp_path: Path) -> None:
    """Spans and metrics come to the endpoint that the variables name, with their headers; the last ones at SIGTERM."""
    collector, key = (
        Collector(),
        {"OTEL_EXPORTER_OTLP_HEADERS": "x-key=canary-7f3a", "OTEL_BSP_SCHEDULE_DELAY": "60000"},
    )
    async with (
        ModelServer(lambda _: answer("a")) as model,
        listening(collector.handle) as url,
        httpx.AsyncClient(trust_env=False) as client,
    ):
        with Process("serve", "--port", "0", cwd=tmp_path, environ=environ(model, url, **key, **more)) as process:
            process.ready()
            await ask(client, process)
            assert not collector.heads
            process.popen.terminate()
            code, out, err = await asyncio.to_thread(process.end)
    assert (code, out, err) == (-signal.SIGTERM, "", "")
    assert collector.spans() == [(service, "chat scripted"), (service, "invoke_agent simple")]
    assert {"gen_ai.client.operation.duration", "gen_ai.client.token.usage"} <= collector.metrics()
    assert all("x-key: canary-7f3a" in head for head in collector.heads)


async def test_an_exporter_that_hangs(tmp_path: Path) -> None:
    """An endpoint that accepts and never answers holds up neither runs nor, for over a second, the server's end."""
    collector = Collector(silent=True)
    async with (
        ModelServer(lambda _: answer("a")) as model,
        listening(collector.handle) as url,
        httpx.AsyncClient(trust_env=False) as client,
    ):
        arguments = ("serve", "--port", "0", "--drain-timeout", "0.1")
        with Process(*arguments, cwd=tmp_path, environ=environ(model, url)) as process:
            process.ready()
            await ask(client, process)
            await collector.asked.wait()  # the exporter waits for an answer from now on, for ten seconds
            began = time.monotonic()
            for _ in range(20):
                await ask(client, process)
            assert time.monotonic() - began < 5
            process.popen.terminate()
            began = time.monotonic()
            code, out, err = await asyncio.to_thread(process.end)
            assert time.monotonic() - began < 5
    assert (code, out) == (-signal.SIGTERM, "")
    assert [line.partition(" WARNING ")[2] for line in err.splitlines()] == [
        "twinwire.telemetry The last spans and metrics may be lost: their exporter took over 1 s."
    ]


@pytest.mark.full
async def test_workers(tmp_path: Path) -> None:
    """Each worker exports by itself, and none is left out at SIGTERM."""
    collector = Collector()
    more = {"OTEL_BSP_SCHEDULE_DELAY": "60000", "TWINWIRE_LOG": fresh(), "TWINWIRE_WORKERS": "2"}
    async with (
        ModelServer(lambda _: answer("a")) as model,
        listening(collector.handle) as url,
        httpx.AsyncClient(trust_env=False, limits=httpx.Limits(max_keepalive_connections=0)) as client,
    ):
        with Process("serve", "--port", "0", cwd=tmp_path, environ=environ(model, url, **more)) as process:
            process.ready()
            await asyncio.gather(*(ask(client, process) for _ in range(8)))
            process.popen.terminate()
            code, out, err = await asyncio.to_thread(process.end)
    assert (code, out, err) == (-signal.SIGTERM, "", "")
    assert sorted(collector.spans()) == [("twinwire", "chat scripted")] * 8 + [("twinwire", "invoke_agent simple")] * 8


REFUSED: list[tuple[dict[str, str], str]] = [
    ({"OTEL_TRACES_EXPORTER": "zipkin"}, "`OTEL_TRACES_EXPORTER` must be otlp or none."),
    ({"OTEL_METRICS_EXPORTER": "console"}, "`OTEL_METRICS_EXPORTER` must be otlp or none."),
    ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "`OTEL_EXPORTER_OTLP_PROTOCOL` must be http/protobuf."),
    ({"OTEL_EXPORTER_OTLP_METRICS_PROTOCOL": "grpc"}, "`OTEL_EXPORTER_OTLP_METRICS_PROTOCOL` must be http/protobuf."),
]


@pytest.mark.parametrize(("more", "message"), REFUSED, ids=[next(iter(more)) for more, _ in REFUSED])
def test_a_way_that_is_not_installed(more: dict[str, str], message: str, tmp_path: Path) -> None:
    """A variable that names an exporter which is not there is refused in one line, not passed over."""
    with Process("serve", "--port", "0", "--otel", cwd=tmp_path, environ=more) as process:
        code, out, err = process.end()
    assert (code, out) == (2, "")
    instead = "For any other, set OpenTelemetry up by `opentelemetry-instrument` or in an app of your own."
    assert err == f"twinwire: {message} {instead}\n"


@pytest.mark.parametrize(
    "more", [{"OTEL_TRACES_EXPORTER": "none", "OTEL_METRICS_EXPORTER": "none"}, {"OTEL_SDK_DISABLED": "true"}]
)
async def test_nothing_is_exported(more: dict[str, str], tmp_path: Path) -> None:
    """With `none`, or with the SDK disabled, nothing is sent anywhere, and runs are as ever."""
    collector = Collector()
    async with (
        ModelServer(lambda _: answer("a")) as model,
        listening(collector.handle) as url,
        httpx.AsyncClient(trust_env=False) as client,
    ):
        with Process("serve", "--port", "0", cwd=tmp_path, environ=environ(model, url, **more)) as process:
            process.ready()
            await ask(client, process)
            process.popen.terminate()
            code, out, err = await asyncio.to_thread(process.end)
    assert (code, out, err) == (-signal.SIGTERM, "", "")
    assert collector.heads == []


@pytest.mark.full
async def test_a_provider_of_one_s_own(tmp_path: Path) -> None:
    """The document's app, which sets a provider, has its spans there and nowhere else; the last ones at SIGTERM."""
    _, app = snippets((ROOT / "docs/OBSERVABILITY.md").read_text(), "python")
    (tmp_path / "parrots.py").write_text(app)
    collector = Collector()
    async with listening(collector.handle) as url, httpx.AsyncClient(trust_env=False) as client:
        variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": url, "NO_PROXY": "*"}
        with Process("serve", "parrots:app", "--port", "0", cwd=tmp_path, environ=variables) as process:
            process.ready()
            await client.get(f"{process.url}/chat", params={"message": "hi", "stream": "false"})
            process.popen.terminate()
            code, out, err = await asyncio.to_thread(process.end)
    assert (code, out, err) == (-signal.SIGTERM, "", "")
    assert collector.spans() == [("parrots", "think"), ("parrots", "invoke_agent parrot")]
    assert collector.bodies.keys() == {"/v1/traces"}


def test_the_exporters_keys_are_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that the exporters send is in no log line, neither as written nor as sent; a short value is no key."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-key=canary-7f3a, x-tenant=shop")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_HEADERS", "authorization=Bearer%20canary9a1b")
    redactor = Redactor(otel._secrets())
    assert redactor.scrub("canary-7f3a Bearer%20canary9a1b Bearer canary9a1b shop") == "*** *** *** shop"


OFF = """
import asyncio, sys
from twinwire import DemoModel, ReActAgent, Settings, create_app
from twinwire.auth import ANYBODY
from twinwire.runs import RunSpec

async def main():
    service = create_app({"react": ReActAgent("react", DemoModel(0))}, settings=Settings()).state.service
    await service.start()
    info, _ = await service.runs.start(RunSpec(message="hi"))
    while (await service.runs.state(info.run_id, ANYBODY)).terminal is None:
        await asyncio.sleep(0.01)
    await service.drain()

asyncio.run(main())
parts = {"opentelemetry.context", "opentelemetry.metrics", "opentelemetry.trace", "opentelemetry.sdk", "requests"}
print(len(sys.modules) > 500, parts & {*sys.modules})
"""


def test_off_imports_nothing(tmp_path: Path) -> None:
    """A server that is not told to record imports no part of OpenTelemetry, from its start over a run to its end.

    Litestar itself looks whether the names of attributes, `opentelemetry.semconv`, are there.
    """
    with Process("-c", OFF, cwd=tmp_path, command=(sys.executable,)) as process:
        assert process.end() == (0, "True set()\n", "")


def test_it_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra, the server does not start, and says what to install; without the SDK, an app records still."""
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
        assert isinstance(open_tracer(otel=True), otel.OpenTelemetry)
        patch.setattr(trace, "get_tracer_provider", trace.ProxyTracerProvider)
        with pytest.raises(SettingsError, match=r"`--otel` requires: pip install 'twinwire\[otel\]'"):
            otel.export()
    monkeypatch.delitem(sys.modules, "twinwire.telemetry.otel")
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with pytest.raises(SettingsError, match=r"`--otel` requires: pip install 'twinwire\[otel\]'"):
        open_tracer(otel=True)

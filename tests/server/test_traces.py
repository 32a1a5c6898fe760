"""OpenTelemetry: a run, its calls of a model and its calls of tools are one tree of spans, below who asked for it."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlencode

import pytest
from opentelemetry import trace
from opentelemetry.trace import SpanKind, StatusCode
from websockets.asyncio.client import connect

from support.chats import http, said
from support.documents import ROOT
from support.followers import KINDS, AnyFollower, Refused, SseFollower, cancel, rest, start
from support.model_server import ModelServer, answer, calls, end, gate, sse, stall, status, text
from support.raw_server import listening, receive, whole
from support.recording import Recorded, parent, recorded, told, traceparent
from support.scripted import Echo
from support.serving import Puppets, Running, serving, until
from twinwire import OpenAIChatModel, ReActAgent, RunRequest, ToolRegistry
from twinwire.runs import RunSpec
from twinwire.tools.base import Tool
from twinwire_client import Client
from twinwire_client.client import Transport

DOCUMENT = (ROOT / "docs/OBSERVABILITY.md").read_text()
TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"
OTHER = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture
def seen() -> Recorded:
    return recorded()


@pytest.fixture
async def model() -> AsyncIterator[ModelServer]:
    async with ModelServer() as server:
        yield server


def agent(model: ModelServer, *tools: Tool, **options: Any) -> ReActAgent:
    """An agent that asks this server, with these tools."""
    registry = ToolRegistry()
    for tool in tools:
        registry.register_tool(tool)
    return ReActAgent(
        "mine", OpenAIChatModel("scripted", base_url=model.url, api_key="k", timeout=5), registry, **options
    )


async def ask(kind: str, server: Running, parent: str | None, **options: Any) -> AnyFollower:
    """Start a run as a part of this span: over SSE its request says so, over WebSocket its `start`."""
    if kind == "ws":
        more = {} if parent is None else {"traceparent": parent}
        return await start("ws", server, **more, **options)
    query = urlencode({"message": "hi", "envelope": "1", **options})
    headers = {} if parent is None else {"traceparent": parent}
    return await SseFollower(f"{server.url}/chat/stream?{query}", headers).open()


@pytest.mark.parametrize("kind", KINDS)
async def test_a_run_is_a_tree(kind: str, seen: Recorded, model: ModelServer) -> None:
    """A run's span is a child of who asked for it, and those of its calls are its children; the server is told them."""
    model.script(calls(("echo", {"text": "secret words"})))
    model.script(answer("more ", "secrets"))
    async with serving({"mine": agent(model, Echo())}, otel=True) as server:
        follower = await ask(kind, server, PARENT, session_id="s1", user_id="u1")
        await rest(follower)
        await until(lambda: not len(server.runs))
    first, tool, second, run = seen.spans()
    assert [span.name for span in seen.spans()] == [
        "chat scripted",
        "execute_tool echo",
        "chat scripted",
        "invoke_agent mine",
    ]
    assert parent(run) == PARENT
    assert {parent(span) for span in (first, tool, second)} == {traceparent(run)}
    assert [(await model.arrived()).headers["traceparent"] for _ in "12"] == [traceparent(first), traceparent(second)]
    assert told(run) == {
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.agent.name": "mine",
        "gen_ai.conversation.id": "s1",
        "gen_ai.usage.input_tokens": 6,
        "gen_ai.usage.output_tokens": 4,
        "twinwire.run.id": follower.run_id,
        "twinwire.run.status": "completed",
    }
    assert told(tool) == {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": "echo",
        "gen_ai.tool.call.id": "call_1",
        "gen_ai.tool.type": "function",
    }
    called = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "scripted",
        "server.address": "127.0.0.1",
        "server.port": int(model.url.split(":")[2].split("/")[0]),
    }
    for span, reason in ((first, "tool_calls"), (second, "stop")):
        attributes = {**told(span)}
        assert 0 < attributes.pop("gen_ai.response.time_to_first_chunk") < 5
        assert attributes == {
            **called,
            "gen_ai.conversation.id": "s1",
            "gen_ai.request.stream": True,
            "gen_ai.response.finish_reasons": (reason,),
            "gen_ai.usage.input_tokens": 3,
            "gen_ai.usage.output_tokens": 2,
        }
    assert [span.kind for span in (run, tool, first)] == [SpanKind.INTERNAL, SpanKind.INTERNAL, SpanKind.CLIENT]
    assert {span.status.status_code for span in seen.spans()} == {StatusCode.UNSET}
    measured = seen.measured()
    assert [(point.attributes, point.count) for point in measured["gen_ai.client.operation.duration"]] == [(called, 2)]
    assert [point.count for point in measured["gen_ai.client.operation.time_to_first_chunk"]] == [2]
    assert {told(point)["gen_ai.token.type"]: point.sum for point in measured["gen_ai.client.token.usage"]} == {
        "input": 6,
        "output": 4,
    }
    names = {name for span in seen.spans() for name in told(span)} | {"error.type", "gen_ai.token.type"}
    assert names | measured.keys() <= {*re.findall(r"`([a-z_.]+)`", DOCUMENT)}
    assert not any(secret in span.to_json() for span in seen.spans() for secret in ("secret", 'hi"', "u1"))


@pytest.mark.parametrize("kind", KINDS)
async def test_each_request_has_its_own_trace(kind: str, seen: Recorded, model: ModelServer) -> None:
    """Runs that go on at once, over the same connections, are each asked in their own trace, however often they ask."""
    traces = [f"00-{number:032x}-{number:016x}-01" for number in range(1, 13)]
    async with serving({"mine": agent(model)}, otel=True) as server:
        for some in (traces[:1], traces[1:2], traces[2:3], traces[3:8], traces[8:]):
            open_ = asyncio.Event()
            for _ in some:
                model.script(gate(open_), answer("a"))
            followers = [await ask(kind, server, sent, on_disconnect="continue") for sent in some]
            asked = [(await model.arrived()).headers["traceparent"].split("-")[1] for _ in some]
            assert sorted(asked) == [sent.split("-")[1] for sent in some]
            open_.set()
            for follower in followers:
                await rest(follower)
        await until(lambda: len(seen.spans("invoke_agent")) == len(traces))
    assert {parent(span) for span in seen.spans("invoke_agent")} == {*traces}
    runs = {traceparent(span): told(span)["twinwire.run.id"] for span in seen.spans("invoke_agent")}
    assert len({runs[parent(span) or ""] for span in seen.spans("chat")}) == len(traces)


@pytest.mark.parametrize("failed", [False, True])
async def test_options_and_parts_of_usage(failed: bool, seen: Recorded, model: ModelServer) -> None:
    """A call's span has its options that are numbers, and each count of its usage, also if it fails after that."""
    details = {"prompt_tokens_details": {"cached_tokens": 4}, "completion_tokens_details": {"reasoning_tokens": 5}}
    usage = {"prompt_tokens": 10, "completion_tokens": 20, "total_tokens": 30, **details}
    ends = [sse({"error": {"message": "no"}})] if failed else end(usage=None)
    model.script(text("a"), sse({"choices": [], "usage": usage}), ends)
    options: dict[str, Any] = {"temperature": 0, "top_p": 0.5, "max_completion_tokens": 9, "stop": "x", "seed": 7}
    asked = OpenAIChatModel("scripted", base_url=model.url, api_key="k", **options, extra_body={"presence_penalty": 1})
    async with serving({"mine": ReActAgent("mine", asked)}, otel=True) as server:
        await rest(await ask("sse", server, None))
        await until(lambda: not len(server.runs))
    (chat,), (run,) = seen.spans("chat"), seen.spans("invoke_agent")
    counts = {"input": 10, "output": 20, "cache_read.input": 4, "reasoning.output": 5}
    for span in (chat, run):
        assert told(span).items() >= {f"gen_ai.usage.{kind}_tokens": count for kind, count in counts.items()}.items()
    requested = {"stream": True, "temperature": 0, "top_p": 0.5, "max_tokens": 9, "seed": 7, "presence_penalty": 1}
    named = {f"gen_ai.request.{name}": value for name, value in {"model": "scripted", **requested}.items()}
    assert {name: value for name, value in told(chat).items() if name.startswith("gen_ai.request.")} == named
    assert {*told(chat), *told(run)} <= {*re.findall(r"`([a-z_.]+)`", DOCUMENT)}
    points = seen.measured()["gen_ai.client.token.usage"]
    assert {told(point)["gen_ai.token.type"]: point.sum for point in points} == {"input": 10, "output": 20}


async def test_starts_on_one_socket(seen: Recorded, puppets: Puppets) -> None:
    """Each `start` on a socket names its own parent; one that names none is a child of the handshake's."""
    async with serving({"mine": puppets}, otel=True) as server:
        async with connect(server.ws_url, additional_headers={"traceparent": PARENT, "tracestate": "a=b"}) as socket:
            for number, traceparent_ in enumerate((OTHER, None)):
                command = {"type": "start", "request_id": f"r{number}", "message": "hi", "traceparent": traceparent_}
                await socket.send(json.dumps(command))
                (await puppets.next()).end()
                while json.loads(await socket.recv())["type"] != "AGENT_FINISH":
                    pass
        await until(lambda: len(seen.spans()) == 2)
    assert [parent(span) for span in seen.spans()] == [OTHER, PARENT]
    states = [span.parent.trace_state.to_header() for span in seen.spans() if span.parent is not None]
    assert states == ["", "a=b"]


@pytest.mark.parametrize("below", ["direct", "plain"], indirect=True)
@pytest.mark.usefixtures("below")
async def test_a_handshake_names_a_parent(seen: Recorded, puppets: Puppets) -> None:
    """The trace of a handshake is that of its socket's runs, on our server and on any other."""
    async with serving({"mine": puppets}, otel=True) as server:
        async with connect(server.ws_url, additional_headers={"traceparent": PARENT}) as socket:
            await socket.send(json.dumps({"type": "start", "request_id": "r1", "message": "hi"}))
            (await puppets.next()).end()
            while json.loads(await socket.recv())["type"] != "AGENT_FINISH":
                pass
        await until(lambda: len(seen.spans()) == 1)
    assert parent(seen.spans()[0]) == PARENT


IN_HEADER: list[tuple[str, Any]] = [
    ("/chat", {"message": "hi"}),
    ("/runs", {"message": "hi"}),
    ("/ai-sdk/chat", {"id": "c1", "messages": said("hi")}),
    ("/ag-ui", {"threadId": "t", "runId": "r", "messages": [{"id": "1", "role": "user", "content": "hi"}]}),
    ("/v1/chat/completions", {"model": "mine", "messages": [{"role": "user", "content": "hi"}]}),
]
IN_FIELD: list[tuple[str, Any]] = [
    (f"/chat/stream?message=hi&traceparent={PARENT}", None),
    ("/chat", {"message": "hi", "traceparent": PARENT}),
    ("/runs", {"message": "hi", "traceparent": PARENT}),
]


@pytest.mark.parametrize(("path", "body"), [*IN_HEADER, *IN_FIELD], ids=lambda value: str(value)[:12])
async def test_each_way_to_start(path: str, body: Any, seen: Recorded, puppets: Puppets) -> None:
    """The header of each request that starts a run names its parent; a field of a start, if it has one, wins."""
    field = "traceparent" in f"{path}{body}"
    async with serving({"mine": puppets}, otel=True) as server, http(server) as client:
        headers = {"traceparent": OTHER if field else PARENT}
        asking = asyncio.create_task(
            client.request("GET" if body is None else "POST", path, json=body, headers=headers)
        )
        (await puppets.next()).end()
        assert (await asking).is_success
        await until(lambda: len(seen.spans()) == 1)
    assert parent(seen.spans()[0]) == PARENT


@pytest.mark.parametrize("transport", ["sse", "ws", "auto"])
async def test_the_client_names_a_parent(transport: Transport, seen: Recorded, puppets: Puppets) -> None:
    """A run that the Python client starts is a part of the span that it names, over each transport."""
    async with (
        serving({"mine": puppets}, otel=True) as server,
        Client(server.url) as client,
        client.stream("hi", transport=transport, traceparent=PARENT),
    ):
        (await puppets.next()).end()
        await until(lambda: len(seen.spans()) == 1)
    assert parent(seen.spans()[0]) == PARENT


async def test_a_host_s_span_is_the_parent(seen: Recorded, puppets: Puppets) -> None:
    """A span that is current where a run is started, as one of a host's middleware is, is the run's parent."""
    async with serving({"mine": puppets}, otel=True) as server:
        with trace.get_tracer("host").start_as_current_span("request"):
            await server.runs.start(RunSpec(message="hi"))
        (await puppets.next()).end()
        await until(lambda: len(seen.spans()) == 2)
    assert parent(*seen.spans("invoke_agent")) == traceparent(*seen.spans("request"))


ILL_FORMED = ["", "00", PARENT.upper(), PARENT + "-x", PARENT.replace(TRACE, "0" * 32), f"ff{PARENT[2:]}"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("otel", [True, False])
async def test_an_ill_formed_field(kind: str, otel: bool, puppets: Puppets) -> None:
    """A start whose `traceparent` is none is refused and begins no run, whether it would be recorded or not."""
    async with serving({"mine": puppets}, otel=otel) as server:
        for text in ILL_FORMED:
            with pytest.raises(Refused) as caught:
                await start(kind, server, traceparent=text)
            assert (caught.value.answer["code"], caught.value.answer["field"]) == ("bad_request", "traceparent")
        follower = await start(kind, server, traceparent=PARENT)
        (await puppets.next()).end()
        await rest(follower)
    assert puppets.started == 1


@pytest.mark.parametrize("headers", [[], ["x"], [PARENT + "-x"], [PARENT, OTHER], [PARENT[:-3] + "-01" + "x" * 9000]])
async def test_an_ill_formed_header(headers: list[str], seen: Recorded, puppets: Puppets) -> None:
    """A run whose request names no parent, or none that W3C Trace Context knows, begins a trace of its own."""
    async with serving({"mine": puppets}, otel=True) as server:
        fields = "".join(f"traceparent: {value}\r\n" for value in headers)
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(f"GET /chat?message=hi HTTP/1.1\r\nhost: localhost\r\n{fields}\r\n".encode())
        (await puppets.next()).end()
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        writer.close()
        await until(lambda: len(seen.spans()) == 1)
    assert parent(seen.spans()[0]) is None


FAILURES: list[tuple[Any, str]] = [
    (status(401), "upstream_auth"),
    (status(429, {"retry-after": "60"}), "upstream_rate_limited"),
    (b"data: {}\n\n", "upstream_truncated"),
]


@pytest.mark.parametrize(("step", "code"), FAILURES, ids=[code for _, code in FAILURES])
@pytest.mark.parametrize("kind", KINDS)
async def test_a_failed_call(kind: str, step: Any, code: str, seen: Recorded, model: ModelServer) -> None:
    """A call that fails is an error in its span, in that of its run, and in the metrics, by the code of the ERROR."""
    model.script(step)
    async with serving({"mine": agent(model)}, otel=True) as server:
        events = await rest(await ask(kind, server, None))
        await until(lambda: not len(server.runs))
    assert events[-1]["data"]["error_type"] == code
    chat, run = seen.spans()
    for span in (chat, run):
        assert (told(span)["error.type"], span.status.status_code) == (code, StatusCode.ERROR)
    assert chat.status.description == events[-1]["data"]["message"]
    (point,) = seen.measured()["gen_ai.client.operation.duration"]
    assert told(point)["error.type"] == code


async def test_a_repeated_request_is_one_call(seen: Recorded, model: ModelServer) -> None:
    """A request that the SDK sends again is the same call: one span, and the same parent for the server each time."""
    model.script(status(503, {"retry-after-ms": "1"}))
    model.script(answer("a"))
    async with serving({"mine": agent(model)}, otel=True) as server:
        await rest(await ask("sse", server, PARENT))
        await until(lambda: not len(server.runs))
    (chat,) = seen.spans("chat")
    assert [(await model.arrived()).headers["traceparent"] for _ in "12"] == [traceparent(chat)] * 2


async def test_over_a_proxy(seen: Recorded, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that goes over a proxy, and so not through our own transport, names its trace as well."""
    heads = []

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await receive(reader))
        writer.write(whole(b"".join(answer("a"))))

    async with listening(proxy) as url:
        monkeypatch.setenv("HTTP_PROXY", url)
        monkeypatch.setenv("NO_PROXY", "")
        mine = ReActAgent("mine", OpenAIChatModel("scripted", base_url="http://model.invalid/v1", api_key="k"))
        async with serving({"mine": mine}, otel=True) as server:
            await rest(await ask("ws", server, PARENT))
            await until(lambda: not len(server.runs))
    ((chat,), (head,)) = seen.spans("chat"), heads
    assert head.startswith(b"POST http://model.invalid/v1/chat/completions ")
    assert b"\r\ntraceparent: %b\r\n" % traceparent(chat).encode() in head.lower()
    assert told(chat)["server.address"] == "model.invalid"


class Slow(Tool):
    """Never answers."""

    name = "slow"
    description = "slow"

    async def run(self, parameters: Any) -> str:  # noqa: ARG002
        await asyncio.Event().wait()
        return ""


class Failing(Tool):
    """Fails, in a span of its own."""

    name = "failing"
    description = "failing"

    async def run(self, parameters: Any) -> str:  # noqa: ARG002
        with trace.get_tracer("mine").start_as_current_span("inner"):
            raise ValueError("secret")


async def test_failed_tools(seen: Recorded, model: ModelServer) -> None:
    """A tool that fails or is late is an error in its span, what it begins is below that; an unknown one has none."""
    model.script(calls(("failing", {}), ("slow", {}), ("unknown", {})))
    model.script(answer("a"))
    async with serving({"mine": agent(model, Failing(), Slow(), tool_timeout=0.05)}, otel=True) as server:
        await rest(await ask("sse", server, None))
        await until(lambda: not len(server.runs))
    failing, slow = seen.spans("execute_tool")
    assert [told(span)["error.type"] for span in (failing, slow)] == ["tool_error", "timeout"]
    assert {span.status.status_code for span in (failing, slow)} == {StatusCode.ERROR}
    (inner,) = seen.spans("inner")
    assert parent(inner) == traceparent(failing)
    (run,) = seen.spans("invoke_agent")
    assert run.status.status_code is StatusCode.UNSET


@pytest.mark.parametrize("kind", KINDS)
async def test_a_cancel(kind: str, seen: Recorded, model: ModelServer) -> None:
    """A cancel ends all spans: it is told in each, and is no failure of any."""
    model.script(calls(("slow", {})))
    async with serving({"mine": agent(model, Slow())}, otel=True) as server:
        follower = await ask(kind, server, None)
        while b"TOOL_CALL_START" not in (await follower.next() or b""):
            pass
        await cancel(kind, server, follower.run_id)
        await follower.close()
        await until(lambda: len(seen.spans()) == 3)
    (run,), (tool,) = seen.spans("invoke_agent"), seen.spans("execute_tool")
    assert (told(run)["twinwire.run.status"], told(run).get("error.type")) == ("cancelled", None)
    assert told(tool)["error.type"] == "cancelled"
    assert {span.status.status_code for span in seen.spans()} == {StatusCode.UNSET}


@pytest.mark.parametrize("kind", KINDS)
async def test_a_deadline(kind: str, seen: Recorded, model: ModelServer) -> None:
    """A run that is late is an error `timeout`; the call that it breaks off is `cancelled`."""
    model.script(stall)
    async with serving({"mine": agent(model)}, otel=True, run_timeout=0.2) as server:
        await rest(await ask(kind, server, None))
        await until(lambda: len(seen.spans()) == 2)
    assert {span.name: told(span)["error.type"] for span in seen.spans()} == {
        "invoke_agent mine": "timeout",
        "chat scripted": "cancelled",
    }


@pytest.mark.parametrize("kind", KINDS)
async def test_a_run_outlives_its_connection(kind: str, seen: Recorded, puppets: Puppets) -> None:
    """A run's span ends when the run does, not when who started it leaves."""
    async with serving({"mine": puppets}, otel=True) as server:
        follower = await ask(kind, server, PARENT, on_disconnect="continue")
        puppet = await puppets.next()
        await follower.close()
        await until(lambda: not server.service.heartbeats.pumps)
        assert seen.spans() == []
        puppet.end()
        await until(lambda: len(seen.spans()) == 1)
    assert parent(seen.spans()[0]) == PARENT


async def test_what_an_agent_begins(seen: Recorded) -> None:
    """A span that an agent of somebody's begins, in a task of its own too, is below its run's."""
    tracer = trace.get_tracer("mine")

    async def work() -> None:
        with tracer.start_as_current_span("work"):
            await asyncio.sleep(0)

    async def mine(request: RunRequest) -> None:
        await asyncio.gather(work(), asyncio.create_task(work()))

    async with serving({"mine": mine}, otel=True) as server:
        await rest(await ask("sse", server, None))
        await until(lambda: len(seen.spans()) == 3)
    assert {parent(span) for span in seen.spans("work")} == {traceparent(*seen.spans("invoke_agent"))}


@pytest.mark.parametrize("kind", KINDS)
async def test_a_tracer_that_raises(
    kind: str,
    seen: Recorded,
    model: ModelServer,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A processor of somebody's that raises for each span costs the spans, and a run nothing."""
    monkeypatch.setattr(seen.faulty, "broken", True)  # all tests share it
    model.script(calls(("echo", {"text": "a"})))
    model.script(answer("b"))
    async with serving({"mine": agent(model, Echo())}, otel=True) as server:
        events = await rest(await ask(kind, server, PARENT))
    assert events[-1]["data"]["status"] == "completed"
    assert "OpenTelemetry failed to begin" in caplog.text
    assert {record.name for record in caplog.records} == {"twinwire.telemetry"}


async def test_off_records_nothing(seen: Recorded, model: ModelServer) -> None:
    """A server that is not told to record neither records nor tells the model's server of a trace."""
    model.script(answer("a"))
    async with serving({"mine": agent(model)}) as server:
        await rest(await ask("ws", server, PARENT))
    assert "traceparent" not in (await model.arrived()).headers
    assert seen.spans() == []

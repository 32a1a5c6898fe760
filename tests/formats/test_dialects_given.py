"""What requests of other protocols give an agent that accepts it: images, files, settings, labels and headers."""

# ruff: noqa: E501 - a table reads best as one
from __future__ import annotations

import asyncio
from typing import Any

import pytest

from support.chats import Transport, frames, http, opened, said
from support.serving import Puppets, Running, serving
from support.turns import Asking, answered, approved, ui

AI_SDK, AG_UI, OPENAI = "/ai-sdk/chat", "/ag-ui", "/v1/chat/completions"
PNG = "data:image/png;base64,AA=="
URL = "https://example.org/a"
Parts = list[dict[str, Any]]


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def image(url: str = PNG, **more: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url, **more}}


def file(**fields: Any) -> dict[str, Any]:
    return {"type": "file", "file": fields}


def message(path: str, *parts: dict[str, Any], role: str = "user") -> dict[str, Any]:
    """Return a message of the dialect with these parts."""
    return {"id": "m", "role": role, ("parts" if path == AI_SDK else "content"): [*parts]}


def body(path: str, *messages: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """Return a request of the dialect."""
    least = {AI_SDK: {"id": "c"}, AG_UI: {"threadId": "t", "runId": "r"}, OPENAI: {"model": "mine"}}[path]
    return {**least, "messages": [*messages] or [message(path, text("hi"))], **fields}


def source(kind: str, value: str, **more: Any) -> dict[str, Any]:
    return {"type": kind, "value": value, **more}


PARTS: list[tuple[str, Parts, Parts]] = [
    (AI_SDK, [text("hi"), {"type": "file", "mediaType": "image/png", "url": PNG, "filename": "a.png"}], [text("hi"), image()]),
    (AI_SDK, [{"type": "file", "mediaType": "IMAGE/PNG", "url": URL}, text("hi")], [image(URL), text("hi")]),
    (AI_SDK, [text(""), {"type": "file", "mediaType": "application/pdf", "url": "data:application/pdf;base64,AA==", "filename": "a.pdf"}], [file(file_data="data:application/pdf;base64,AA==", filename="a.pdf")]),
    (AG_UI, [text("hi"), {"type": "image", "id": "p", "source": source("data", "AA==", mimeType="image/png")}], [text("hi"), image()]),
    (AG_UI, [{"type": "image", "source": source("url", URL, mimeType="image/png"), "metadata": {"a": 1}}], [image(URL)]),
    (AG_UI, [{"type": "document", "source": source("data", "AA==", mimeType="text/csv"), "metadata": {"filename": "a.csv"}}], [file(file_data="data:text/csv;base64,AA==", filename="a.csv")]),
    (AG_UI, [{"type": "document", "source": source("file", "file-1", provider="openai")}], [file(file_id="file-1")]),
    (AG_UI, [{"type": "document", "source": source("url", URL)}], [file(file_data=URL)]),
    (AG_UI, [{"type": "binary", "mimeType": "image/png", "data": "AA=="}], [image()]),
    (AG_UI, [{"type": "binary", "mimeType": "image/png", "url": URL}], [image(URL)]),
    (AG_UI, [{"type": "binary", "mimeType": "application/pdf", "id": "file-1", "filename": "a.pdf"}], [file(file_id="file-1", filename="a.pdf")]),
    (OPENAI, [text("a"), image(detail="low"), text("b")], [text("a"), image(detail="low"), text("b")]),
    (OPENAI, [{**image(URL), "cache_control": {"type": "ephemeral"}}], [image(URL)]),
    (OPENAI, [text("hi"), file(file_id="file-1")], [text("hi"), file(file_id="file-1")]),
    (OPENAI, [file(file_data="AA==", filename="a.pdf")], [file(file_data="AA==", filename="a.pdf")]),
]  # fmt: skip


@pytest.fixture
def puppets() -> Puppets:
    return Puppets({"image", "file", "params"})


@pytest.mark.parametrize(("path", "sent", "given"), PARTS)
async def test_parts(path: str, sent: Parts, given: Parts, server: Running, puppets: Puppets) -> None:
    """The last message's images and files are the agent's parts in OpenAI's form, in their order among the texts."""
    async with http(server) as client:
        asking = asyncio.create_task(client.post(path, json=body(path, message(path, *sent))))
        (puppet := await puppets.next()).end()
        assert (await asking).status_code == 200
    assert puppet.request.parts == given
    assert puppet.request.message == "\n\n".join(part["text"] for part in given if part["type"] == "text")


IN_DIALECT: dict[str, dict[str, Any]] = {
    AI_SDK: {"type": "file", "mediaType": "image/png", "url": PNG},
    AG_UI: {"type": "image", "source": source("data", "AA==", mimeType="image/png")},
    OPENAI: image(),
}
each = pytest.mark.parametrize("path", IN_DIALECT)


@each
async def test_an_image_of_before(path: str, server: Running, puppets: Puppets) -> None:
    """An earlier image leaves a note in the history, and the answer names its path as ignored."""
    picture, answer = IN_DIALECT[path], message(path, text("A sun."), role="assistant")
    messages = [message(path, text("What is it?"), picture), answer, message(path, text("And now?"))]
    async with http(server) as client:
        asking = asyncio.create_task(client.post(path, json=body(path, *messages)))
        (puppet := await puppets.next()).end()
        where = "parts" if path == AI_SDK else "content"
        assert (await asking).headers["twinwire-ignored"] == f"messages[0].{where}[1]"
    request = puppet.request
    assert (request.message, request.parts) == ("And now?", [])
    assert [turn["content"] for turn in request.history] == ["What is it?\n\n[image]", "A sun."]


@each
@pytest.mark.parametrize("index", [0, 2])
async def test_an_image_that_is_not_accepted(path: str, index: int) -> None:
    """An image that the agent does not accept is refused wherever it is; the error names its path and the agent."""
    puppets = Puppets({"file", "params"})
    messages = [message(path, text("a")), message(path, text("b"), role="assistant"), message(path, text("c"))]
    where = "parts" if path == AI_SDK else "content"
    messages[index][where].append(IN_DIALECT[path])
    async with serving({"mine": puppets}) as server, http(server) as client:
        answer = await client.post(path, json=body(path, *messages))
        error = answer.json().get("error", answer.json())
        field = f"messages[{index}].{where}[1]"
        assert (answer.status_code, error.get("field", error.get("param"))) == (400, field)
        assert "`mine`" in error["message"]
    assert puppets.started == 0


WRONG: list[tuple[str, dict[str, Any], str]] = [
    (AI_SDK, {"type": "file", "mediaType": "image/png", "url": "blob:x"}, ".url"),
    (AI_SDK, {"type": "file", "mediaType": "application/pdf"}, ".url"),
    (AI_SDK, {"type": "file", "mediaType": "image/png", "url": PNG, "data": "x"}, ".data"),
    (AG_UI, {"type": "image", "source": PNG}, ".source"),
    (AG_UI, {"type": "image", "source": source("data", "AA==")}, ".source.mimeType"),
    (AG_UI, {"type": "image", "source": source("data", "", mimeType="image/png")}, ".source.value"),
    (AG_UI, {"type": "image", "source": source("file", "file-1")}, ".source.value"),
    (AG_UI, {"type": "image", "source": source("stream", "x")}, ".source.type"),
    (AG_UI, {"type": "document", "source": source("url", "")}, ".source.value"),
    (AG_UI, {"type": "binary", "mimeType": "application/pdf"}, ""),
    (AG_UI, {"type": "binary", "mimeType": "image/png", "url": URL, "data": "AA=="}, ""),
    (AG_UI, {"type": "binary", "data": "AA=="}, ".mimeType"),
    (AG_UI, {"type": ["image"]}, ""),
    (OPENAI, {"type": {"a": 1}}, ""),
    (AG_UI, {"type": "audio", "source": source("url", URL)}, ""),
    (AG_UI, {"type": "video", "source": source("url", URL)}, ""),
    (OPENAI, image("ftp://a"), ".image_url.url"),
    (OPENAI, {**image(), "alt": "x"}, ".alt"),
    (OPENAI, file(filename="a"), ".file"),
    (OPENAI, {"type": "input_audio", "input_audio": {"data": "AA=="}}, ""),
]  # fmt: skip


@pytest.mark.parametrize(("path", "part", "field"), WRONG)
async def test_a_part_that_is_none(
    path: str, part: dict[str, Any], field: str, server: Running, puppets: Puppets
) -> None:
    """An ill-formed part, and one of a kind that no agent can accept, is refused with its path."""
    async with http(server) as client:
        answer = await client.post(path, json=body(path, message(path, text("hi"), part)))
        error = answer.json().get("error", answer.json())
        where = "parts" if path == AI_SDK else "content"
        assert (answer.status_code, error.get("field", error.get("param"))) == (400, f"messages[0].{where}[1]{field}")
    assert puppets.started == 0


@each
async def test_an_image_of_the_assistants(path: str, server: Running, puppets: Puppets) -> None:
    """Only the user's messages may have images."""
    messages = [message(path, IN_DIALECT[path], role="assistant"), message(path, text("hi"))]
    async with http(server) as client:
        assert (await client.post(path, json=body(path, *messages))).status_code == 400
    assert puppets.started == 0


SETTINGS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    (AI_SDK, {"temperature": 0, "webSearch": True, "model": "m", "user": "u"}, {"temperature": 0, "webSearch": True, "model": "m", "user": "u"}),
    (AI_SDK, {"params": {"a": 1}, "callSettings": {"topP": 1}}, {"a": 1, "callSettings": {"topP": 1}}),
    (AG_UI, {"temperature": 0, "forwardedProps": {"a": [1], "b": None}}, {"temperature": 0, "a": [1], "b": None}),
    (OPENAI, {"temperature": 0, "user": "u", "documents": ["x"], "stop": ["\n"]}, {"temperature": 0, "user": "u", "documents": ["x"], "stop": ["\n"]}),
    (OPENAI, {"response_format": {"type": "json_object"}, "params": {"a": 1}}, {"response_format": {"type": "json_object"}, "a": 1}),
    *[(path, {"metadata": {"tags": ["a"]}}, {"metadata": {"tags": ["a"]}}) for path in (AI_SDK, AG_UI, OPENAI)],
]  # fmt: skip


@pytest.mark.parametrize(("path", "fields", "params"), SETTINGS)
async def test_settings(
    path: str, fields: dict[str, Any], params: dict[str, Any], server: Running, puppets: Puppets
) -> None:
    """What is harmless, or not known, is a setting of an agent that accepts any, and nothing of it is ignored."""
    async with http(server) as client:
        asking = asyncio.create_task(client.post(path, json=body(path, **fields)))
        (puppet := await puppets.next()).end()
        answer = await asking
    assert (answer.status_code, "twinwire-ignored" in answer.headers) == (200, False)
    assert (puppet.request.params, puppet.request.metadata) == (params, {})


@each
async def test_single_settings(path: str) -> None:
    """Of an agent that names its settings the others are ignored by name, and what is not known is refused."""
    puppets = Puppets({"temperature"})
    async with serving({"mine": puppets}) as server, http(server) as client:
        asking = asyncio.create_task(client.post(path, json=body(path, temperature=1, top_p=1)))
        (puppet := await puppets.next()).end()
        answer = await asking
        assert (puppet.request.params, answer.headers["twinwire-ignored"]) == ({"temperature": 1}, "top_p")
        for fields, field in (({"webSearch": True}, "webSearch"), ({"params": {"style": 1}}, "params.style")):
            answer = await client.post(path, json=body(path, **fields))
            error = answer.json().get("error", answer.json())
            assert (answer.status_code, error.get("field", error.get("param"))) == (400, field)
    assert puppets.started == 1


async def test_forwarded_properties_in_part() -> None:
    """Of AG-UI's forwarded properties those that the agent does not accept are named by their paths."""
    puppets = Puppets({"a"})
    async with serving({"mine": puppets}) as server, http(server) as client:
        asking = asyncio.create_task(client.post(AG_UI, json=body(AG_UI, forwardedProps={"a": 1, "b": 2})))
        (puppet := await puppets.next()).end()
        assert (puppet.request.params, (await asking).headers["twinwire-ignored"]) == ({"a": 1}, "forwardedProps.b")


APP = {"state": {"a": 1}, "context": [{"description": "d", "value": "v"}], "tools": [{"name": "confirm", "description": "", "parameters": {}}]}  # fmt: skip


@pytest.mark.parametrize(("accepts", "given"), [({"params"}, set()), ({"state", "tools"}, {"state", "tools"}), (set(APP), set(APP))])  # fmt: skip
async def test_what_an_ag_ui_app_sends(accepts: set[str], given: set[str]) -> None:
    """State, context and tools are for an agent that accepts them by name; the client is told of tools without it."""
    puppets = Puppets(accepts)
    async with serving({"mine": puppets}) as server, http(server) as client:
        asking = asyncio.create_task(client.post(AG_UI, json=body(AG_UI, **APP)))
        (puppet := await puppets.next()).end()
        answer = await asking
    assert puppet.request.params == {name: APP[name] for name in given}
    assert set(answer.headers.get("twinwire-ignored", "").split(", ")) - {""} == set(APP) - given
    assert ("CUSTOM" in [event["type"] for event in frames(answer)]) == ("tools" not in given)


@each
async def test_labels(path: str, server: Running, puppets: Puppets) -> None:
    """A `metadata` that has the form of labels is the run's labels, for any agent, and is not ignored."""
    async with http(server) as client:
        asking = asyncio.create_task(client.post(path, json=body(path, metadata={"ticket": "4711"})))
        puppet = await puppets.next()
        told = (await client.get(f"/runs/{puppet.request.run_id}")).json()
        puppet.end()
        assert "twinwire-ignored" not in (await asking).headers
    assert puppet.request.metadata == told["metadata"] == {"ticket": "4711"}
    assert puppet.request.params == {}


@each
async def test_a_messages_own_metadata(path: str, puppets: Puppets) -> None:
    """The last message's metadata is a setting, or named as ignored; that of others is neither."""
    for agent in (puppets, Puppets()):
        last = {**message(path, text("hi")), "metadata": {"quote": 7}}
        before = {**message(path, text("a")), "metadata": {"quote": 6}}
        sent = body(path, before, message(path, text("b"), role="assistant"), last)
        async with serving({"mine": agent}) as server, http(server) as client:
            asking = asyncio.create_task(client.post(path, json=sent))
            (puppet := await agent.next()).end()
            answer = await asking
        accepted = agent is puppets
        assert puppet.request.params == ({"messageMetadata": {"quote": 7}} if accepted else {})
        assert answer.headers.get("twinwire-ignored") == (None if accepted else "messageMetadata")


@each
async def test_an_answer_is_no_setting(path: str, server: Running, puppets: Puppets) -> None:
    """A field by which a client answers a question is refused, also of an agent that accepts any setting."""
    async with http(server) as client:
        assert (await client.post(path, json=body(path, approved=False))).status_code == 400
        assert (await client.post(path, json=body(path, tool_results=[1]))).status_code == 400
    assert puppets.started == 0


@pytest.mark.parametrize("field", ["tools", "functions", "n", "logprobs", "tool_choice", "audio"])
async def test_what_no_agent_can_give_openais_client(field: str, server: Running, puppets: Puppets) -> None:
    """What would change the form of an answer of `/v1` is refused, whatever the agent accepts."""
    async with http(server) as client:
        answer = await client.post(OPENAI, json=body(OPENAI, **{field: [{"x": 1}] if field != "n" else 2}))
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, field)
    assert puppets.started == 0


@each
async def test_settings_over_their_bound(path: str, server: Running, puppets: Puppets) -> None:
    """More than 64 KiB of settings are refused before a run begins."""
    async with http(server) as client:
        answer = await client.post(path, json=body(path, seed="x" * 65536))
        assert answer.status_code == 400
    assert puppets.started == 0


async def test_an_agent_that_is_none(server: Running, puppets: Puppets) -> None:
    """A request for an agent that the server does not have is 404, whatever else is in it."""
    async with http(server) as client:
        for path in (f"{AI_SDK}?agent=no", f"{AG_UI}?agent=no", OPENAI):
            plain = path.partition("?")[0]
            sent = body(plain, message(plain, IN_DIALECT[plain]), **({"model": "no"} if plain == OPENAI else {}))
            assert (await client.post(path, json=sent)).status_code == 404
    assert puppets.started == 0


@each
async def test_headers(path: str, puppets: Puppets) -> None:
    """The agent reads the headers that the settings list, and no other."""
    async with serving({"mine": puppets}, agent_header=("x-tenant",)) as server, http(server) as client:
        asking = asyncio.create_task(client.post(path, json=body(path), headers={"X-Tenant": "acme", "x-other": "no"}))
        (puppet := await puppets.next()).end()
        await asking
    assert puppet.request.headers == {"x-tenant": "acme"}


async def test_over_the_ai_sdks_socket(puppets: Puppets) -> None:
    """The AI SDK's socket takes the same: parts, what an app adds to `body`, `metadata`, and a message's headers."""
    async with serving({"mine": puppets}, agent_header=("x-tenant",)) as server, opened(server) as socket:
        client = Transport(socket)
        sent = [message(AI_SDK, text("hi"), IN_DIALECT[AI_SDK])]
        more = {"body": {"webSearch": True}, "metadata": {"a": "b"}, "headers": {"x-tenant": "acme", "x-other": "no"}}
        await client.say("send", "r1", id="c", messages=sent, **more)
        (puppet := await puppets.next()).end()
        await client.until("end", "r1")
        request = puppet.request
        assert (request.parts, request.params) == ([text("hi"), image()], {"webSearch": True})
        assert (request.metadata, request.headers) == ({"a": "b"}, {"x-tenant": "acme"})


async def test_a_chats_message_alone(server: Running, puppets: Puppets) -> None:
    """A chat's `message` alone brings its image, and the session's history has a note of it in the next turn."""
    async with http(server) as client:
        for sent in (message(AI_SDK, text("What?"), IN_DIALECT[AI_SDK]), message(AI_SDK, text("And?"))):
            asking = asyncio.create_task(client.post(AI_SDK, json={"id": "c", "message": sent}))
            puppet = await puppets.next()
            puppet.say("A sun.")
            puppet.end()
            await asking
    assert [turn["content"] for turn in puppet.request.history] == ["What?\n\n[image]", "A sun."]


async def test_an_approval_starts_nothing(server: Running, puppets: Puppets) -> None:
    """A request with an app's own fields that answers goes on with the run, as often as it is sent, and names them."""
    async with http(server) as client:
        asking = asyncio.create_task(client.post(AI_SDK, json={"id": "c", "messages": said("a"), "webSearch": True}))
        run = Asking(await puppets.next())
        await run.approve(server)
        first = frames(await asking)
        again = {"id": "c", "messages": [*said("a"), approved(ui(first))], "webSearch": True, "temperature": 1}
        second = asyncio.create_task(client.post(AI_SDK, json=again))
        assert (await run.tasks[0]).approved
        run.finish()
        run.end("done")
        answer = await second
        assert frames(answer)[0]["messageId"] == run.run_id
        assert answer.headers["twinwire-ignored"] == "webSearch, temperature"
        late = await client.post(AI_SDK, json=again)
        assert (late.status_code, frames(late)[0]["messageId"]) == (200, run.run_id)
        foreign = await client.post(AI_SDK, json={**again, "id": "other"})
        assert foreign.status_code == 404
        gone = {**ui(first), "parts": [{**part, "approval": {"id": f"ask-{'a' * 26}-1", "approved": True}, "state": "approval-responded"} for part in ui(first)["parts"]]}  # fmt: skip
        forgotten = await client.post(AI_SDK, json={**again, "messages": [*said("a"), gone]})
        assert forgotten.status_code == 404
        theirs = [{**part, "approval": {"id": "theirs", "approved": True}, "state": "approval-responded"} for part in ui(first)["parts"]]  # fmt: skip
        refused = await client.post(AI_SDK, json={**again, "messages": [*said("a"), {**ui(first), "parts": theirs}]})
        assert refused.status_code == 400
        unasked = await client.post(
            AI_SDK, json={**again, "messages": [*said("a"), {**ui(first), "parts": [text("x")]}]}
        )
        assert (unasked.status_code, unasked.json()["field"]) == (400, "messages")
    assert puppets.started == 1


async def test_an_answer_over_a_socket_starts_nothing(puppets: Puppets) -> None:
    """Over the AI SDK's socket an answer with an app's own fields goes on with the same run."""
    async with serving({"mine": puppets}) as server, opened(server) as socket:
        client = Transport(socket)
        await client.say("send", "r1", id="c", messages=said("a"), body={"webSearch": True})
        run = Asking(await puppets.next())
        choice = run.ask()
        first = [told["chunk"] for told in await client.until("end", "r1") if told["type"] == "chunk"]
        messages = [*said("a"), answered(ui(first), "dev")]
        await client.say("send", "r2", id="c", messages=messages, body={"webSearch": True})
        assert await choice == "dev"
        run.end("done")
        second = [told["chunk"] for told in await client.until("end", "r2") if told["type"] == "chunk"]
        assert (second[0]["messageId"], second[-1]["finishReason"]) == (run.run_id, "stop")
    assert puppets.started == 1

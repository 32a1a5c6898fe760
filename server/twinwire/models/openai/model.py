"""The chat model behind any server that speaks OpenAI's chat completions protocol.

The SDK does authorisation, connections and retries; the streamed body is read raw and decoded by `chunks`, which costs
a fraction of the SDK's own objects. `openai` is imported when a model is built: it takes half a second.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import functools
import ipaddress
import logging
import math
import os
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from contextvars import ContextVar
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import TYPE_CHECKING, Any, Unpack, cast
from urllib.request import getproxies

import msgspec

from twinwire import settings
from twinwire.models import Message, Options, Part, ShapedModel, ToolSpec, patient
from twinwire.models.adapters import PushStream, Take
from twinwire.models.openai.chunks import ChunkDecoder
from twinwire.models.openai.codings import Coding
from twinwire.models.openai.failures import refused, retry_after
from twinwire.models.openai.options import Shape, from_settings, secrets, shaped, without_tools
from twinwire.models.openai.traced import traced
from twinwire.protocol.errors import SettingsError, UpstreamError, UpstreamTimeout
from twinwire.protocol.events import dump
from twinwire.telemetry import tracing
from twinwire.telemetry.logging import hide, in_url

if TYPE_CHECKING:
    import ssl

    import openai

    from twinwire.models.openai.connection import Sink
    from twinwire.models.openai.http import httpx

logger = logging.getLogger("twinwire.models")

LINGER = 1.0
"""Seconds of silence after the finish_reason until the answer counts as whole."""

MAX_LINGER = 4.0
"""The most seconds from the finish_reason until then, while bytes come."""

BODY_END_SECONDS = 1.0
"""The most seconds that the body's end may take after `[DONE]`. Once it has come, the connection can be used again."""

_refusals: ContextVar[list[UpstreamError] | None] = ContextVar("refusals", default=None)
"""The errors of the attempts that the server has refused in the call that is under way."""


def _environment(name: str) -> str | None:
    return os.environ.get(f"TWINWIRE_{name}") or os.environ.get(f"OPENAI_{name}") or None


@functools.cache
def _tls() -> ssl.SSLContext:
    """Return the context that all models share: reading the certificates takes 40 ms."""
    from twinwire.models.openai.http import httpx

    return httpx.create_ssl_context()


class _Done(Exception):
    """The answer is whole; its body may go on."""


class _After:
    """Awaits something, then calls `then`; unlike a coroutine it may also be left alone."""

    def __init__(self, awaitable: Awaitable[None], then: Callable[[], None]) -> None:
        self._awaitable = awaitable
        self._then = then

    def __await__(self) -> Generator[Any, None, None]:
        yield from self._awaitable.__await__()
        self._then()


class _StreamOptionsRefused(UpstreamError):
    """The server has refused the request's field `stream_options`."""


def _for_each(response: httpx.Response) -> Callable[[Sink], Awaitable[None]]:
    """Return a function that gives the response's body to a sink. Over a proxy, httpx's own transport is read."""
    for_each: Callable[[Sink], Awaitable[None]] | None = response.extensions.get("for_each")
    if for_each is not None:
        return for_each
    body = response.aiter_raw()

    async def pull(sink: Sink) -> None:
        async for data in body:
            if (room := sink(data)) is not None:
                await room

    return pull


class OpenAIChatModel(ShapedModel):
    """A `ChatModel`. What is not given comes from the environment.

    `model`, `api_key` and `base_url` are `TWINWIRE_MODEL`, `TWINWIRE_API_KEY` and `TWINWIRE_BASE_URL`, else
    `OPENAI_…`; a server named by its base URL needs no key. `timeout`, `TWINWIRE_MODEL_TIMEOUT` or 120, is how many
    seconds the answer's headers may take, retries and their pauses included, and how long its body may be silent. If it
    is not given, the `model_timeout` of an `AgentSpec` counts instead, in the runs of that agent.
    `max_retries` bounds the retries of what failed before the headers. Raises `SettingsError`.

    `options` go with each request: `temperature`, `top_p`, `max_tokens`, `max_completion_tokens`, `reasoning_effort`,
    `stop`, `seed`, `response_format` and `parallel_tool_calls`, and as `extra_body` any other fields of its body, also
    `headers` and a `query`. Each is checked here; what a server makes of it is the server's. Those that are not given
    come from `TWINWIRE_MODEL_OPTION`. A header `api-key`, as Azure has it, is sent in place of `Authorization`.
    A server that refuses the field `stream_options` is asked again without it; `stream_options=False` leaves it out.

    Calls on one event loop share a pool of connections.
    """

    def __init__(
        self,
        model: str | None = None,
        *,
        api_key: str | None = None,
        base_url: str | None = None,
        timeout: float | None = None,
        max_retries: int = 2,
        **options: Unpack[Options],
    ) -> None:
        name = model or _environment("MODEL")
        base_url = base_url or _environment("BASE_URL")
        api_key = (api_key or _environment("API_KEY") or "").strip()
        if not name:
            raise SettingsError("`--model` or `TWINWIRE_MODEL` must name a model.", field="--model")
        if not api_key and not base_url:
            raise SettingsError(
                "`TWINWIRE_API_KEY` is required, unless `--base-url` names a server that requires no key.",
                field="TWINWIRE_API_KEY",
            )
        if base_url and not base_url.startswith(("http://", "https://")):
            raise SettingsError("`--base-url` must start with http:// or https://.", field="--base-url")
        if not (api_key.isascii() and api_key.isprintable()):
            raise SettingsError("`TWINWIRE_API_KEY` must be printable ASCII.", field="TWINWIRE_API_KEY")
        variable = "TWINWIRE_MODEL_OPTION"
        told = settings.load({variable: os.environ.get(variable, "")}, {}).model_option
        self._shape = shaped(shaped(Shape(), from_settings(told, f"{variable} ")), options)
        hide(api_key, *in_url(base_url), *secrets(self._shape))
        self.name = name
        self._api_key = api_key or "no-key"
        self._base_url = base_url
        self._has_timeout = timeout is not None
        if timeout is None:
            variable = "TWINWIRE_MODEL_TIMEOUT"
            timeout = settings.load({variable: os.environ.get(variable, "")}, {}).model_timeout
        self._timeout = timeout
        self._max_retries = max_retries
        self._stream_options = True  # whether the server takes them
        self._loop: asyncio.AbstractEventLoop | None = None
        self._root: OpenAIChatModel | None = None  # whose connections are used, if it is another one
        self._connect()

    @property
    def options(self) -> Mapping[str, Any]:
        """Return the fields of a request's body that the options have set."""
        return self._shape.body

    def with_options(self, **options: Unpack[Options]) -> OpenAIChatModel:
        """Return a model that is asked with these options over those of this one, on the same connections.

        None takes an option out; `headers`, `query` and `extra_body` are added to those that there are. Raises
        `SettingsError`.
        """
        model = copy.copy(self)
        model._root = self._root or self
        model._shape = shaped(self._shape, options)
        hide(*secrets(model._shape))
        return model

    def stream(self, messages: Sequence[Message], tools: Sequence[ToolSpec] = ()) -> PushStream[Sequence[Part]]:
        """Call the model once, as `ChatModel.stream`: what is read at once is one batch, each delta its own part.

        Raises `UpstreamError`, whose code is `upstream_unreachable`, `upstream_timeout`, `upstream_rate_limited`,
        `upstream_auth`, `upstream_context_length`, `upstream_rejected` or `upstream_error` before the answer; after its
        headers `upstream_timeout`, `upstream_error`, `upstream_truncated` or `upstream_garbage`.
        """
        timeout = self._timeout if self._has_timeout else patient(self._timeout)
        shape = msgspec.structs.replace(self._shape, timeout=timeout)
        call = functools.partial((self._root or self)._call, shape, messages, tools)
        return traced(call, self.name, self._server, self._shape.body)

    async def _call(
        self, shape: Shape, messages: Sequence[Message], tools: Sequence[ToolSpec], take: Take[Sequence[Part]]
    ) -> None:
        from twinwire.models.openai.http import httpx

        decoder = ChunkDecoder()
        response = await self._ask(shape, messages, tools)
        try:
            coding = Coding(response.headers.get("content-encoding", ""))
            for_each = _for_each(response)
            loop = asyncio.get_running_loop()
            patience = asyncio.timeout(None)
            latest = math.inf  # when the answer is taken for whole, if it has a finish_reason

            def sink(data: bytes) -> Awaitable[None] | None:
                nonlocal latest
                if coding.plain:
                    batch = decoder.feed(data)
                else:
                    batch = [part for piece in coding.pieces(data) if not decoder.done for part in decoder.feed(piece)]
                room = take(batch) if batch else None
                if decoder.done:
                    raise _Done
                if coding.fault is not None:
                    raise coding.fault
                if (decoder.reason is not None or patience.when() is not None) and not patience.expired():
                    now = loop.time()
                    latest = math.inf if decoder.reason is None else min(latest, now + MAX_LINGER)
                    patience.reschedule(None if decoder.reason is None else min(latest, now + LINGER))
                if room is None or patience.when() is None:
                    return room
                latest = math.inf  # the patience is with the server, not with who takes
                patience.reschedule(None)
                return _After(room, lambda: patience.reschedule(loop.time() + LINGER))

            try:
                async with patience:
                    await for_each(sink)
            except (_Done, TimeoutError):
                pass
            except httpx.ReadTimeout:
                if decoder.reason is None:
                    raise UpstreamTimeout(shape.timeout) from None
            except httpx.HTTPError:
                pass  # broken: `end` knows whether in mid-answer
            whole = decoder.done
            if not whole and (batch := decoder.end()):
                take(batch)
            if decoder.error is not None:
                raise decoder.error
            if whole:
                with contextlib.suppress(TimeoutError, httpx.HTTPError):
                    async with asyncio.timeout(BODY_END_SECONDS):
                        await for_each(lambda _: None)
        finally:
            await response.aclose()

    async def aclose(self) -> None:
        """Close the connections, also of the models that share them. None of these can be used afterwards."""
        await (self._root or self)._client.close()

    async def _ask(self, shape: Shape, messages: Sequence[Message], tools: Sequence[ToolSpec]) -> httpx.Response:
        """Send the request; return the response, whose body is yet to be read.

        The SDK writes all requests alike but for the body, which takes it longer than anything else before the first
        token: so what is like the last ones is sent without it. If that fails, it takes over. All attempts together
        have `timeout` seconds.
        """
        loop = asyncio.get_running_loop()
        if self._loop not in {None, loop}:
            self._connect()  # the old connections belong to the other loop
        self._loop = loop
        refusals: list[UpstreamError] = []
        token = _refusals.set(refusals)
        try:
            async with asyncio.timeout(shape.timeout):
                if self._stream_options and shape.stream_options:
                    try:
                        return await self._attempt(shape, self._body(shape, messages, tools))
                    except _StreamOptionsRefused:
                        self._stream_options = False  # such servers tell the usage without it, or not at all
                        refusals.clear()
                return await self._attempt(shape, self._body(shape, messages, tools))
        except TimeoutError:
            raise (refusals[-1] if refusals else UpstreamTimeout(shape.timeout)) from None
        finally:
            _refusals.reset(token)

    def _body(self, shape: Shape, messages: Sequence[Message], tools: Sequence[ToolSpec]) -> bytes:
        request: dict[str, Any] = {"model": self.name, "messages": messages, "stream": True}
        if self._stream_options and shape.stream_options:
            request["stream_options"] = {"include_usage": True}
        if tools:
            request["tools"] = tools
        return dump({**request, **(shape.body if tools else without_tools(shape.body))})

    async def _attempt(self, shape: Shape, body: bytes) -> httpx.Response:
        """Send a request with this body."""
        from twinwire.models.openai.http import httpx

        transport = self._transport if self._is_plain(shape) else None
        tried = None if transport is None else await transport.like(body, shape.timeout)
        if isinstance(tried, httpx.Response) and tried.is_success:
            return tried
        return await self._post(shape, body, tried)

    def _is_plain(self, shape: Shape) -> bool:
        """Return whether a request of this shape is like others but for its body."""
        return (shape.headers, shape.query) == (self._shape.headers, self._shape.query)

    async def _post(
        self, shape: Shape, body: bytes, tried: httpx.Response | httpx.TransportError | None
    ) -> httpx.Response:
        """Have the SDK send the request, or handle its outcome if it was `tried` already.

        The SDK's `create` would walk through all messages to check them, for longer than the rest takes.
        """
        import openai

        from twinwire.models.openai.http import httpx
        from twinwire.models.openai.pool import first

        theirs = {name.lower(): name for name in self._client.default_headers}  # the SDK tells names by their case
        headers: dict[str, Any] = {"Accept": "text/event-stream", "Accept-Encoding": "identity"}
        headers |= {theirs.get(name, name): value for name, value in shape.headers.items()}
        if "api-key" in shape.headers and "authorization" not in shape.headers:
            headers["Authorization"] = openai.Omit()
        try:
            with first(tried):
                answer: Any = await self._client.post(
                    "/chat/completions",
                    cast_to=httpx.Response,
                    content=body,
                    options={"headers": headers, "params": shape.query, "timeout": shape.timeout},
                    stream=True,
                    stream_cls=openai.AsyncStream[object],  # has to be given; what comes is what `cast_to` says
                )
        except openai.APITimeoutError:
            raise UpstreamTimeout(shape.timeout) from None
        except openai.APIStatusError as error:
            raise self._refused(error) from None
        except openai.OpenAIError as error:
            raise self._unreachable(error.__cause__ or error) from None
        response = cast("httpx.Response", answer)
        if self._transport is not None and self._is_plain(shape) and not response.history:
            self._transport.learn(response.request)
        return response

    def _connect(self) -> None:
        import openai

        from twinwire.models.openai.pool import OnceTransport

        hooks: dict[str, list[Callable[..., Any]]] = {"response": [self._look]}
        direct = not getproxies().keys() & {"http", "https", "all"}  # as httpx looks for them
        self._transport = OnceTransport(_tls()) if direct else None
        if not direct:
            hooks["request"] = [_trace]
        self._client = openai.AsyncOpenAI(
            api_key=self._api_key,
            base_url=self._base_url,
            timeout=self._timeout,
            max_retries=self._max_retries,
            http_client=openai.DefaultAsyncHttpxClient(
                transport=self._transport,
                verify=_tls(),
                event_hooks=hooks,
                cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),  # none: all users share the client
            ),
        )
        url = self._client.base_url
        self._server = url.host, url.port or (443 if url.scheme == "https" else 80)

    async def _look(self, response: httpx.Response) -> None:
        """Look at each response before the SDK and httpx act on it.

        A wait that would use up the time of all attempts is not waited: it would hide the reason. A redirect that
        makes a GET of the request, or leads to another server, is not followed: it would lose the request, or the key.
        """
        headers = response.headers
        wait = retry_after(headers)
        if response.is_error and (seen := _refusals.get()) is not None:
            seen.append(refused(response.status_code, "", wait))
        if wait is not None and wait > self._timeout / (self._max_retries + 1):
            headers["x-should-retry"] = "false"
        if response.has_redirect_location:
            target = response.request.url.join(headers["location"])
            follow = response.status_code in {307, 308} and _same_server(response.request.url, target)
            level = logging.INFO if follow else logging.WARNING
            logger.log(level, "The model's server redirects from %s to %s.", response.request.url, target)
            if not follow:
                del headers["location"]

    def _refused(self, error: openai.APIStatusError) -> UpstreamError:
        response = error.response
        if (fault := response.extensions.get("fault")) is not None:
            return UpstreamError(f"The model's server does not speak HTTP: {fault}.", code="upstream_garbage")
        if response.is_redirect:
            message = f"The model's server redirects the request ({response.status_code}). The log says where to."
            return UpstreamError(message, code="upstream_rejected")
        failure = refused(response.status_code, error.body, retry_after(response.headers))
        if response.status_code in {400, 422} and "stream_options" in str(error.body):
            return _StreamOptionsRefused(failure.message, code=failure.code)
        return failure

    def _unreachable(self, cause: BaseException) -> UpstreamError:
        """Build the error for a server that cannot be reached. Clients are told why if it is on this machine."""
        url = self._client.base_url
        address = f"{url.scheme}://{url.netloc.decode('ascii')}"
        logger.warning("The model's server at %s cannot be reached: %s.", address, cause)
        local = f" at {address}" if _is_loopback(url.host) else ""
        reason = f": {cause}" if local else ""
        return UpstreamError(f"The model's server{local} cannot be reached{reason}.", code="upstream_unreachable")


async def _trace(request: httpx.Request) -> None:
    """Make the request part of the current trace. Our own transport does so by itself."""
    request.headers.update(tracing.current.get().headers())


def _same_server(url: httpx.URL, target: httpx.URL) -> bool:
    """Return whether httpx sends the key along: the origin is the same, or only becomes https."""
    if url.host != target.host:
        return False
    ports = {"http": 80, "https": 443}
    upgraded = (url.scheme, target.scheme) == ("http", "https") and (url.port, target.port) == (None, None)
    same = (url.scheme, url.port or ports[url.scheme]) == (target.scheme, target.port or ports.get(target.scheme))
    return same or upgraded


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"

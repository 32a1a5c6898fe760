"""The chat model in a GGUF file on this machine: llama.cpp's own OpenAI-compatible server, in a child process.

A child, not a thread: a crash of native code then ends one answer, not every run and connection of the server, and
loading a model holds the GIL for as long as it takes. The child is this module run as a program: it listens on the
loopback address only and asks for a key that it makes up. It ends with its parent, however that ends: its standard
input is a pipe that closes. It does not speak the protocol: `openai` does, over HTTP as to any other server.
"""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import os
import secrets
import signal
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from twinwire.models import Message, Part, ToolSpec
from twinwire.models.adapters import PushStream
from twinwire.models.openai.model import OpenAIChatModel
from twinwire.protocol.errors import SettingsError, UpstreamError

logger = logging.getLogger("twinwire.models")

SLOTS = 4
"""The most answers at once; further ones wait in llama.cpp."""

MAX_THREADS = 8
"""Beyond this many, the threads wait for the memory, not the other way round."""

PAUSES = 1.0, 60.0
"""Seconds before a dead process is started again: at first, and at most; doubled each time it dies before these."""


class LocalModel:
    """A `ChatModel` that owns its process: `start` it, and `aclose` it in the same event loop.

    `path` names a GGUF file; the model's `name` is the file's, without its folder and suffix. `context` is how many
    tokens one conversation and its answer may have, `timeout` how many seconds the model may be silent. Where the
    process dies, its answers break off and it is started again. Raises `SettingsError`.
    """

    def __init__(self, path: str, *, context: int = 4096, timeout: float = 120.0) -> None:
        if not os.path.isfile(path):  # noqa: PTH113 - pathlib's raises for names that are too long
            raise SettingsError(f"`--local` must name a file, but there is no file {path!r}.", field="--local")
        try:
            with Path(path).open("rb") as file:
                magic = file.read(4)
        except OSError as error:
            raise SettingsError(
                f"`--local` must name a readable file; {path!r} is not: {error.strerror}.", field="--local"
            ) from None
        if magic != b"GGUF":
            raise SettingsError(f"`--local` must name a GGUF file, but {path!r} is not one.", field="--local")
        if not hasattr(os, "sysconf"):
            raise SettingsError("`--local` requires POSIX. Name a model's server: `--base-url`.", field="--local")
        if importlib.util.find_spec("xllamacpp") is None:
            raise SettingsError("`--local` requires llama.cpp: pip install 'twinwire[local]'.", field="--local")
        self.name = Path(path).stem
        self._path = path
        self._context = context
        self._timeout = timeout
        self._model: OpenAIChatModel | None = None
        self._keeper: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Load the model and return when it can answer. Idempotent. Raises `SettingsError`: it cannot be loaded."""
        if self._keeper is None:
            self._keeper = asyncio.create_task(self._keep(await self._launch()))

    @property
    def running(self) -> bool:
        """Return whether it can be asked now."""
        return self._model is not None

    async def aclose(self) -> None:
        """End the process and return when it has ended."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])

    def stream(self, messages: Sequence[Message], tools: Sequence[ToolSpec] = ()) -> PushStream[Sequence[Part]]:
        """Call the model once, as `OpenAIChatModel.stream`. Raise `upstream_unreachable` while it is not running."""
        if self._model is None:
            raise UpstreamError("The local model is not running. Try again later.", code="upstream_unreachable")
        return self._model.stream(messages, tools)

    async def _launch(self) -> Process:
        """Return a process that has loaded the model."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", __name__, self._path, str(self._context)),
            stdin=PIPE,
            stdout=PIPE,
            start_new_session=True,  # a Ctrl-C is the server's, which then ends its runs first
        )
        try:
            assert process.stdout is not None  # noqa: S101 - it is a pipe
            url, _, key = (await process.stdout.readline()).decode().strip().partition(" ")
            if not key:
                await process.wait()
                raise SettingsError(
                    f"`--local` names {self._path!r}, which cannot be loaded: {await _end(process)}.", field="--local"
                )
            authorization = {"Authorization": f"Bearer {key}"}  # also if the environment has an `api-key` for others
            self._model = OpenAIChatModel(
                self.name, base_url=f"{url}/v1", timeout=self._timeout, max_retries=0, headers=authorization
            )
        except BaseException:
            await _end(process)
            raise
        return process

    async def _keep(self, process: Process) -> None:
        """Start the process again whenever it dies; end it if this task is cancelled."""
        pause = PAUSES[0]
        while True:
            began = time.monotonic()
            try:
                await process.wait()
            finally:
                self._model = None
                how = await _end(process)
            if time.monotonic() - began > PAUSES[1]:
                pause = PAUSES[0]
            while True:
                logger.error("The local model stopped: %s. It is started again in %g s.", how, pause)
                await asyncio.sleep(pause)
                pause = min(2 * pause, PAUSES[1])
                try:
                    process = await self._launch()
                    break
                except (SettingsError, OSError) as error:
                    how = str(error)


async def _end(process: Process) -> str:
    """End the process, if it has not ended by itself, and tell how it ended."""
    with suppress(ProcessLookupError):
        process.kill()
    code = await process.wait()
    return f"its process ended with {signal.Signals(-code).name if code < 0 else f'exit status {code}'}"


def _serve(path: str, context: int) -> None:
    """Load the model, print the server's URL and key, and serve until standard input closes."""
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))  # uvloop hands the server's listening socket down
    import xllamacpp

    parent = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever llama.cpp prints is no answer to the parent
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    key = secrets.token_urlsafe()
    params = xllamacpp.CommonParams()
    params.model.path = path
    params.n_ctx = context * SLOTS
    params.n_parallel = SLOTS
    params.kv_unified = False  # each slot has its own share: no conversation takes another's
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = min(cpus, MAX_THREADS)
    params.cache_ram_mib = 0  # by default up to 8 GiB
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.api_keys = [key]
    params.cors_origins = ""
    params.ui = params.endpoint_slots = False
    params.offline = True
    params.verbosity = 1  # errors only
    try:
        server = xllamacpp.Server(params)
    except RuntimeError:  # llama.cpp has told why on standard error
        sys.exit(1)
    print(server.listening_address, key, file=parent, flush=True)
    sys.stdin.buffer.read()
    os._exit(0)  # at once: there is nothing to save, and nobody to read what is still being made


if __name__ == "__main__":
    _serve(sys.argv[1], int(sys.argv[2]))

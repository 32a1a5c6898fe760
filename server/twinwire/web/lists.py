"""Lists of runs, and the deletion of a run or of all that is kept of a user."""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated, Any
from urllib.parse import quote, unquote

import msgspec
from litestar import Request, Response, delete, get
from litestar.di import NamedDependency
from litestar.params import FromPath
from litestar.utils import normalize_path
from msgspec import Meta, Struct

from twinwire.log import MAX_LISTED, Wanted
from twinwire.protocol.errors import BadRequest, Forbidden, RunNotFound
from twinwire.protocol.fold import STATUSES as FINISHED
from twinwire.protocol.schema import size
from twinwire.protocol.start import AgentName, UserId
from twinwire.protocol.wire import list_page, parse_page, parse_time
from twinwire.web import input as incoming
from twinwire.web.answers import HeldJson
from twinwire.web.guard import asker
from twinwire.web.openapi import documented
from twinwire.web.runs import describe, short
from twinwire.web.service import Service

MAX_LABELS = 16
MAX_USER = 128

STATUSES = ("running", *FINISHED, "error")
Label = Annotated[str, Meta(max_length=1024)]
Time = Annotated[Annotated[str, Meta(max_length=64)] | None, Meta(description="a time of RFC 3339, such as `created`")]
Page = Annotated[Annotated[str, Meta(max_length=128)] | None, Meta(description="the next of another page")]

_outcome = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class ListQuery(Struct, frozen=True, kw_only=True):
    """`GET /runs`."""

    user_id: UserId = None
    limit: Annotated[int, Meta(ge=1, le=MAX_LISTED, description="how many runs at most; default 20")] = 20
    agent: AgentName = None
    status: Annotated[str | None, Meta(description=f"the runs of this status: {', '.join(STATUSES)}")] = None
    label: Annotated[
        tuple[Label, ...],
        Meta(max_length=MAX_LABELS, description="NAME:VALUE, a label that the runs have; repeatable"),
    ] = ()
    created_after: Time = None
    created_before: Time = None
    page: Page = None


@get("/runs", operation_class=documented(query=ListQuery), summary="A user's runs, or everybody's")
async def list_runs(request: Request[Any, Any, Any], service: NamedDependency[Service]) -> HeldJson:
    """Return a page of the runs that the user may see and the log holds, the newest first, without their results.

    A run without a user is in an admin's list alone: whoever knows its id may follow and cancel it.
    """
    asked = incoming.query(request, ListQuery)
    by = asker(request)
    user_id = asked.user_id if by.admin else by.named(asked.user_id)
    if user_id is None and not by.admin:
        raise BadRequest("`user_id` is required when authentication is off.", field="user_id")
    if asked.status not in {None, *STATUSES}:
        raise BadRequest(f"`status` must be one of {', '.join(STATUSES)}.", field="status")
    if any(":" not in label for label in asked.label):
        raise BadRequest("`label` must be NAME:VALUE, such as team:red.", field="label")
    since, until = asked.created_after, asked.created_before
    wanted = Wanted(
        user_id=user_id,
        agent=asked.agent,
        status=asked.status,
        labels=asked.label,
        created_after=None if since is None else parse_time(since, "created_after"),
        created_before=None if until is None else parse_time(until, "created_before"),
    )
    found = await service.runs.listed(wanted, by, asked.limit, None if asked.page is None else parse_page(asked.page))
    listed = []
    for run_id in found.run_ids:
        with suppress(RunNotFound):  # forgotten meanwhile
            run = await service.runs.summary(run_id, by)
            told = await describe(service, run, _outcome(run.outcome) if run.outcome else {})
            listed.append({**told, "questions": short(told["questions"])})
    told_of = [part for run in listed for part in (run["questions"], run.get("metadata", {}))]
    claim = await service.runs.reserve.take(size(*told_of))
    return HeldJson({"runs": listed, **({} if found.next is None else {"next": list_page(*found.next)})}, claim)


@delete("/runs/{run_id:str}", status_code=204, summary="Delete a run")
async def delete_run(
    request: Request[Any, Any, Any], run_id: FromPath[str], service: NamedDependency[Service]
) -> Response[None]:
    """Delete all that is kept of a run, but for its turn in its conversation; one that goes on is cancelled first."""
    await service.runs.delete(run_id, asker(request))
    return Response(None, status_code=204)


@delete("/users/{user_id:path}", status_code=204, summary="Delete what is kept of a user")
async def forget_user(request: Request[Any, Any, Any], service: NamedDependency[Service]) -> Response[None]:
    """Delete a user's runs, those that go on are cancelled first, and conversations: one's own, or as an admin any."""
    user_id = _user_in(request.scope)
    by = asker(request)
    if not by.admin and by.user_id not in {None, user_id}:
        raise Forbidden("Only this user, or an admin, may delete what is kept of the user.")
    await service.runs.forget(user_id)
    return Response(None, status_code=204)


def _user_in(scope: Any) -> str:
    """Return the user that a path names: all after `/users/`, percent-encoded, so that a slash in it is %2F.

    Raise `BadRequest` if it is none: another one is not to be deleted for it.
    """
    path = (scope.get("raw_path") or quote(scope["path"]).encode()).partition(b"?")[0]
    name = path.rpartition(b"/users/")[2].decode("latin-1")
    try:
        user_id = unquote(name, errors="strict")
    except UnicodeDecodeError:
        user_id = ""
    whole = scope["path"] == normalize_path(f"/users/{user_id}")  # the router's form: with no second slash in a row
    if not whole or "/" in name or not 0 < len(user_id) <= MAX_USER:
        raise BadRequest(
            f"The path must end with /users/ and the user's name, of 1 to {MAX_USER} characters, percent-encoded as"
            " one segment.",
            field="user_id",
        )
    return user_id

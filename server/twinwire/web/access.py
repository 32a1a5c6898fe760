"""`/tickets`, `/login`, `/logout`: the credentials of a browser, which cannot send a header with each request."""

from __future__ import annotations

from typing import Annotated, Any

from litestar import Request, Response, post
from litestar.datastructures import Cookie
from litestar.di import NamedDependency
from msgspec import Meta, Struct

from twinwire.auth import rfc3339
from twinwire.web import input as incoming, mounting
from twinwire.web.answers import JsonResponse
from twinwire.web.guard import COOKIE, asker
from twinwire.web.openapi import documented
from twinwire.web.service import Service


class TicketBody(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`POST /tickets`."""

    run_id: Annotated[str | None, Meta(description="a run of yours; the ticket is then for following it alone")] = None


@post("/tickets", operation_class=documented(body=TicketBody), status_code=201, summary="A ticket for a URL")
async def ticket(request: Request[Any, Any, Any], service: NamedDependency[Service]) -> Response[dict[str, Any]]:
    """Return a ticket for `?ticket=`, which can be used again until it expires."""
    by = asker(request)
    data = await incoming.body(request, service)
    run_id = incoming.struct(data, TicketBody).run_id if data else None
    if run_id is not None:
        await service.runs.state(run_id, by)
    text, until = service.auth.grant("ticket", by, run_id)
    return JsonResponse({"ticket": text, "expires_at": rfc3339(until)})


@post("/login", status_code=200, summary="A cookie for a browser")
async def login(request: Request[Any, Any, Any], service: NamedDependency[Service]) -> Response[dict[str, Any]]:
    """Set a cookie that no script can read, for as long as the login lasts."""
    by = asker(request)
    text, until = service.auth.grant("login", by)
    life = int(service.settings.login_life)
    body = {"user_id": by.user_id, "expires_at": rfc3339(until)}
    return JsonResponse(body, cookies=[_cookie(request, text, life)])


@post("/logout", status_code=204, summary="End a login")
async def logout(request: Request[Any, Any, Any], service: NamedDependency[Service]) -> Response[None]:
    """Delete the user's cookie, revoke their tickets and logins, and end their streams, on all workers."""
    by = asker(request)
    if by.user_id is not None:
        await service.log_out(by.user_id)
    return Response(None, status_code=204, cookies=[_cookie(request, "", 0)])


def _cookie(request: Request[Any, Any, Any], value: str, life: int) -> Cookie:
    """Return a cookie that no page of another site has a browser send, be it with a form, a link or a socket."""
    secure = request.scope["scheme"] == "https"
    path = mounting.prefix(request.scope) or "/"
    return Cookie(COOKIE, value=value, path=path, max_age=life, httponly=True, samesite="strict", secure=secure)

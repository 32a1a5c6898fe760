"""The scope that each route and each command needs: `ROUTES` and `COMMANDS`.

`web.guard` reads one for each request, a socket the other for each command. A route that is not in `ROUTES` needs the
whole identity.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any


class Scope(enum.Enum):
    """The part of an identity that a request needs.

    `OPEN`: none. `FOLLOW`: a ticket for one run is enough, for that run alone; whoever serves the request checks the
    run. `WHOLE`: a credential for everything that is the user's, which a ticket for one run is not.
    """

    OPEN = "open"
    FOLLOW = "follow"
    WHOLE = "whole"


ROUTES: Mapping[str, Scope] = {
    "GET /": Scope.OPEN,
    "GET /page/{file_path}": Scope.OPEN,
    "GET /client/{file_path}": Scope.OPEN,
    "GET /healthz": Scope.OPEN,
    "GET /readyz": Scope.OPEN,
    "GET /chat": Scope.FOLLOW,  # with a cursor; `RunSpec.of` asks for the whole identity before a start
    "POST /chat": Scope.FOLLOW,
    "GET /chat/stream": Scope.FOLLOW,
    "POST /chat/stream": Scope.FOLLOW,
    "GET /runs": Scope.FOLLOW,
    "GET /runs/{run_id}": Scope.FOLLOW,
    "GET /runs/{run_id}/events": Scope.FOLLOW,
    "GET /runs/{run_id}/snapshot": Scope.FOLLOW,
    "GET /ai-sdk/chat/{chat_id}/stream": Scope.FOLLOW,
    "WS /ws": Scope.FOLLOW,
    "WS /ai-sdk/ws": Scope.FOLLOW,
    "POST /runs": Scope.WHOLE,
    "POST /runs/{run_id}/cancel": Scope.WHOLE,
    "DELETE /runs/{run_id}": Scope.WHOLE,
    "DELETE /users/{user_id}": Scope.WHOLE,
    "POST /runs/{run_id}/inputs/{input_id}": Scope.WHOLE,
    "POST /runs/{run_id}/messages": Scope.WHOLE,
    "POST /tickets": Scope.WHOLE,
    "POST /login": Scope.WHOLE,
    "POST /logout": Scope.WHOLE,
    "POST /ai-sdk/chat": Scope.WHOLE,
    "POST /ai-sdk/chat/{chat_id}/stop": Scope.WHOLE,
    "POST /ag-ui": Scope.WHOLE,
    "POST /v1/chat/completions": Scope.WHOLE,
    "GET /v1/models": Scope.WHOLE,
    "GET /v1/models/{name}": Scope.WHOLE,
    "GET /metrics": Scope.WHOLE,
    "GET /schema": Scope.WHOLE,
    "GET /schema/openapi.json": Scope.WHOLE,
    "GET /schema/{path}": Scope.WHOLE,
}
"""By method and path; HEAD needs what GET does. `WS` opens a socket, whose commands have scopes of their own."""

COMMANDS: Mapping[str, Mapping[str, Scope]] = {
    "/ws": {
        "auth": Scope.OPEN,
        "ping": Scope.FOLLOW,
        "attach": Scope.FOLLOW,
        "detach": Scope.FOLLOW,
        "pause": Scope.FOLLOW,
        "resume": Scope.FOLLOW,
        "start": Scope.WHOLE,
        "cancel": Scope.WHOLE,
        "answer": Scope.WHOLE,
        "send": Scope.WHOLE,
    },
    "/ai-sdk/ws": {
        "auth": Scope.OPEN,
        "resume": Scope.FOLLOW,
        "send": Scope.WHOLE,
        "abort": Scope.WHOLE,
    },
}
"""By the socket's path and the command's `type`."""


def of_route(method: str, path: str) -> Scope:
    """Return the scope of a request to a route, whose `path` has its parameters' names in braces."""
    return ROUTES.get(f"{'GET' if method == 'HEAD' else method} {path}", Scope.WHOLE)


def of_command(path: str, command: Any) -> Scope:
    """Return the scope of a command, a Struct with a tag, on the socket at this path."""
    return COMMANDS[path].get(type(command).__struct_config__.tag, Scope.WHOLE)

"""The OpenAPI, at `/schema`, and that of handlers that read their input themselves: from the Structs they read it into.

It is JSON alone: the framework's pages about it have the browser run a foreign site's script as ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import msgspec
from litestar import Request, Router
from litestar.enums import MediaType
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import OpenAPIMediaType, OpenAPIType, Operation, Parameter, Reference, RequestBody, Schema
from msgspec import Struct

from twinwire.protocol.errors import NotFound
from twinwire.web import mounting

_KEYWORDS = {
    "description": "description",
    "default": "default",
    "enum": "enum",
    "minLength": "min_length",
    "maxLength": "max_length",
    "pattern": "pattern",
}


class _Document(JsonRenderPlugin):
    """Names as the document's server the prefix below which this app is."""

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        """See `JsonRenderPlugin`."""
        servers = [{"url": mounting.prefix(request.scope) or "/"}]
        return super().render(request, {**openapi_schema, "servers": servers})


def config() -> OpenAPIConfig:
    """`/schema`, also as `/schema/openapi.json`."""

    def known(request: Request[Any, Any, Any]) -> None:
        if request.path_params:  # Litestar has a page for any other path
            raise NotFound

    return OpenAPIConfig(
        "Twinwire",
        "1",
        openapi_router=Router("/schema", route_handlers=[], include_in_schema=False, before_request=known),
        render_plugins=[_Document(path=["/", "/openapi.json"], media_type=MediaType.JSON)],
    )


def documented(*, query: type[Struct] | None = None, body: type[Struct] | None = None) -> type[Operation]:
    """Return an operation class for a Litestar handler whose query and JSON body are these Structs.

    The guard reads there what the query may have: `query.check`.
    """

    @dataclass
    class Documented(Operation):
        takes: ClassVar[type[Struct] | None] = query
        elsewhere: ClassVar[tuple[type[Struct], ...]] = () if body is None else (body,)

        def __post_init__(self) -> None:
            if query is not None:
                fields = _properties(query)
                self.parameters = [
                    *(self.parameters or []),
                    *(Parameter(name, "query", schema=schema, required=False) for name, schema in fields.items()),
                ]
            if body is not None and "Get" not in (self.operation_id or ""):
                required = [field.encode_name for field in msgspec.structs.fields(body) if field.required]
                schema = Schema(type=OpenAPIType.OBJECT, properties=dict(_properties(body)), required=required or None)
                self.request_body = RequestBody(
                    {"application/json": OpenAPIMediaType(schema=schema)}, required=bool(required)
                )

    return Documented


def _properties(shape: type[Struct]) -> dict[str, Reference | Schema]:
    (ref,), components = msgspec.json.schema_components([shape], ref_template="{name}")
    return _schema(components[ref["$ref"]], components).properties or {}


def _schema(spec: dict[str, Any], components: dict[str, Any]) -> Schema:
    """Return a JSON Schema of msgspec's, of the kinds that our input has, as Litestar's object."""
    options = [components.get(option.get("$ref"), option) for option in spec.get("anyOf", [spec])]
    types = [OpenAPIType(option["type"]) for option in options if "type" in option]
    if not types and "enum" in spec:
        types = [OpenAPIType.STRING]
    schema = Schema(type=types[0] if len(types) == 1 else types or None)  # without a type it is any JSON
    for option in (*options, spec):
        for theirs, ours in _KEYWORDS.items():
            if theirs in option:
                setattr(schema, ours, option[theirs])
        if "items" in option:
            schema.items = _schema(option["items"], components)
        if "properties" in option:
            schema.properties = {name: _schema(inner, components) for name, inner in option["properties"].items()}
    return schema

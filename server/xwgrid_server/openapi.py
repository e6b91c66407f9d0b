"""The OpenAPI 3.1 document of the API port, made from the messages and the table of routes. `python -m` prints it."""

from __future__ import annotations

import json
import sys
from typing import Any

import msgspec

from xwgrid import __version__, wire
from xwgrid.errors import BY_CODE
from xwgrid_server.http_routes import DOCUMENT, ROUTES, Answer, Content, Parameter, Route

_REFERENCE = "#/components/schemas/{name}"
_ERROR = {"application/json": {"schema": {"$ref": _REFERENCE.format(name="ErrorBody")}}}


def document() -> dict[str, Any]:
    """Return the document as plain data."""
    messages: list[Any] = [wire.ErrorBody, wire.Event]
    for route in ROUTES:
        contents = (route.body, *(answer.content for answer in route.answers.values()))
        messages += [content for content in contents if content is not None and not isinstance(content, str)]
    kinds = list(dict.fromkeys(messages))
    schemas, components = msgspec.json.schema_components(kinds, ref_template=_REFERENCE)
    shapes = dict(zip(kinds, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for route in ROUTES:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, shapes)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "xwgrid",
            "version": __version__,
            "summary": "The API port of an xwgrid server: jobs, blobs, progress",
            "description": "A refusal is an ErrorBody. What a user may not see is answered with 404.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": dict(sorted(components.items())),
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "description": "the whole text of a requester token"}
            },
        },
        "security": [{"token": []}],
    }


def text() -> str:
    """Return the document as it is served and kept in docs/openapi.json."""
    return json.dumps(document(), indent=1, sort_keys=False) + "\n"


def _operation(route: Route, shapes: dict[Any, dict[str, Any]]) -> dict[str, Any]:
    operation: dict[str, Any] = {"operationId": route.operation, "summary": route.summary}
    if route.open:
        operation["security"] = []
    if route.parameters:
        operation["parameters"] = [_parameter(parameter) for parameter in route.parameters]
    if route.body is not None:
        operation["requestBody"] = {"required": True, "content": _content(route.body, shapes)}
    answers = {str(status): _answer(answer, shapes) for status, answer in route.answers.items()}
    statuses = {400, 413, *route.errors} | (set() if route.open else {401})
    for status in sorted(statuses):
        answers[str(status)] = _refusal(status, bodiless=route.method == "HEAD")
    operation["responses"] = answers
    return operation


def _parameter(parameter: Parameter) -> dict[str, Any]:
    schema = dict(msgspec.json.schema(parameter.kind))
    if reference := schema.pop("$ref", None):
        schema = dict(schema["$defs"][reference.rpartition("/")[2]])
    if parameter.default is not None:
        schema["default"] = parameter.default
    return {
        "name": parameter.name,
        "in": parameter.place,
        "required": parameter.place == "path",
        "description": parameter.meaning,
        "schema": schema,
    }


def _content(content: Content, shapes: dict[Any, dict[str, Any]]) -> dict[str, Any]:
    if content == DOCUMENT:
        return {"application/json": {"schema": {"type": "object"}}}
    if isinstance(content, str):
        return {content: {"schema": {"type": "string"}}} if content.startswith("text/") else {content: {}}
    return {"application/json": {"schema": shapes[content]}}


def _answer(answer: Answer, shapes: dict[Any, dict[str, Any]]) -> dict[str, Any]:
    made: dict[str, Any] = {"description": answer.meaning}
    if answer.content is not None:
        made["content"] = _content(answer.content, shapes)
    if answer.headers:
        made["headers"] = {
            name: {"description": meaning, "schema": {"type": "string"}} for name, meaning in answer.headers.items()
        }
    return made


def _refusal(status: int, *, bodiless: bool) -> dict[str, Any]:
    # The first sentence of an error's docstring says what it means.
    errors = sorted((kind for kind in set(BY_CODE.values()) if kind.http_status == status), key=lambda kind: kind.code)
    meanings = [" ".join((kind.__doc__ or "").split()) for kind in errors]
    refusal: dict[str, Any] = {"description": " / ".join(meanings) or "There are no such bytes."}
    if not bodiless:
        refusal["content"] = _ERROR
    if status in {404, 409}:
        refusal["headers"] = {
            "Upload-Offset": {
                "description": "of an upload that is not complete: how many bytes of it are here",
                "schema": {"type": "integer", "minimum": 0},
            }
        }
    return refusal


if __name__ == "__main__":
    sys.stdout.write(text())

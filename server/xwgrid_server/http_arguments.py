"""The arguments of a call, from the text of its address to values of the kinds that its route tells."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from xwgrid.errors import BadInput, GridError, NotFound
from xwgrid_server.http_routes import Route


def arguments(route: Route, path: Mapping[str, str], query: Mapping[str, str]) -> dict[str, Any]:
    """Return a call's arguments by name, each of its kind. Raises NotFound for the path's, BadInput for the query's."""
    found: dict[str, Any] = {}
    for parameter in route.parameters:
        if parameter.place == "path":
            found[parameter.name] = converted(path[parameter.name], parameter.kind, NotFound)
        elif parameter.place == "query":
            text = query.get(parameter.name)
            found[parameter.name] = (
                parameter.default if text is None else converted(text, parameter.kind, BadInput, parameter.name)
            )
    return found


def converted(text: str, kind: Any, refusal: type[GridError], name: str = "") -> Any:
    """Return text as a value of `kind`. Raises `refusal`, NotFound or BadInput."""
    try:
        return msgspec.convert(text, kind, strict=False)
    except msgspec.ValidationError as error:
        if refusal is NotFound:
            raise NotFound(f"there is nothing named {text[:100]!r} here: check the name or number") from error
        raise refusal(f"{name}={text[:100]!r}: {error}", parameter=name) from error

"""A batch of structs as one SQL parameter: `FROM rows` on both databases, whatever the number of rows."""

from __future__ import annotations

import types
from collections.abc import Sequence
from enum import StrEnum
from typing import Any, Final, NewType, Union, get_args, get_origin, get_type_hints

import msgspec
from sqlalchemy import TextClause, text

_POSTGRESQL_TYPES: Final = {int: "bigint", float: "double precision", str: "text", bool: "boolean"}


def statement(dialect: str, kind: type[msgspec.Struct], sql: str) -> TextClause:
    """Return `sql` with its one `{rows}` replaced by a source named `r`, a column for each field of `kind`.

    The statement takes one parameter, `rows`, made by `parameter`. `dialect` is "sqlite" or "postgresql".
    """
    columns = {name: _plain(annotation) for name, annotation in get_type_hints(kind).items()}
    if dialect == "postgresql":
        types_of = ", ".join(f"{name} {_POSTGRESQL_TYPES[plain]}" for name, plain in columns.items())
        source = f"json_to_recordset(CAST(:rows AS json)) AS r({types_of})"
    else:
        fields = ", ".join(f"json_extract(value, '$.{name}') AS {name}" for name in columns)
        source = f"(SELECT {fields} FROM json_each(:rows)) AS r"  # noqa: S608  # field names of our own structs
    return text(sql.replace("{rows}", source))


def parameter(rows: Sequence[msgspec.Struct]) -> dict[str, str]:
    """Return the parameter that carries `rows`.

    Strangers' texts may hold the character U+0000, which PostgreSQL cannot keep: it becomes U+FFFD.
    """
    return {"rows": msgspec.json.encode(rows).decode().replace("\\u0000", "\\ufffd")}


def numbers(values: Sequence[int]) -> dict[str, str]:
    """Return the parameter that carries numbers for `number_list`."""
    return {"numbers": msgspec.json.encode(values).decode()}


def number_list(dialect: str) -> str:
    """Return a subquery of the numbers in the parameter `numbers`."""
    if dialect == "postgresql":
        return "(SELECT CAST(value AS bigint) FROM json_array_elements_text(CAST(:numbers AS json)) AS value)"
    return "(SELECT value FROM json_each(:numbers))"


def _plain(annotation: Any) -> type:
    """Return int, float, str or bool for an annotation such as `ReplicaId | None`."""
    if isinstance(annotation, NewType):
        return _plain(annotation.__supertype__)
    if get_origin(annotation) in (Union, types.UnionType):
        (only,) = [part for part in get_args(annotation) if part is not type(None)]
        return _plain(only)
    if isinstance(annotation, type) and issubclass(annotation, StrEnum):
        return str
    if annotation in _POSTGRESQL_TYPES:
        return annotation  # type: ignore[no-any-return]
    raise TypeError(f"no column type for {annotation}")

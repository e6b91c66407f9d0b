"""Settings: one TOML file and environment overrides, parsed once into a frozen value."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from xwgrid.errors import BadSettings

T = TypeVar("T", bound=msgspec.Struct)


def parse(kind: type[T], text: str, *, source: str, environment: Mapping[str, str], prefix: str) -> T:
    """Read settings of `kind`, a frozen Struct with `forbid_unknown_fields`, from TOML `text`.

    `environment` overrides top-level keys: `XWGRID_SERVER_API=…` sets `api` when `prefix` is "XWGRID_SERVER_". `source`
    names the file in messages. Raises BadSettings naming source, key and value.
    """
    try:
        values: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadSettings(f"{source} is not TOML: {error}", file=source) from error
    fields = {field.encode_name for field in msgspec.structs.fields(kind)}
    for name, value in environment.items():
        key = name.removeprefix(prefix).lower()
        if name.startswith(prefix) and key in fields:
            values[key] = _from_environment(value)
            source_of = name
            _convert(kind, {key: values[key]}, source_of, partial=True)
    return _convert(kind, values, source, partial=False)


def _convert(kind: type[T], values: dict[str, Any], source: str, *, partial: bool) -> T:
    try:
        return msgspec.convert(values, kind)
    except msgspec.ValidationError as error:
        message = str(error)
        if partial and "missing required field" in message:
            return None  # type: ignore[return-value]  # only this one value was to be checked
        known = ", ".join(sorted(field.encode_name for field in msgspec.structs.fields(kind)))
        raise BadSettings(f"{source}: {message} (known keys: {known})", file=source) from error


def _from_environment(value: str) -> Any:
    """Read a value as TOML where it is TOML (numbers, true, lists), else take it as text."""
    try:
        return tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return value

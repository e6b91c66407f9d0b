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
    overrides = {
        key: name
        for name in environment
        if name.startswith(prefix) and (key := name.removeprefix(prefix).lower()) in fields
    }
    values |= {key: _from_environment(environment[name]) for key, name in overrides.items()}
    try:
        return msgspec.convert(values, kind)
    except msgspec.ValidationError as error:
        blamed = _blamed(kind, values, overrides) or source
        known = ", ".join(sorted(fields))
        raise BadSettings(f"{blamed}: {error} (known keys: {known})", file=blamed) from error


def _blamed(kind: type[T], values: dict[str, Any], overrides: Mapping[str, str]) -> str | None:
    """Return the environment variable without which all would be well, None when there is no such one."""
    for key, name in overrides.items():
        try:
            msgspec.convert({each: value for each, value in values.items() if each != key}, kind)
        except msgspec.ValidationError as error:
            if "missing required field" not in str(error):
                continue
        return name
    return None


def _from_environment(value: str) -> Any:
    """Read a value as TOML where it is TOML (numbers, true, lists), else take it as text."""
    try:
        return tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return value

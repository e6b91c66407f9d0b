"""The requester's settings, and the credentials that `xwgrid login` keeps."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import platformdirs
from msgspec import Struct

from xwgrid import settings_file, tokens
from xwgrid.errors import BadSettings, GridError, Unauthenticated

PREFIX = "XWGRID_"
_TOKEN_FILE = "token"  # noqa: S105  # the name of a file, not a secret
_CA_FILE = "ca.pem"


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `requester.toml` may say; every key has an environment override, such as XWGRID_RUNTIMES."""

    credentials: str | None = None  # folder of the token and the CA; None: platformdirs' configuration folder
    runtimes: str | None = None  # folder of the runtimes; None: platformdirs' data folder
    blender: tuple[str, ...] | None = None  # command of a Python with bpy, or of a `blender`; None: looked for
    inspect_seconds: float = 300.0  # how long a scene may take to open and to tell what it uses
    connections: int = 4  # blobs on their way at the same time

    def credentials_folder(self) -> Path:
        """Return the folder that holds the token and the CA."""
        if self.credentials is not None:
            return Path(self.credentials).expanduser()
        return Path(platformdirs.user_config_dir("xwgrid")) / "credentials"

    def runtimes_folder(self) -> Path:
        """Return the folder in which runtimes such as blender-bpy-4.5.15 lie."""
        if self.runtimes is not None:
            return Path(self.runtimes).expanduser()
        return Path(platformdirs.user_data_dir("xwgrid")) / "runtimes"


class Credentials(Struct, frozen=True, kw_only=True):
    """Who we are to which server, and whom to trust for it."""

    token: tokens.Token
    ca_pem: str


def load_settings(path: Path | None, environment: Mapping[str, str]) -> Settings:
    """Read the settings file at `path`, or the one in the usual place if there is one.

    Raises BadSettings.
    """
    chosen = path or Path(platformdirs.user_config_dir("xwgrid")) / "requester.toml"
    try:
        text = chosen.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        if path is not None:
            raise BadSettings(f"there is no settings file {path}", file=str(path)) from error
        text = ""
    except (OSError, UnicodeDecodeError) as error:
        raise BadSettings(f"the settings file {chosen} cannot be read: {error}", file=str(chosen)) from error
    return settings_file.parse(Settings, text, source=str(chosen), environment=environment, prefix=PREFIX)


def save_credentials(folder: Path, credentials: Credentials) -> None:
    """Keep the token, readable by its owner alone, and the CA beside it.

    Raises GridError when the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        _write(folder / _CA_FILE, credentials.ca_pem, 0o644)
        _write(folder / _TOKEN_FILE, credentials.token.text() + "\n", 0o600)
    except OSError as error:
        raise GridError(f"the credentials cannot be kept in {folder}: {error.strerror}", folder=str(folder)) from error


def load_credentials(folder: Path) -> Credentials:
    """Read what `save_credentials` wrote.

    Raises Unauthenticated when nobody has logged in here, or when the CA kept is not the one of the token.
    """
    try:
        token = tokens.parse((folder / _TOKEN_FILE).read_text(encoding="utf-8"), kind="requester")
        ca_pem = (folder / _CA_FILE).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise Unauthenticated(
            "you have not logged in: ask the operator for a requester token (xwgrid-admin token requester) "
            "and hand it to: xwgrid login",
            folder=str(folder),
        ) from error
    except OSError as error:
        raise Unauthenticated(f"the credentials in {folder} cannot be read: {error.strerror}") from error
    tokens.check_ca(ca_pem, token)
    return Credentials(token=token, ca_pem=ca_pem)


def _write(path: Path, text: str, mode: int) -> None:
    """Replace a file in one step; it never exists with wider rights than `mode`."""
    partial = path.with_name(path.name + ".part")
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)

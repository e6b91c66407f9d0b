"""`xwgrid-admin app`: the signed application versions that volunteers may run."""

from __future__ import annotations

import time
from pathlib import Path

import click

from xwgrid import signing, wire
from xwgrid.applications import manifests
from xwgrid.command_line import example
from xwgrid.errors import BadInput
from xwgrid.model import SignedManifest
from xwgrid_server import application_versions, signing_keys
from xwgrid_server.admin_desk import Desk, desk_command, table, when
from xwgrid_server.blob_files import BlobFiles

_PATH = click.Path(path_type=Path)


@click.group()
def app() -> None:
    """Application versions: what volunteers may be asked to run."""


@app.command("list", epilog=example("xwgrid-admin app list"))
@desk_command
def app_list(desk: Desk) -> None:
    """List the published versions; new jobs take the first of each application."""
    with desk.database() as engine:
        found = application_versions.list_versions(engine)
    rows = [(one.application, one.version, one.runtime, when(one.published_at), one.signed.key) for one in found]
    headings = ("application", "version", "runtime", "published", "signed by")
    desk.answer(found, table(headings, rows, "nothing is published: xwgrid-admin app publish --signing-key KEY"))


@app.command(
    "publish",
    epilog=example(
        "xwgrid-admin app publish --signing-key key.pem",
        "xwgrid-admin app publish --signed blender.json --files blender/",
    ),
)
@click.option("--signing-key", type=_PATH, help="Sign and publish the versions this program carries with this key.")
@click.option("--signed", type=_PATH, help="Publish a version signed elsewhere (see `app sign`) ...")
@click.option("--files", "folder", type=_PATH, help="... whose files lie below this folder.")
@desk_command
def app_publish(desk: Desk, signing_key: Path | None, signed: Path | None, folder: Path | None) -> None:
    """Publish application versions; those that are published already stay as they are."""
    wanted: list[tuple[SignedManifest, dict[str, bytes]]] = []
    if signing_key is not None and signed is None and folder is None:
        key = signing_keys.read(signing_key)
        wanted = [(signing.sign(manifest, key), dict(files)) for manifest, files in manifests.built_in()]
    elif signing_key is None and signed is not None and folder is not None:
        wanted = [_read(signed, folder)]
    else:
        raise BadInput("say either --signing-key KEY, or --signed FILE together with --files FOLDER")
    blobs = BlobFiles(desk.settings.blobs_folder, desk.settings.staging_folder)
    with desk.database() as engine:
        blobs.prepare()
        before = {(one.application, one.version) for one in application_versions.list_versions(engine)}
        keys = application_versions.trusted_keys(engine)
        done = []
        for manifest, files in wanted:
            what = signing.verify(manifest, {manifest.key})
            if (what.application, what.version) not in before:
                done.append(application_versions.publish(engine, blobs, manifest, files, time.time()))
    told = [f"published {one.application} {one.version}" for one in done] or ["all of it was published already"]
    if keys and any(one.signed.key not in keys for one in done):
        told.append("It is signed by a new key: volunteers that joined before do not trust it until they enrol again.")
    desk.answer(done, "\n".join(told))


@app.command("sign", epilog=example("xwgrid-admin app sign --signing-key key.pem --out to-publish/"))
@click.option("--signing-key", type=_PATH, required=True, help="Ed25519 private key, PEM.")
@click.option("--out", "folder", type=_PATH, required=True, help="A folder that does not exist yet.")
@click.option("--json", "as_json", is_flag=True, help="Answer with one JSON document.")
def app_sign(signing_key: Path, folder: Path, as_json: bool) -> None:
    """Sign the versions this program carries, on a machine that keeps the key and needs no server."""
    key = signing_keys.read(signing_key)
    if folder.exists():
        raise BadInput(f"{folder} exists already: name a folder to be made", path=str(folder))
    made = []
    for manifest, files in manifests.built_in():
        for path, data in files.items():
            target = folder / manifest.application / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        signed = folder / f"{manifest.application}.json"
        signed.write_bytes(wire.encode(signing.sign(manifest, key)))
        made.append({"signed": str(signed), "files": str(folder / manifest.application)})
    lines = [f"xwgrid-admin app publish --signed {one['signed']} --files {one['files']}" for one in made]
    click.echo(wire.encode(made).decode() if as_json else "\n".join(["Signed. On the server:", *lines]))


@app.command("revoke", epilog=example("xwgrid-admin app revoke blender 0.1.0+0123456789ab"))
@click.argument("application")
@click.argument("version")
@desk_command
def app_revoke(desk: Desk, application: str, version: str) -> None:
    """Let no new job take this VERSION of APPLICATION; jobs that have it go on."""
    with desk.database() as engine:
        application_versions.revoke(engine, application, version, time.time())
    desk.answer({"application": application, "version": version}, f"{application} {version} is revoked")


def _read(signed: Path, folder: Path) -> tuple[SignedManifest, dict[str, bytes]]:
    try:
        manifest = wire.decode(signed.read_bytes(), SignedManifest)
        files = {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }
    except OSError as error:
        raise BadInput(f"the version to be published cannot be read: {error}") from error
    return manifest, files

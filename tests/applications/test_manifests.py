"""The application versions that the package carries."""

from __future__ import annotations

import ast
import hashlib
import sys
from pathlib import Path

import pytest

from xwgrid import __version__
from xwgrid.applications import registry
from xwgrid.applications.manifests import built_in, script
from xwgrid.splitting import check_path


def test_every_application_has_a_version() -> None:
    """Each application can be published from the package, for the runtime it says it needs."""
    found = {manifest.application: manifest.runtime for manifest, _ in built_in()}
    assert found == {name: registry.application(name).runtime for name in registry.names()}


def test_manifests_name_their_files() -> None:
    """Size and SHA-256 of each file are those of its bytes, the entry is one of them, and paths stay below."""
    for manifest, files in built_in():
        assert {file.path for file in manifest.files} == set(files)
        assert manifest.entry in files
        for file in manifest.files:
            check_path(file.path)
            assert (file.size, file.sha256) == (len(files[file.path]), hashlib.sha256(files[file.path]).hexdigest())


def test_versions_differ_when_files_do() -> None:
    """The version names the files: the same package gives the same, and the two drivers have their own."""
    versions = [manifest.version for manifest, _ in built_in()]
    assert versions == [manifest.version for manifest, _ in built_in()]
    assert len(set(versions)) == len(versions)
    assert all(version.startswith(f"{__version__}+") for version in versions)


def test_drivers_need_only_what_they_bring() -> None:
    """Every module a driver imports is in its version, in the standard library, or of the renderer itself."""
    for manifest, files in built_in():
        brought = {path.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for path in files}
        for path, data in files.items():
            for node in ast.walk(ast.parse(data)):
                if isinstance(node, ast.Import):
                    names = [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom) and node.module is not None:
                    names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
                    names = [name for name in names if name in brought] or [node.module]
                else:
                    continue
                for name in names:
                    top = name.partition(".")[0]
                    known = top in sys.stdlib_module_names or name in brought or top in {"bpy", "_cycles"}
                    assert known, f"{manifest.application}: {path} imports {name}"


@pytest.mark.parametrize("name", ["blender_driver.py", "digest_driver.py", "inspect_scene.py"])
def test_scripts_are_found(name: str) -> None:
    """Programs that run beside a volunteer or a requester are where the package says."""
    assert isinstance(script(name), Path)
    assert script(name).is_file()

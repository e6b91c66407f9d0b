"""Which files a scene needs beside its .blend, as Blender itself sees them, and which of them are not there.

Runs inside Blender. What cannot be reached from the scene is not needed: an image without users, a library nobody
uses, the textures of another scene.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bpy

# The modifiers that keep a simulation, and where they hold its cache.
_SIMULATIONS = {"CLOTH": "cloth", "SOFT_BODY": "soft body"}
_DIGITS = re.compile(r"\d+(?=\D*$)")


def references(scene: Any) -> list[dict[str, Any]]:
    """Return one entry a reference: kind, name, reference as written, absolute path, and the files found there."""
    reached = _reached(scene)
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for entry in (*_of_ids(reached), *_of_sequencers(reached), *_of_objects(reached), *_of_nodes(reached)):
        found.setdefault((entry["kind"], entry["path"]), entry)
    return [found[key] for key in sorted(found)]


def unbaked(scene: Any) -> list[str]:
    """Return the simulations that have no stored cache, in words."""
    found = []
    world = scene.rigidbody_world
    if world and world.enabled and world.collection and world.collection.objects and not world.point_cache.is_baked:
        found.append("the scene's rigid bodies")
    for thing in scene.objects:
        for modifier in thing.modifiers:
            if not modifier.show_render:
                continue
            if modifier.type in _SIMULATIONS and not modifier.point_cache.is_baked:
                found.append(f"{_SIMULATIONS[modifier.type]} of '{thing.name}'")
            if modifier.type == "FLUID" and modifier.fluid_type == "DOMAIN":
                domain = modifier.domain_settings
                if domain and not (domain.has_cache_baked_data or domain.cache_type == "REPLAY"):
                    found.append(f"fluid of '{thing.name}'")
        for system in thing.particle_systems:
            still = system.settings.type == "HAIR" or system.settings.physics_type == "NO"
            if not still and not system.point_cache.is_baked:
                found.append(f"particles '{system.name}' of '{thing.name}'")
    return found


def _reached(scene: Any) -> list[Any]:
    """Return every data-block the scene uses, directly or through others."""
    uses: dict[Any, list[Any]] = {}
    for used, users in bpy.data.user_map().items():
        for user in users:
            uses.setdefault(user, []).append(used)
    seen, waiting = {scene}, [scene]
    while waiting:
        for used in uses.get(waiting.pop(), ()):
            # Brushes hang on every scene's tool settings and never meet a picture.
            if used not in seen and not isinstance(used, (bpy.types.Brush, bpy.types.Library)):
                seen.add(used)
                waiting.append(used)
    return sorted(seen, key=lambda each: (each.bl_rna.identifier, each.name_full))


def _of_ids(reached: list[Any]) -> Iterator[dict[str, Any]]:
    libraries: set[Any] = set()
    for block in reached:
        library = block.library
        while library is not None:
            libraries.add(library)
            library = library.parent
        if isinstance(block, bpy.types.Image):
            yield from _of_image(block)
        elif isinstance(block, bpy.types.VectorFont):
            if block.filepath != "<builtin>" and not block.packed_file:
                yield _entry("font", block, block.filepath)
        elif isinstance(block, bpy.types.Sound):
            if not block.packed_file:
                yield _entry("sound", block, block.filepath)
        elif isinstance(block, bpy.types.MovieClip):
            yield _entry("movie clip", block, block.filepath, numbered=block.source == "SEQUENCE")
        elif isinstance(block, bpy.types.CacheFile):
            yield _entry("cache file", block, block.filepath, numbered=block.is_sequence)
        elif isinstance(block, bpy.types.Volume) and not block.packed_file:
            yield _entry("volume", block, block.filepath, numbered=block.is_sequence)
    for library in libraries:
        if not getattr(library, "packed_file", None):
            yield _entry("library", library, library.filepath, base=library.parent)


def _of_image(image: Any) -> Iterator[dict[str, Any]]:
    if image.source not in {"FILE", "SEQUENCE", "MOVIE", "TILED"} or image.packed_file or len(image.packed_files):
        return
    if image.source == "TILED":
        for tile in image.tiles:
            u, v = (tile.number - 1001) % 10, (tile.number - 1001) // 10
            path = image.filepath.replace("<UDIM>", str(tile.number)).replace("<UVTILE>", f"u{u + 1}_v{v + 1}")
            yield _entry("image", image, path)
    else:
        yield _entry("image", image, image.filepath, numbered=image.source == "SEQUENCE")


def _of_sequencers(reached: list[Any]) -> Iterator[dict[str, Any]]:
    for scene in reached:
        if not isinstance(scene, bpy.types.Scene) or scene.sequence_editor is None or not scene.render.use_sequencer:
            continue
        editor = scene.sequence_editor
        for strip in editor.strips_all if hasattr(editor, "strips_all") else editor.sequences_all:
            if strip.mute:
                continue
            if strip.type == "IMAGE":
                for element in strip.elements:
                    path = str(Path(strip.directory) / element.filename)
                    # Path makes one slash of Blender's two, which mean "beside the .blend".
                    if strip.directory.startswith("//"):
                        path = "/" + path
                    yield _entry("image", strip, path, base=scene.library)
            elif strip.type == "MOVIE":
                yield _entry("movie", strip, strip.filepath, base=scene.library)


def _of_objects(reached: list[Any]) -> Iterator[dict[str, Any]]:
    for thing in reached:
        if not isinstance(thing, bpy.types.Object):
            continue
        for modifier in thing.modifiers:
            if not modifier.show_render:
                continue
            if modifier.type == "MESH_CACHE" or (modifier.type == "OCEAN" and modifier.is_cached):
                yield _entry("cache", modifier, modifier.filepath, base=thing.library)
            elif modifier.type == "FLUID" and modifier.fluid_type == "DOMAIN" and modifier.domain_settings:
                yield _entry("cache", modifier, modifier.domain_settings.cache_directory, base=thing.library)
            elif modifier.type in _SIMULATIONS:
                yield from _of_point_cache(thing, modifier.point_cache)
        for system in thing.particle_systems:
            yield from _of_point_cache(thing, system.point_cache)


def _of_point_cache(thing: Any, cache: Any) -> Iterator[dict[str, Any]]:
    if cache.use_external:
        yield _entry("cache", thing, cache.filepath, base=thing.library)
    elif cache.use_disk_cache and cache.is_baked:
        stem = Path(bpy.data.filepath).stem
        yield _entry("cache", thing, f"//blendcache_{stem}")


def _of_nodes(reached: list[Any]) -> Iterator[dict[str, Any]]:
    for block in reached:
        tree = block if isinstance(block, bpy.types.NodeTree) else getattr(block, "node_tree", None)
        for node in getattr(tree, "nodes", ()):
            if node.bl_idname in {"ShaderNodeTexIES", "ShaderNodeScript"} and node.mode == "EXTERNAL":
                yield _entry("light profile" if "IES" in node.bl_idname else "shader", node, node.filepath,
                             base=block.library)  # fmt: skip


def _entry(kind: str, owner: Any, reference: str, *, base: Any = None, numbered: bool = False) -> dict[str, Any]:
    """Return an entry; `reference` is relative to the library of `owner`, or to `base`."""
    library = base if base is not None else getattr(owner, "library", None)
    path = Path(bpy.path.abspath(reference, library=library)).resolve() if reference else Path()
    return {
        "kind": kind,
        "name": owner.name,
        "reference": reference,
        "path": str(path) if reference else "",
        "files": [str(file) for file in _files(path, numbered=numbered)] if reference else [],
    }


def _files(path: Path, *, numbered: bool) -> list[Path]:
    """Return the files at a path: itself, all in a folder, or all that differ from it in their last number."""
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.is_file())
    if numbered and _DIGITS.search(path.name):
        pattern = re.compile(r"\d+".join(map(re.escape, _DIGITS.split(path.name, maxsplit=1))))
        if path.parent.is_dir():
            return sorted(file for file in path.parent.iterdir() if pattern.fullmatch(file.name) and file.is_file())
    return [path] if path.is_file() else []

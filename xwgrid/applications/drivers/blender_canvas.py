"""A scene that renders nothing: its picture is that of an image file, and all that follows is another scene's.

Colour management, dither and format are the other scene's. Runs inside Blender: the standard library and bpy alone,
Python 3.10 or newer, Blender 3.4 or newer.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import bpy

from xwgrid.applications.drivers.driver_lines import TaskError


class Canvas(NamedTuple):
    """The scene, its compositor's tree, the node that brings the file's passes, and where the picture goes."""

    scene: Any
    tree: Any
    image: Any
    picture: Any


@contextmanager
def canvas(scene: Any, source: Path) -> Iterator[Canvas]:
    """Make a scene like `scene` whose picture is what its compositor makes of `source`, an OpenEXR file.

    Nothing is linked yet. Raises TaskError for a file that does not open.
    """
    try:
        image = bpy.data.images.load(str(source), check_existing=False)
    except RuntimeError as error:
        raise TaskError(f"{source.name} does not open") from error
    copy = scene.copy()
    own_tree = None
    try:
        copy.render.use_compositing = True
        copy.render.use_sequencer = False
        if hasattr(copy, "compositing_node_group"):
            own_tree = tree = copy.compositing_node_group = bpy.data.node_groups.new("Canvas", "CompositorNodeTree")
            tree.interface.new_socket("Image", in_out="OUTPUT", socket_type="NodeSocketColor")
            output = tree.nodes.new("NodeGroupOutput")
        else:
            copy.use_nodes = True
            tree = copy.node_tree
            tree.nodes.clear()
            output = tree.nodes.new("CompositorNodeComposite")
        node = tree.nodes.new("CompositorNodeImage")
        node.image = image
        yield Canvas(copy, tree, node, output.inputs["Image"])
    finally:
        bpy.data.scenes.remove(copy)
        bpy.data.images.remove(image)
        if own_tree is not None:
            bpy.data.node_groups.remove(own_tree)

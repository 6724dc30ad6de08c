"""What a scene of glTF promises, checked before it is built; and the files that it may take with it."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from pointmadi.data.arrays import check_size, guarded

WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT2": 4, "MAT3": 9, "MAT4": 16}
INSTANCED = 50_000_000  # vertices and corners of faces of a scene, every copy of a mesh counted


class Neighbours:
    """Give a scene the files beside it, and no others: nothing in other folders, nothing from the network."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def _find(self, name: str) -> Path:
        plain = unquote(name)
        if not plain or plain in (".", "..") or any(sign in plain for sign in "/\\:\0"):
            raise ValueError(f"it wants {plain[:80]!r}, which is not a file in its own folder")
        found = self.path.parent / plain
        if not found.is_file():
            raise ValueError(f"it wants {plain[:80]!r}, which is not there")
        return found

    def __getitem__(self, name: str) -> bytes:
        return self._find(name).read_bytes()

    def get(self, name: str) -> bytes:
        """Read a file by the name that the scene calls it by."""
        return self[name]

    def keys(self) -> Iterator[str]:
        """Return no names: nobody may look around."""
        return iter(())

    def size(self, uri: str) -> int:
        """Return the bytes that a link of a scene stands for."""
        if uri.startswith("data:"):
            return len(uri) * 3 // 4
        return self._find(uri).stat().st_size


def check_scene(content: bytes, neighbours: Neighbours) -> None:
    """Refuse a scene (glb, or the text of a gltf) that would take far more memory than its files hold."""
    guarded(lambda: _check(content, neighbours))


def _check(content: bytes, neighbours: Neighbours) -> None:
    header: Any = content
    if content[:4] == b"glTF":
        (length,) = struct.unpack_from("<I", content, 12)
        check_size(length, len(content) - 20)
        header = content[20 : 20 + length]
    scene = json.loads(header)
    held = len(content)
    for buffer in scene.get("buffers", []):
        if "uri" in buffer:
            held += neighbours.size(buffer["uri"])
    accessors = scene.get("accessors", [])
    counts = [_whole(accessor["count"]) for accessor in accessors]
    taken = sum(8 * count * WIDTHS[a["type"]] for count, a in zip(counts, accessors, strict=True))
    taken += sum(_whole(view["byteLength"]) for view in scene.get("bufferViews", []))
    check_size(taken, held, packed=True)

    sizes = []
    for mesh in scene.get("meshes", []):
        used = [[p["attributes"]["POSITION"], p.get("indices")] for p in mesh["primitives"]]
        sizes.append(sum(counts[i] for pair in used for i in pair if i is not None))
    nodes = scene.get("nodes", [])
    children = [child for node in nodes for child in node.get("children", [])]
    below = set(children)
    reached = [node for node in range(len(nodes)) if node not in below]
    for node in reached:  # grows on the way
        reached += nodes[node].get("children", []) if len(reached) <= len(nodes) else []
    if len(reached) != len(nodes) or len(below) != len(children):
        raise ValueError("the nodes of its scene are no tree")
    if sum(sizes[node["mesh"]] for node in nodes if "mesh" in node) > INSTANCED:
        raise ValueError(f"its scene repeats meshes beyond {INSTANCED} vertices")


def _whole(number: Any) -> int:
    if type(number) is not int or number < 0:
        raise ValueError(f"a count of its scene is {str(number)[:40]!r}")
    return number

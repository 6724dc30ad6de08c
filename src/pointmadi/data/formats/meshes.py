"""Meshes, scenes and ply clouds, by trimesh."""

import io
import logging
import re
from pathlib import Path
from typing import Any

import numpy as np

from pointmadi.data.formats.raw import ALIASES, RGB, Array, Raw, guarded, stack


def read_geometry(path: Path) -> Raw:
    """Read ply, obj, off, stl or glb by trimesh."""
    import trimesh

    log = logging.getLogger("trimesh")
    if not log.handlers:  # without one, Python prints the tracebacks that trimesh logs about damaged files
        log.addHandler(logging.NullHandler())
    kind = path.suffix.lower()[1:]
    content = path.read_bytes()
    if kind in ("obj", "off"):  # old exporters write comments and names in any encoding
        content = content.decode("utf-8", errors="replace").encode()
    if kind == "ply":
        _check_length(content)
    options: dict[str, Any] = {"skip_materials": True} if kind == "obj" else {}
    stream = io.BytesIO(content)
    loaded: Any = guarded(lambda: trimesh.load(stream, file_type=kind, process=False, **options))
    pieces: Any = loaded.dump() if isinstance(loaded, trimesh.Scene) else [loaded]
    meshes = [piece for piece in pieces if isinstance(piece, trimesh.Trimesh) and len(piece.faces)]
    if meshes:
        mesh: Any = meshes[0] if len(meshes) == 1 else trimesh.util.concatenate(meshes)
        features, names = _vertex_channels(mesh)
        return Raw(np.asarray(mesh.vertices, np.float64), features, names, np.asarray(mesh.faces, np.int64))
    clouds = [piece for piece in pieces if len(getattr(piece, "vertices", ()))]
    if not clouds:
        raise ValueError("holds no points and no faces")
    points = np.concatenate([np.asarray(cloud.vertices, np.float64) for cloud in clouds])
    features, names = _vertex_channels(clouds[0]) if len(clouds) == 1 else (np.zeros((len(points), 0), np.float32), ())
    return Raw(points, features, names)


def _check_length(content: bytes) -> None:
    """Refuse an ASCII ply that ends before what its header promises; trimesh would take what is there."""
    header, _, body = content.partition(b"end_header")
    if b"format ascii" in header:
        promised = sum(map(int, re.findall(rb"^\s*element\s+\S+\s+(\d+)", header, re.MULTILINE)))
        found = len(body.partition(b"\n")[2].splitlines())
        if found < promised:
            raise ValueError(f"damaged: it ends after {found} of the {promised} lines that its header promises")


def _vertex_channels(geometry: Any) -> tuple[Array, tuple[str, ...]]:
    """Collect what is known of each vertex: colours, and the other properties of a ply file."""
    rows = len(geometry.vertices)
    found: dict[str, Array] = {}
    colors = getattr(geometry, "colors", None)
    if colors is None and getattr(geometry.visual, "kind", None) == "vertex":
        colors = geometry.visual.vertex_colors
    if colors is not None and len(colors) == rows:
        found |= dict(zip(RGB, np.asarray(colors, np.float32).T[:3] / 255, strict=True))
    vertex = geometry.metadata.get("_ply_raw", {}).get("vertex", {}).get("data")
    data = {} if vertex is None else vertex if isinstance(vertex, dict) else {n: vertex[n] for n in vertex.dtype.names}
    for name, values in data.items():
        name, values = ALIASES.get(name.lower(), name), np.asarray(values)
        if name not in (*"xyz", *RGB, "alpha") and values.dtype.kind in "fiu" and values.size == rows:
            found[name] = values.reshape(rows)
    return stack(found, tuple(found), rows), tuple(found)

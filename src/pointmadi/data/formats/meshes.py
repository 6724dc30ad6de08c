"""Meshes, scenes and ply clouds, by trimesh."""

import io
import logging
import re
from pathlib import Path
from typing import Any

import numpy as np

from pointmadi.data.arrays import Array, check_size, guarded
from pointmadi.data.formats.raw import ALIASES, NORMALS, RGB, Raw, with_channels
from pointmadi.data.formats.scenes import Neighbours, check_scene

PLY_SIZES = {"short": 2, "int": 4, "float": 4, "double": 8, "int16": 2, "int32": 4, "int64": 8,
             "float16": 2, "float32": 4, "float64": 8}  # fmt: skip


def read_geometry(path: Path) -> Raw:
    """Read ply, obj, off, stl, glb or gltf by trimesh; materials and textures are not looked at."""
    import trimesh

    log = logging.getLogger("trimesh")
    if not log.handlers:  # without one, Python prints the tracebacks that trimesh logs about damaged files
        log.addHandler(logging.NullHandler())
    kind = path.suffix.lower()[1:]
    content = path.read_bytes()
    options: dict[str, Any] = {} if kind in ("off", "stl") else {"skip_materials": True}
    match kind:
        case "obj" | "off":  # old exporters write comments and names in any encoding
            content = content.decode("utf-8", errors="replace").encode()
            if kind == "off":
                _check_off(content)
        case "ply":
            _check_ply(content)
        case "glb" | "gltf":
            options["resolver"] = Neighbours(path)
            check_scene(content, options["resolver"])
    stream = io.BytesIO(content)
    loaded: Any = guarded(lambda: trimesh.load(stream, file_type=kind, process=False, **options))
    pieces: Any = guarded(lambda: loaded.dump()) if isinstance(loaded, trimesh.Scene) else [loaded]
    meshes = [piece for piece in pieces if isinstance(piece, trimesh.Trimesh) and len(piece.faces)]
    if meshes:
        mesh: Any = meshes[0] if len(meshes) == 1 else guarded(lambda: trimesh.util.concatenate(meshes))
        found = guarded(lambda: _vertex_channels(mesh))
        return with_channels(np.asarray(mesh.vertices, np.float64), found, np.asarray(mesh.faces, np.int64))
    clouds = [piece for piece in pieces if len(getattr(piece, "vertices", ()))]
    if not clouds:
        raise ValueError("holds no points and no faces")
    points = np.concatenate([np.asarray(cloud.vertices, np.float64) for cloud in clouds])
    parts = guarded(lambda: [_vertex_channels(cloud) for cloud in clouds])
    shared = [name for name in parts[0] if all(name in part for part in parts)]
    found = {name: np.concatenate([part[name] for part in parts]) for name in shared}
    if kind == "obj":
        found |= guarded(lambda: _obj_normals(content, len(points)))
    return with_channels(points, found)


def _check_ply(content: bytes) -> None:
    """Refuse a ply that ends before what its header promises; trimesh would take what is there, or the memory."""
    header, _, body = content.partition(b"end_header")
    body = body.partition(b"\n")[2]
    elements = re.findall(
        rb"^\s*element\s+\S+\s+(\d+)[^\n]*\n((?:\s*(?:property|comment|obj_info)[^\n]*\n?)*)", header, re.M
    )
    if b"format ascii" in header:
        promised, found = sum(int(count) for count, _ in elements), len(body.splitlines())
        if found < promised:
            raise ValueError(f"damaged: it ends after {found} of the {promised} lines that its header promises")
        return
    for count, properties in elements:
        kinds = re.findall(r"property\s+(?:list\s+)?(\S+)", properties.decode("ascii", errors="replace"))
        row = sum(PLY_SIZES.get(kind.removeprefix("u"), 1) for kind in kinds)
        check_size(int(count) * row, len(body))


def _check_off(content: bytes) -> None:
    """Refuse an off that ends before what its header promises."""
    lines = [line for line in content.splitlines() if line.strip() and not line.lstrip().startswith(b"#")]
    header = re.match(rb"\s*[A-Z4n]*OFF\s*(?:#[^\n]*\n\s*)*(\d+)\s+(\d+)", b"\n".join(lines[:2]))
    if header is None:
        return  # trimesh says what is wrong
    promised, found = int(header[1]) + int(header[2]), len(lines) - (1 if re.search(rb"\d", lines[0]) else 2)
    if found < promised:
        raise ValueError(f"damaged: it ends after {found} of the {promised} lines that its header promises")


def _obj_normals(content: bytes, rows: int) -> dict[str, Array]:
    """Read the normals of an obj without faces, where there is one for each point."""
    lines = re.findall(rb"^[ \t]*vn[ \t]+([^\r\n]+)", content, re.MULTILINE)
    if len(lines) != rows:
        return {}
    normals = np.array([line.split()[:3] for line in lines], np.float64)
    return dict(zip(NORMALS, normals.T, strict=True))


def _vertex_channels(geometry: Any) -> dict[str, Array]:
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
    return found

"""Scans as instruments and their tools write them: pcd, las and laz, e57."""

import re
import struct
from pathlib import Path
from typing import Any

import numpy as np

from pointmadi.data.arrays import Array, check_size, guarded
from pointmadi.data.formats.raw import ALIASES, NORMALS, RGB, Raw, shades, with_channels

PCD_TYPES = {("F", 4): "<f4", ("F", 8): "<f8"} | {
    (kind, size): f"<{kind.lower()}{size}" for kind in "IU" for size in (1, 2, 4, 8)
}
WORDS = ("FIELDS", "SIZE", "TYPE", "COUNT", "WIDTH", "HEIGHT", "POINTS", "DATA")


def read_pcd(path: Path) -> Raw:
    """Read a cloud of the Point Cloud Library; points without coordinates (NaN, in organised clouds) are left out."""
    content = path.read_bytes()
    header = re.match(rb"(?:[^\n]{0,9999}\n){1,50}?\s*DATA[ \t]+\w+[ \t\r]*\n", content)
    if header is None:
        raise ValueError("damaged: it has no header that ends in a line DATA ascii, binary or binary_compressed")
    lines = (line.split() for line in header[0].decode("ascii", errors="replace").splitlines())
    said = {line[0].upper(): line[1:] for line in lines if line and line[0].upper() in WORDS}
    dtype, rows = guarded(lambda: _pcd_layout(said))
    body, kind = content[header.end() :], said["DATA"][0].lower()
    match kind:
        case "ascii":
            check_size(2 * rows, len(body) + 1)
            columns = guarded(lambda: _pcd_text(body, dtype, rows))
        case "binary":
            check_size(rows * dtype.itemsize, len(body))
            table = np.frombuffer(body, dtype, rows)
            columns = {name: table[name] for name in dtype.names or ()}
        case "binary_compressed":
            packed, size = (int(n) for n in np.frombuffer(body[:8].ljust(8, b"\0"), "<u4"))
            check_size(packed, len(body) - 8)
            if size != rows * dtype.itemsize:
                raise ValueError(f"damaged: {size} bytes are packed, for {rows} points of {dtype.itemsize} bytes")
            check_size(size, 90 * packed)  # three bytes become 264 at best
            columns = _pcd_columns(unpack_lzf(body[8 : 8 + packed], size), dtype, rows)
        case _:
            raise ValueError(f"its points are written as '{kind[:40]}'; ascii, binary and binary_compressed are read")
    return _of_pcd(columns)


def _pcd_layout(said: dict[str, list[str]]) -> tuple[np.dtype[Any], int]:
    """Understand a header: the type of a point, and their number."""
    names = said["FIELDS"]
    counts = [int(n) for n in said.get("COUNT", ["1"] * len(names))]
    kinds = [PCD_TYPES[kind, int(size)] for kind, size in zip(said["TYPE"], said["SIZE"], strict=True)]
    rows = int(said["POINTS"][0]) if "POINTS" in said else int(said["WIDTH"][0]) * int(said["HEIGHT"][0])
    if rows < 1 or not all(0 < n <= 4096 for n in counts) or not {"x", "y", "z"} <= set(names):
        raise ValueError(f"{rows} points of {' '.join(names)[:100]}")
    fields: list[tuple[str, str]] = []
    for number, (name, kind, count) in enumerate(zip(names, kinds, counts, strict=True)):
        name = name if name != "_" else f"_{number}"  # padding
        fields += [(name if count == 1 else f"{name}{i}", kind) for i in range(count)]
    return np.dtype(fields), rows


def _pcd_text(body: bytes, dtype: np.dtype[Any], rows: int) -> dict[str, Array]:
    table = np.loadtxt(body.decode("ascii").splitlines(), ndmin=2, max_rows=rows)
    names = dtype.names or ()
    if table.shape != (rows, len(names)):
        raise ValueError(f"{table.shape} numbers, and its header promises {(rows, len(names))}")
    # A packed colour is written as the whole number, or as the float that has its bits.
    packed = {name: table[:, i] for i, name in enumerate(names)}
    return {name: v.astype(dtype[name]) if name in ("rgb", "rgba") else v for name, v in packed.items()}


def _pcd_columns(content: bytes, dtype: np.dtype[Any], rows: int) -> dict[str, Array]:
    columns, start = {}, 0
    previous: list[tuple[str, np.dtype[Any]]] = [(name, dtype[name]) for name in dtype.names or ()]
    for name, kind in previous:
        columns[name] = np.frombuffer(content, kind, rows, start)
        start += rows * kind.itemsize
    return columns


def _of_pcd(columns: dict[str, Array]) -> Raw:
    points = np.stack([columns[axis] for axis in "xyz"], axis=1).astype(np.float64)
    there = ~np.isnan(points).any(axis=1)
    found: dict[str, Array] = {}
    for name, values in columns.items():
        name = ALIASES.get(name.lower(), name.lower())
        if name in ("rgb", "rgba") and values.dtype.itemsize == 4:
            bits = np.ascontiguousarray(values).view("<u4")[there]
            found |= {channel: (bits >> shift & 255) / 255 for channel, shift in zip(RGB, (16, 8, 0), strict=True)}
        elif name not in "xyz" and not name.startswith("_"):
            found[name] = values[there]
    return with_channels(points[there], found)


def unpack_lzf(packed: bytes, size: int) -> bytes:
    """Undo the compression LZF (Marc Lehmann), as the Point Cloud Library writes it.

    A byte below 32 says how many bytes follow as they are; any other, how far back (13 bits) and how many to repeat.

    Raises:
        ValueError: the bytes are damaged, or are not `size` bytes once unpacked.
    """
    out, at, end = bytearray(), 0, len(packed)
    try:
        while at < end and len(out) <= size:
            control = packed[at]
            if control < 32:
                out += packed[at + 1 : at + 2 + control]
                at += 2 + control
                continue
            length = control >> 5
            if length == 7:
                at += 1
                length += packed[at]
            back = len(out) - ((control & 31) << 8) - packed[at + 1] - 1
            at, length = at + 2, length + 2
            if back < 0:
                raise IndexError
            piece = out[back : back + length]
            out += piece if len(piece) == length else (piece * (length // len(piece) + 1))[:length]
    except IndexError:
        raise ValueError("damaged: its packed points cannot be unpacked") from None
    if len(out) != size or at != end:
        raise ValueError(f"damaged: its packed points are {len(out)} bytes, and its header promises {size}")
    return bytes(out)


def read_las(path: Path) -> Raw:
    """Read a las or laz file: intensity and colour of 16 bits as 0 … 1, and the classification as part."""
    try:
        import laspy
        import lazrs  # noqa: F401
    except ModuleNotFoundError:
        raise ValueError("las and laz files need laspy; pip install 'pointmadi[io]'") from None
    guarded(lambda: _check_las(path))
    with guarded(lambda: laspy.open(path, laz_backend=laspy.LazBackend.Lazrs, read_evlrs=False)) as file:
        header = file.header
        taken = header.point_count * header.point_format.size
        check_size(taken, path.stat().st_size, packed=bool(header.are_points_compressed))
        points: Any = guarded(lambda: file.read())
    has = set(points.point_format.dimension_names)
    found: dict[str, Array] = {"intensity": np.asarray(points.intensity) / 65535}
    if {"red", "green", "blue"} <= has:
        found |= dict(zip(RGB, shades(np.stack([points.red, points.green, points.blue])), strict=True))
    found["classification"] = np.asarray(points.classification)
    return with_channels(np.asarray(points.xyz, np.float64), found)


def _check_las(path: Path) -> None:
    """Refuse a las or laz file whose header promises what it cannot hold: its parsers take the memory, or die of it."""
    held = path.stat().st_size
    with path.open("rb") as file:

        def number(kind: str, at: int) -> int:
            file.seek(at)
            value: int = struct.unpack(kind, file.read(struct.calcsize(kind)))[0]
            return value

        start, points = number("<H", 94), number("<I", 96)
        check_size(points, held)
        for _ in range(number("<I", 100)):  # records of variable length
            check_size(start + 54, points)
            start += 54 + number("<H", start + 20)
        if not number("<B", 104) & 0xC0:
            return
        table = number("<q", points)
        table = number("<q", held - 8) if table == -1 else table
        check_size(table + 8, held)
        check_size(number("<I", table + 4), held)  # pieces, which are more than a byte each


def read_e57(path: Path) -> Raw:
    """Read all scans of an e57 file, each at its place; colour and intensity where every scan has them."""
    try:
        import pye57
    except ModuleNotFoundError:
        raise ValueError("e57 files need pye57; pip install 'pointmadi[e57]'") from None
    file = guarded(lambda: pye57.E57(str(path)))
    held = path.stat().st_size
    try:
        headers = guarded(lambda: [file.get_header(i) for i in range(file.scan_count)])
        check_size(32 * sum(header.point_count for header in headers), held, packed=True)
        options = {"intensity": True, "colors": True, "ignore_missing_fields": True}
        scans = guarded(lambda: [file.read_scan(i, **options) for i in range(len(headers))])
    finally:
        file.close()
    if not scans:
        raise ValueError("holds no scan")
    names = [name for name in scans[0] if all(name in scan for scan in scans)]
    columns = {name: np.concatenate([scan[name] for scan in scans]) for name in names}
    axes = [f"cartesian{axis}" for axis in "XYZ"]
    if not set(axes) <= set(columns):
        raise ValueError(f"its scans have no coordinates; they have: {', '.join(columns)}")
    colors = [f"color{color}" for color in ("Red", "Green", "Blue")]
    found: dict[str, Array] = {}
    if set(colors) <= set(columns):
        found |= dict(zip(RGB, shades(np.stack([columns[name] for name in colors])), strict=True))
    if "intensity" in columns:
        found["intensity"] = columns["intensity"]
    if {*(f"nor:normal{axis}" for axis in "XYZ")} <= set(columns):
        found |= {name: columns[f"nor:normal{axis}"] for name, axis in zip(NORMALS, "XYZ", strict=True)}
    return with_channels(np.stack([columns[axis] for axis in axes], axis=1).astype(np.float64), found)

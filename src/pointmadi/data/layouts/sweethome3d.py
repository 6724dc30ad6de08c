"""The furniture libraries of Sweet Home 3D: zip files of OBJ models with a catalogue of names, creators and a licence.

Models are read from inside the zip, never unpacked. Classes come from the English names of the catalogue.
"""

import hashlib
import io
import re
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from pointmadi.data.clouds import TEST, TRAIN
from pointmadi.data.formats.raw import Raw, check
from pointmadi.data.layouts.layout import Layout, matching, names
from pointmadi.data.layouts.reading import reading
from pointmadi.data.listing import Entry, Listing

CATALOGUE = "PluginFurnitureCatalog.properties"
DEBIAN = "usr/share/sweethome3d/furniture"
LARGEST_MODEL, LARGEST_CATALOGUE = 64 << 20, 4 << 20  # bytes; the package's largest are 9 MB and 0.2 MB
SHARE = 0.25  # of the shapes of a class that test

# The class of a shape is that of the last word of its name, after what follows "with", "on", a number … is left out.
CLASSES = {
    "armchair": "armchair",
    "bed": "bed crib",
    "bottle": "bottle flacon",
    "box": "box crate",
    "cabinet": "cabinet cupboard wardrobe dresser locker",
    "car": "car sedan suv van chevrolet peugeot leon scenic focus beetle",
    "chair": "chair",
    "cup": "cup mug glass",
    "door": "door",
    "lamp": "lamp light lights lantern lamppost spotlight",
    "person": "male female boy girl",
    "plant": "plant tulips ficus bamboo orchids cactus spathiphyllum lily yucca flowers",
    "shelf": "shelves bookcase",
    "sofa": "sofa couch",
    "stool": "stool puff ottoman",
    "table": "table desk workbench",
    "tree": "tree pine cypress poplar maple beech acacia blossom",
    "vase": "vase pottery jar pot",
    "washbasin": "washbasin basin lavatory sink vanity",
    "window": "window",
}
WORDS = {word: label for label, words in enumerate(CLASSES.values()) for word in words.split()}
BESIDE = re.compile(r" (with|on|under|small panes|bz|\d).*")


@dataclass(frozen=True)
class Piece:
    """What the catalogue says of a model.

    Args:
        key: library and model, once in the package.
        name: what it is called in English.
        model: its file in the zip.
        turn: (9) rows of the rotation that the catalogue asks for.
        credit: name, creator, licence.
    """

    key: str
    name: str
    model: str
    turn: tuple[float, ...]
    credit: str


def class_of(name: str) -> int:
    """Return the class of an English name, −1 for none of them."""
    return WORDS.get(BESIDE.sub("", name.lower()).rpartition(" ")[2], -1)


def _find(root: Path) -> Path | None:
    return matching(root, r".+\.sh3f", (DEBIAN, "furniture"))


def _scan(folder: Path) -> Listing:
    pieces, entries, problems = [], [], []
    for file in names(folder, ".sh3f"):
        path = folder / file
        found = catalogue(path)
        problems += [f"{file}: {piece.model} is no .obj" for piece in found if not piece.model.endswith(".obj")]
        for row, piece in enumerate(found):
            if piece.model.endswith(".obj"):
                pieces.append(piece)
                entries.append(Entry(f"{piece.key} ({piece.name})", path, row, class_of(piece.name)))
    tests = _tests([piece.key for piece in pieces], [entry.label for entry in entries])
    entries = [
        replace(entry, split=TEST if piece.key in tests else TRAIN)
        for entry, piece in zip(entries, pieces, strict=True)
    ]
    return Listing(
        folder, tuple(entries), read_model, classes=tuple(CLASSES), has_split=True,
        credits=tuple(piece.credit for piece in pieces), problems=tuple(problems),
    )  # fmt: skip


def _tests(keys: Sequence[str], labels: Sequence[int]) -> set[str]:
    """Choose a share of each class by the hash of the keys; shapes that are nearly the same go together."""
    groups: dict[str, list[str]] = {}
    kind: dict[str, int] = {}
    for key, label in zip(keys, labels, strict=True):
        groups.setdefault(TWINS.get(key, key), []).append(key)
        kind[TWINS.get(key, key)] = max(label, kind.get(TWINS.get(key, key), -1))
    chosen: set[str] = set()
    for label in sorted(set(kind.values()) - {-1}):
        size = sum(len(groups[first]) for first in groups if kind[first] == label)
        wanted = SHARE * size + 1 if size > 1 else 0
        count = 0
        for first in sorted((f for f in groups if kind[f] == label), key=_hash):
            if count + len(groups[first]) <= wanted:
                chosen.update(groups[first])
                count += len(groups[first])
    return chosen


def _hash(key: str) -> str:
    return hashlib.blake2b(key.encode(), digest_size=8).hexdigest()


def catalogue(path: Path) -> tuple[Piece, ...]:
    """Read the catalogue of a library, in the order of its numbers."""
    state = path.stat()
    return _catalogue(path, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=32)
def _catalogue(path: Path, changed: int, size: int) -> tuple[Piece, ...]:
    with reading(path):
        text = _content(path, CATALOGUE, LARGEST_CATALOGUE).decode("latin-1")
        common: dict[str, str] = {}
        pieces: dict[int, dict[str, str]] = {}
        for key, number, value in _properties(text):
            (pieces.setdefault(int(number), {}) if number else common)[key] = value
        licence = common.get("license", "licence not stated")
        return tuple(_piece(path.stem, pieces[number], licence) for number in sorted(pieces))


def _properties(text: str) -> Iterator[tuple[str, str, str]]:
    """Yield (key, number, value) of `key#number=value` and `key=value`, with the escapes of Java undone."""
    for line in text.splitlines():
        if match := re.match(r"\s*(\w+)(?:#(\d{1,6}))?\s*[=:]\s*(.*)", line):
            value = re.sub(r"\\u([0-9a-fA-F]{4})", lambda code: chr(int(code[1], 16)), match[3])
            yield match[1], match[2] or "", re.sub(r"\\(.)", r"\1", value).strip()


def _piece(library: str, known: dict[str, str], licence: str) -> Piece:
    for key in ("name", "model"):
        if not known.get(key):
            raise ValueError(f"a piece without {key}: {known.get('id') or known.get('model') or known}")
    turn = tuple(float(number) for number in known.get("modelRotation", "1 0 0 0 1 0 0 0 1").split())
    if len(turn) != 9 or not np.allclose(np.reshape(turn, (3, 3)) @ np.reshape(turn, (3, 3)).T, np.eye(3), atol=1e-2):
        raise ValueError(f"{known['name']}: modelRotation is no rotation")
    model = known["model"].lstrip("/")
    called = (known.get("id") or Path(model).stem).rpartition("#")[2]
    credit = f"{known['name']}, by {known.get('creator') or 'an unknown creator'}. {' '.join(licence.split())}"
    return Piece(f"{library}/{called}", known["name"], model, turn, credit)


def read_model(entry: Entry) -> Raw:
    """Read a model out of its zip, turned as the catalogue says: y is up."""
    import trimesh

    piece = catalogue(entry.path)[entry.row]
    with reading(Path(f"{entry.path}/{piece.model}")):
        content = _content(entry.path, piece.model, LARGEST_MODEL).decode("utf-8", errors="replace").encode()
        mesh: Any = trimesh.load(io.BytesIO(content), file_type="obj", force="mesh", process=False, skip_materials=True)
        points = np.asarray(mesh.vertices, np.float64) @ np.reshape(piece.turn, (3, 3)).T
        raw = Raw(points, np.zeros((len(points), 0), np.float32), faces=np.asarray(mesh.faces, np.int64))
        check(raw)
    return raw


def _content(path: Path, name: str, limit: int) -> bytes:
    """Read a file of a zip; never more than the limit, whatever its directory says."""
    with zipfile.ZipFile(path) as archive:
        try:
            member = archive.getinfo(name)
        except KeyError:
            raise ValueError(f"{name} is not in it") from None
        if member.file_size > limit:
            raise ValueError(f"{name} is {member.file_size:,} bytes, more than {limit:,}")
        with archive.open(member) as file:  # it stops at file_size, and compares the checksum
            return file.read(limit)


# Models that are nearly the same lie on one side of the split (docs/sweethome3d.md says how they were found). A group
# goes up to the semicolon; its first model stands for it.
GROUPS = """
BlendSwap-CC-0/bed1 BlendSwap-CC-0/bed2 ;
BlendSwap-CC-0/showerDoor Scopia/puerta Scopia/glassDoor2 ;
BlendSwap-CC-0/crate BlendSwap-CC-BY/rubix2 ;
BlendSwap-CC-0/bed3 BlendSwap-CC-BY/lettoCloud ;
BlendSwap-CC-0/drawersCabinet BlendSwap-CC-0/lowerCabinet ;
BlendSwap-CC-0/glassDoorCabinet BlendSwap-CC-0/upperCabinet ;
BlendSwap-CC-BY/kitchenDrawersCabinet BlendSwap-CC-BY/kitchenLowerCabinet
    BlendSwap-CC-BY/kitchenSmallLowerCabinet BlendSwap-CC-BY/largeStove ;
KatorLegaz/window-01 KatorLegaz/window-08 KatorLegaz/window-08-02 ;
KatorLegaz/exterior-door-02 Scopia/door Scopia/glass_door ;
KatorLegaz/exterior-door-03 KatorLegaz/exterior-door-07 ;
KatorLegaz/concept-sedan-01v2 KatorLegaz/concept-sedan-01v1 ;
KatorLegaz/concept-sedan-02 KatorLegaz/concept-sedan-02-sport ;
Scopia/garage-door Scopia/garage-door2 ;
Scopia/double_door_2 Scopia/double_door ;
Scopia/window_2x1_medium_with_large_pane Scopia/window_2x3_arched Scopia/window_2x3_regular Scopia/window_2x3
    Scopia/window_2x4_arched Scopia/window_2x4 Scopia/window_2x6 ;
Scopia/window_2x1_with_sliders Scopia/window_3x1 ;
Scopia/window_4x3_arched Scopia/window_4x3 Scopia/window_4x5 ;
Scopia/pine Scopia/pineSnow
"""
TWINS = {key: group.split()[0] for group in GROUPS.split(";") for key in group.split()}

SWEETHOME3D = Layout(
    "sweethome3d", "Sweet Home 3D: furniture, people, plants, vehicles; 20 classes by the names of the catalogue",
    "Debian's package sweethome3d-furniture (docs/sweethome3d.md)", "CC0, CC-BY 3.0; a credit for each model",
    "127 MB", {"shapes": 820, "classes": len(CLASSES)}, "Scopia.sh3f or any other .sh3f", _find, _scan,
)  # fmt: skip

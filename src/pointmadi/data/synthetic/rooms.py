"""Furnished rooms of 13 S3DIS-like classes, made of the parametric objects. z is up, in metres, the floor is at 0."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from pointmadi.data.clouds import TEST, TRAIN
from pointmadi.data.formats import Array, Raw
from pointmadi.data.listing import Entry, Listing
from pointmadi.data.synthetic import furniture, things
from pointmadi.data.synthetic.solids import Draw, Mesh, Parts, box, disc, moved, revolve, rotation, sample

COLORS = {  # the classes, and what colour things of them often have
    "ceiling": (0.88, 0.88, 0.85), "floor": (0.47, 0.41, 0.36), "wall": (0.76, 0.74, 0.68), "beam": (0.70, 0.69, 0.66),
    "column": (0.66, 0.64, 0.61), "window": (0.58, 0.68, 0.76), "door": (0.51, 0.36, 0.25), "table": (0.60, 0.46, 0.33),
    "chair": (0.25, 0.27, 0.34), "sofa": (0.42, 0.29, 0.29), "bookcase": (0.52, 0.41, 0.31),
    "board": (0.90, 0.91, 0.92), "clutter": (0.50, 0.48, 0.44),
}  # fmt: skip
CLASSES = tuple(COLORS)
AREAS = 6
TEST_AREA = 5
DENSITY = 1000.0  # points on a square metre of surface: a fifth of S3DIS
MOST = 1_000_000  # rooms of a seed
_NOISE = 0.003  # of a scanner, standard deviation
_TINT, _GRAIN = 0.10, 0.04  # standard deviation of the colour of things, and of their points
_SHELL = ("ceiling", "floor", "wall")
# Small things, and the largest edge of their box.
_SMALL: tuple[tuple[Callable[[Draw], Parts], float], ...] = (
    (things.mug, 0.13), (things.bottle, 0.3), (things.vase, 0.35), (things.teapot, 0.26), (things.bowl, 0.25),
    (things.laptop, 0.38), (things.laptop, 0.36), (things.monitor, 0.6), (things.monitor, 0.55),
)  # fmt: skip

Rectangle = tuple[float, float, float, float]  # x, y of one corner and of the opposite one


def list_rooms(count: int, seed: int = 0) -> Listing:
    """List rooms to be made: room i is a function of (seed, i) and lies in Area 1 + i mod 6; Area 5 is for testing."""
    if not 0 < count <= MOST or seed < 0:
        raise ValueError(f"give 1 to {MOST} rooms and a seed that is not negative, not {count} and {seed}")
    here = Path(__file__)
    entries = []
    for index in range(count):
        area = index % AREAS + 1
        split, name = TEST if area == TEST_AREA else TRAIN, f"Area_{area}_room_{index:04d}"
        entries.append(Entry(name, here, seed * MOST + index, split=split, group=f"Area_{area}"))
    return Listing(
        here.parent,
        tuple(entries),
        read_room,
        f"{count} synthetic rooms of seed {seed}",
        CLASSES,
        has_split=True,
        rooms=True,
    )


def read_room(entry: Entry) -> Raw:
    """Make the room of an entry of `list_rooms`."""
    return make_room(*divmod(entry.row, MOST)[::-1])


def make_room(index: int, seed: int = 0, density: float = DENSITY) -> Raw:
    """Make room `index`: points uniform by area, r g b in 0 … 1, and the class of each point.

    Args:
        index: which room; it depends on (seed, index, density) alone.
        seed: of the rooms.
        density: points on a square metre.
    """
    draw = Draw(seed, index, AREAS)
    room = _Room(draw)
    room.furnish()
    area = sum(_area(mesh) for _, mesh in room.pieces)
    points, names, owner = sample(room.pieces, max(1, round(area * density)), draw)
    label = np.array([CLASSES.index(name.split()[0]) for name in names])[owner]
    seen = ~room.hidden(points, label)
    points, owner, label = points[seen], owner[seen], label[seen]
    random = draw.generator
    tint = np.array([COLORS[name.split()[0]] for name in names]) + random.normal(0, _TINT, (len(names), 1))
    tint += random.normal(0, _TINT / 2, tint.shape)
    color = np.clip(tint[owner] + random.normal(0, _GRAIN, (len(points), 3)), 0, 1)
    points = points + random.normal(0, _NOISE, points.shape)
    return Raw(points, color.astype(np.float32), ("r", "g", "b"), part=label.astype(np.int64))


class _Room:
    """A room that is being furnished.

    Attributes:
        pieces: everything in it, named by class and number: what has one name has one colour.
        taken: rectangles of the floor where something stands, or people walk.
        walls: of each wall, the spans that are taken.
        solids: boxes that hide the wall or the ceiling behind them.
    """

    def __init__(self, draw: Draw) -> None:
        self.draw = draw
        self.size = np.array([draw.between(3, 10), draw.between(3, 7), draw.between(2.5, 3.4)])
        self.pieces: Parts = []
        self.taken: list[Rectangle] = []
        self.walls: list[list[tuple[float, float]]] = [[], [], [], []]
        self.solids: list[tuple[Array, Array]] = []
        self.number = 0

    def add(self, kind: str, meshes: list[Mesh]) -> None:
        self.number += 1
        self.pieces += [(f"{kind} {self.number}", mesh) for mesh in meshes]

    def furnish(self) -> None:
        """Build the room, then put things into it: what is large, or needs a wall, first."""
        draw, (x, y, height) = self.draw, self.size
        self.add("floor", [_sheet((0, 0, 0), (x, 0, 0), (0, y, 0))])
        self.add("ceiling", [_sheet((0, 0, height), (x, 0, 0), (0, y, 0))])
        holes: list[list[tuple[str, float, float, float, float]]] = [[], [], [], []]
        glazed = draw.whole(0, 3)
        for wall in (draw.whole(0, 3), *([draw.whole(0, 3)] if x * y > 25 else [])):
            wide = draw.between(0.85, 1.0) if draw.chance(0.75) else draw.between(1.4, 1.8)
            self._open(holes[wall], "door", wall, wide, 0.0, draw.between(2.0, 2.15))
        for _ in range(draw.whole(1, 3)):
            self._open(holes[glazed], "window", glazed, draw.between(0.9, 2.0), 0.9, draw.between(1.9, height - 0.2))
        for wall in range(4):
            self._build(wall, holes[wall])
        self._structure()
        for _ in range(draw.whole(0, 2)):
            self._hang_board()
        for _ in range(draw.whole(1, 2 + int(x * y / 15))):
            self._by_wall("bookcase", furniture.shelf(draw), exclusive=True)
        if draw.chance(0.5):
            self._by_wall("clutter", furniture.cabinet(draw), exclusive=True)
        for _ in range(draw.whole(0, 1 + int(x * y / 30))):
            self._by_wall("sofa", furniture.sofa(draw))
        for _ in range(draw.whole(1, 2 + int(x * y / 12))):
            if draw.chance(0.4):
                self._by_wall("table", furniture.desk(draw), seats=1)
            else:
                self._table()
        for _ in range(draw.whole(1, 4)):
            self._inside("chair", furniture.chair(draw), draw.between(0, 360))
        for _ in range(draw.whole(2, 6)):
            self._inside("clutter", self._on_floor(), draw.between(0, 360))

    def hidden(self, points: Array, label: Array) -> Array:
        """Tell which points nobody would see: of shells behind columns and beams, and of those beyond the shell."""
        shell = np.isin(label, [CLASSES.index(name) for name in _SHELL])
        hidden = np.isin(label, [CLASSES.index(name) for name in ("beam", "column")])
        hidden &= ((points < 0.01) | (points > self.size - 0.01)).any(1)
        for low, high in self.solids:
            hidden |= shell & ((points > low) & (points < high)).all(1)
        return hidden

    def _frame(self, wall: int) -> tuple[Array, Array, Array, float]:
        """Return the corner where a wall starts, the directions along it and into the room, and its length."""
        x, y, _ = self.size
        corner = np.array([(0, 0, 0), (x, 0, 0), (x, y, 0), (0, y, 0)][wall])
        along = np.array([(1, 0, 0), (0, 1, 0), (-1, 0, 0), (0, -1, 0)][wall])
        return corner, along, np.array([-along[1], along[0], 0]), float(y if wall % 2 else x)

    def _span(self, wall: int, wide: float) -> float | None:
        """Find where a stretch of wall of this width is free, and take it."""
        length = self._frame(wall)[3]
        for _ in range(8):
            start = self.draw.between(0.15, max(length - wide - 0.15, 0.15))
            free = all(start + wide + 0.05 < a or start > b + 0.05 for a, b in self.walls[wall])
            if free and start + wide < length - 0.1:
                self.walls[wall].append((start, start + wide))
                return start
        return None

    def _free(self, area: Rectangle, margin: float = 0.04) -> bool:
        a, b, c, d = area
        inside = min(a, b) > margin / 2 and c < self.size[0] - margin / 2 and d < self.size[1] - margin / 2
        return inside and all(
            c + margin < e or g + margin < a or d + margin < f or h + margin < b for e, f, g, h in self.taken
        )

    def _open(
        self, holes: list[tuple[str, float, float, float, float]], kind: str, wall: int, wide: float, low: float,
        high: float,
    ) -> None:  # fmt: skip
        start = self._span(wall, wide)
        if start is None:
            return
        holes.append((kind, start, start + wide, low, high))
        if kind == "door":  # nothing stands where one walks in
            corner, along, into, _ = self._frame(wall)
            ends = np.stack([corner + along * start, corner + along * (start + wide) + into * 0.9])[:, :2]
            self.taken.append((*ends.min(0), *ends.max(0)))

    def _build(self, wall: int, holes: list[tuple[str, float, float, float, float]]) -> None:
        """Build a wall around its doors and windows, which lie a hand deeper and have frames."""
        corner, along, into, length = self._frame(wall)
        height = self.size[2]

        def panel(a: float, b: float, low: float, high: float, deep: float = 0.0) -> Mesh:
            return _sheet(corner + along * a + [0, 0, low] - into * deep, along * (b - a), (0, 0, high - low))

        at, meshes = 0.0, []
        for kind, a, b, low, high in sorted(holes, key=lambda hole: hole[1]):
            meshes += [panel(at, a, 0, height), panel(a, b, high, height)] + ([panel(a, b, 0, low)] if low else [])
            deep = self.draw.between(0.05, 0.15)
            sides = [_sheet(corner + along * s + [0, 0, low], -into * deep, (0, 0, high - low)) for s in (a, b)]
            edges = [_sheet(corner + along * a + [0, 0, z], -into * deep, along * (b - a)) for z in (low, high)]
            bars = [panel(m - 0.03, m + 0.03, low, high, deep - 0.02) for m in np.linspace(a, b, 3 + (b - a > 1.3))]
            self.add(kind, [panel(a, b, low, high, deep), *sides, *edges[kind == "door" :], *bars[kind == "door" :]])
            at = b
        self.add("wall", [*meshes, panel(at, length, 0, height)])

    def _structure(self) -> None:
        """Put up columns at walls, and beams under the ceiling."""
        draw, (x, y, height) = self.draw, self.size
        for _ in range(draw.whole(0, 3)):
            wall, wide, deep = draw.whole(0, 3), draw.between(0.3, 0.6), draw.between(0.2, 0.5)
            start = self._span(wall, wide)
            if start is not None:
                corner, along, into, _ = self._frame(wall)
                ends = np.stack([corner + along * start - into * 0.05, corner + along * (start + wide) + into * deep])
                area = (*ends.min(0)[:2], *ends.max(0)[:2])
                if self._free((area[0] + 0.1, area[1] + 0.1, area[2] - 0.1, area[3] - 0.1), 0.0):
                    self.taken.append(area)
                    self._block("column", np.array([*area[:2], -0.05]), np.array([*area[2:], height + 0.05]))
        across = draw.chance(0.5)
        for place in np.linspace(0, 1, draw.whole(0, 3) + 2)[1:-1]:
            wide, deep = draw.between(0.15, 0.25), draw.between(0.15, 0.4)
            if across:
                low, high = (place * x - wide, -0.05), (place * x + wide, y + 0.05)
            else:
                low, high = (-0.05, place * y - wide), (x + 0.05, place * y + wide)
            self._block("beam", np.array([*low, height - deep]), np.array([*high, height + 0.05]))

    def _block(self, kind: str, low: Array, high: Array) -> None:
        wide, deep, tall = high - low
        mesh = box(wide, tall, deep)
        self.add(kind, [moved((mesh[0] @ rotation("x", 90).T, mesh[1]), np.array([*(low + high)[:2] / 2, low[2]]))])
        self.solids.append((low, high))

    def _hang_board(self) -> None:
        wall, wide, tall = self.draw.whole(0, 3), self.draw.between(1.2, 2.6), self.draw.between(0.9, 1.3)
        start = self._span(wall, wide)
        if start is not None:
            _, _, into, _ = self._frame(wall)
            parts = _standing([("", box(wide, tall, 0.03))], _facing(into))
            self._put("board", parts, self._at_wall(wall, start + wide / 2, 0.015 + 0.01), self.draw.between(0.8, 1.0))

    def _at_wall(self, wall: int, along: float, away: float) -> Array:
        corner, direction, into, _ = self._frame(wall)
        return (corner + direction * along + into * away)[:2]

    def _put(self, kind: str, parts: Parts, at: Array, z: float = 0.0) -> Rectangle:
        """Put something at a place, whether or not that is free, and return its rectangle."""
        self.add(kind, [moved(mesh, np.array([*at, z])) for _, mesh in parts])
        low, high = _bounds(parts)
        return (low[0] + at[0], low[1] + at[1], high[0] + at[0], high[1] + at[1])

    def _try(self, kind: str, parts: Parts, at: Array, margin: float = 0.04) -> bool:
        """Put something on the floor if it is free there."""
        low, high = _bounds(parts)
        area = (low[0] + at[0], low[1] + at[1], high[0] + at[0], high[1] + at[1])
        free = self._free(area, margin)
        if free:
            self.taken.append(self._put(kind, parts, at))
            if kind == "table":
                self._lay(parts, at)
        return free

    def _inside(self, kind: str, parts: Parts, turn: float, margin: float = 0.1) -> Array | None:
        parts = _standing(parts, turn)
        half = _bounds(parts)[1][:2] + 0.1
        for _ in range(8):
            at = np.array([self.draw.between(h, max(s - h, h)) for h, s in zip(half, self.size)])
            if self._try(kind, parts, at, margin):
                return at
        return None

    def _by_wall(self, kind: str, parts: Parts, exclusive: bool = False, seats: int = 0) -> None:
        """Stand something with its back to a wall; what is tall wants no window behind it."""
        for _ in range(8):
            wall = self.draw.whole(0, 3)
            _, _, into, length = self._frame(wall)
            turned = _standing(parts, _facing(into))
            wide, deep = np.abs(_bounds(turned)[1][:2])[[wall % 2, 1 - wall % 2]]
            if 2 * wide + 0.4 > length:
                continue
            along = self.draw.between(wide + 0.1, length - wide - 0.1)
            clear = all(along + wide < a or along - wide > b for a, b in self.walls[wall])
            at = self._at_wall(wall, along, deep + 0.03)
            if (clear or not exclusive) and self._try(kind, turned, at):
                self.walls[wall] += [(along - wide, along + wide)] * exclusive
                if seats:
                    self._seat(at + into[:2] * (deep + 0.03), into)
                return

    def _table(self) -> None:
        """Stand a table in the room, with chairs around it that look at it."""
        parts = furniture.table(self.draw)
        turn = 90.0 * self.draw.whole(0, 1)
        at = self._inside("table", parts, turn, margin=0.3)
        if at is not None:
            half = _bounds(_standing(parts, turn))[1]
            for wall in range(4):
                into = -self._frame(wall)[2]
                wide, deep = half[:2][[wall % 2, 1 - wall % 2]]
                count = int(wide / 0.33)
                for place in (np.arange(count) - (count - 1) / 2) * 0.68:
                    if half[2] > 0.6 and self.draw.chance(0.8):
                        self._seat(at - into[:2] * -deep + np.abs(into[1::-1]) * place, into)

    def _seat(self, edge: Array, away: Array) -> None:
        """Stand a chair at the edge of a table, turned towards it."""
        parts = _standing(furniture.chair(self.draw), _facing(-away) + self.draw.between(-15, 15))
        deep = np.abs(_bounds(parts)[1][:2] @ np.abs(away[:2]))
        self._try("chair", parts, edge + away[:2] * (deep + self.draw.between(0.05, 0.2)), margin=0.02)

    def _lay(self, table: Parts, at: Array) -> None:
        """Lay small things on the top of a table."""
        _, high = _bounds([part for part in table if part[0] == "top"])
        busy: list[Rectangle] = []
        for _ in range(self.draw.whole(0, 4)):
            maker, edge = _SMALL[self.draw.whole(0, len(_SMALL) - 1)]
            parts = _sized(maker(self.draw), edge, self.draw.between(-40, 40))
            half = _bounds(parts)[1][:2]
            place = (
                np.array([self.draw.between(-1, 1), self.draw.between(-1, 1)]) * 0.7 * np.maximum(high[:2] - half, 0)
            )
            area = (*(place - half), *(place + half))
            round_off = np.abs(place + np.sign(place) * half) / high[:2]
            if (round_off**2).sum() < 1.3 and not any(
                area[0] < g and e < area[2] and area[1] < h and f < area[3] for e, f, g, h in busy
            ):
                busy.append(area)
                self._put("clutter", parts, at + place, high[2] + 0.002)

    def _on_floor(self) -> Parts:
        """Make a bin, a box, a bag, a plant pot or a lamp."""
        draw = self.draw
        match draw.pick("bin", "box", "box", "lamp", "guitar"):
            case "bin":
                wide, tall = draw.between(0.12, 0.2), draw.between(0.25, 0.5)
                return [("", revolve([(0, 0), (wide * 0.8, 0), (wide, tall)])), ("", disc(wide * 0.79, 0.01))]
            case "box":
                return [("", box(draw.between(0.2, 0.6), draw.between(0.15, 0.5), draw.between(0.2, 0.5)))]
            case "lamp":
                return furniture.lamp(draw)
        return _sized(things.guitar(draw), 1.0, 0.0)


def _area(mesh: Mesh) -> float:
    a, b, c = np.moveaxis(mesh[0][mesh[1]], 1, 0)
    return float(np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2)


def _sheet(
    corner: Array | tuple[float, ...], first: Array | tuple[float, ...], second: Array | tuple[float, ...]
) -> Mesh:
    """Make a flat parallelogram."""
    a, u, v = np.asarray(corner, float), np.asarray(first, float), np.asarray(second, float)
    return np.stack([a, a + u, a + u + v, a + v]), np.array([[0, 1, 2], [0, 2, 3]])


def _facing(into: Array) -> float:
    """Return the turn about z by which what is made to face −y faces this way."""
    return float(np.degrees(np.arctan2(into[0], -into[1])))


def _bounds(parts: Parts) -> tuple[Array, Array]:
    vertices = np.concatenate([mesh[0] for _, mesh in parts])
    return vertices.min(0), vertices.max(0)


def _standing(parts: Parts, turn: float) -> Parts:
    """Turn an object whose y is up so that z is, then about z; centre it, and stand it on 0."""
    matrix = rotation("z", turn) @ rotation("x", 90)
    turned = [(name, (mesh[0] @ matrix.T, mesh[1])) for name, mesh in parts]
    low, high = _bounds(turned)
    shift = np.array([*(-(low + high)[:2] / 2), -low[2]])
    return [(name, moved(mesh, shift)) for name, mesh in turned]


def _sized(parts: Parts, edge: float, turn: float) -> Parts:
    """Give an object this largest edge, and stand it."""
    standing = _standing(parts, turn)
    low, high = _bounds(standing)
    factor = edge / (high - low).max()
    return [(name, (mesh[0] * factor, mesh[1])) for name, mesh in standing]

"""Furniture of many proportions and styles, in named parts. y is up, z is to the front, seats are about 0.45 high."""

import itertools
from collections.abc import Iterable

import numpy as np

from pointmadi.data.synthetic.solids import Draw, Mesh, Parts, box, disc, ellipsoid, moved, revolve, rod, tube, turned


def _legs(draw: Draw, width: float, depth: float, height: float, count: int = 4) -> list[Mesh]:
    """Stand something of this size on straight, tapered or splayed legs; with three, on a tripod."""
    thick = draw.between(0.015, 0.04)
    splay = draw.between(0.03, 0.12) if draw.chance(0.35) else 0.0
    square, top = draw.chance(0.5), draw.between(0.5, 1.0)
    inset = draw.between(1.0, 2.5) * thick
    x, z = width / 2 - inset, depth / 2 - inset
    if count == 3:
        feet = [(x * np.cos(t), z * np.sin(t)) for t in np.pi * (0.5 + np.arange(3) * 2 / 3)]
    else:
        columns = np.linspace(-x, x, count // 2)
        feet = [(column, side) for column in columns for side in (z, -z)]
    meshes = []
    for foot_x, foot_z in feet:
        if square and not splay:
            meshes.append(box(2 * thick, height, 2 * thick, (foot_x, 0, foot_z)))
        else:
            out = 1 + splay / max(width, depth)
            meshes.append(rod((foot_x, height, foot_z), (foot_x * out, 0, foot_z * out), thick, top))
    return meshes


def _pedestal(draw: Draw, height: float, reach: float, casters: bool = False) -> list[Mesh]:
    """Stand something on one column with a disc or a star of feet."""
    thick = draw.between(0.02, 0.05)
    if casters or draw.chance(0.5):
        rays = 5 if casters else draw.whole(3, 5)
        low = draw.between(0.03, 0.08)
        meshes = [disc(thick, height - low, (0, low, 0))]
        for turn in np.arange(rays) * 2 * np.pi / rays:
            x, z = reach * np.cos(turn), reach * np.sin(turn)
            meshes.append(rod((0, low + 0.03, 0), (x, low, z), thick * 0.7, 0.6))
            if casters:
                meshes.append(ellipsoid(0.03, low / 2 + 0.01, 0.03, (x, low / 2, z)))
        return meshes
    return [disc(thick, height), disc(reach, draw.between(0.015, 0.04), top=draw.between(0.6, 1.0))]


def _sled(draw: Draw, width: float, depth: float, height: float) -> list[Mesh]:
    """Stand something on two loops of bent tube."""
    thick, z = draw.between(0.012, 0.022), depth / 2
    loops = []
    for x in (-width / 2 + thick, width / 2 - thick):
        path = [(x, height, z), (x, thick, z), (x, thick, -z), (x, height, -z)]
        loops += [rod(a, b, thick) for a, b in itertools.pairwise(path)]
    return loops


def _base(draw: Draw, width: float, depth: float, height: float) -> list[Mesh]:
    """Stand a seat or a top on one of many kinds of legs."""
    match draw.pick("legs", "legs", "legs", "pedestal", "sled", "panels"):
        case "pedestal":
            return _pedestal(draw, height, 0.45 * min(width, depth) + 0.1 * draw.between(0, 1))
        case "sled":
            return _sled(draw, width, depth, height)
        case "panels":
            thick, x = draw.between(0.02, 0.05), width / 2 * draw.between(0.7, 1.0)
            return [box(thick, height, depth * 0.9, (side * x, 0, 0)) for side in (-1, 1)]
    return _legs(draw, width, depth, height)


def _slab(draw: Draw, style: str, width: float, depth: float, thick: float, y: float) -> Mesh:
    """Make a seat or a table top: rectangular, round or oval, or tapered to one side."""
    if style == "round":
        mesh = disc(0.5, thick, top=draw.between(0.85, 1.0))
        return mesh[0] * [width, 1, depth] + [0, y, 0], mesh[1]
    return box(width, thick, depth, (0, y, 0), taper=draw.between(0.93, 1.0))


def _back(draw: Draw, width: float, height: float, thick: float) -> list[Mesh]:
    """Make the back of a seat, standing at the origin: a panel, slats, rungs, a hoop or a frame."""
    post = draw.between(0.012, 0.025)
    x = width / 2 - post
    posts = [rod((side * x, 0, 0), (side * x, height, 0), post) for side in (-1, 1)]
    match draw.pick("panel", "panel", "slats", "rungs", "hoop", "half"):
        case "panel":
            return [box(width, height, thick, taper=draw.between(0.8, 1.05))]
        case "slats":
            places = np.linspace(-x, x, draw.whole(4, 8))[1:-1]
            rail = box(width, draw.between(0.04, 0.1), thick, (0, height * 0.9, 0))
            slats = [box(draw.between(0.015, 0.04), height * 0.92, 0.012, (place, 0, 0)) for place in places]
            return [*posts, rail, *slats]
        case "rungs":
            high = draw.between(0.04, 0.08)
            rungs = [box(width, high, thick, (0, y, 0)) for y in np.linspace(0.25, 0.92, draw.whole(2, 5)) * height]
            return [*posts, *rungs]
        case "hoop":
            turn = np.linspace(0, np.pi, 15)
            bow = np.stack([x * np.cos(turn), height * np.sin(turn) ** draw.between(0.4, 0.9), 0 * turn], 1)
            spokes = [
                rod((place, 0, 0), (place, height * 0.97 * (1 - (place / x) ** 2) ** 0.4, 0), post * 0.6)
                for place in np.linspace(-x, x, draw.whole(5, 9))[1:-1]
            ]
            return [tube(bow, post), *spokes]
    gap = draw.between(0.3, 0.6) * height
    return [*posts, box(width, height - gap, thick, (0, gap, 0), taper=draw.between(0.9, 1.0))]


def _arms(draw: Draw, width: float, depth: float, seat: float) -> list[Mesh]:
    """Make two armrests: on posts, bent tubes, or closed at the side."""
    rise, thick = draw.between(0.15, 0.28), draw.between(0.03, 0.06)
    style = draw.pick("posts", "posts", "tube", "panel")
    meshes = []
    for x in (-width / 2, width / 2):
        front = (x, seat + rise, depth * 0.45)
        if style == "panel":
            meshes.append(box(thick, rise, depth * 0.9, (x, seat, 0)))
        elif style == "tube":
            path = [(x, seat, depth * 0.4), front, (x, seat + rise, -depth / 2)]
            meshes += [rod(a, b, thick * 0.35) for a, b in itertools.pairwise(path)]
        else:
            meshes += [box(thick, 0.025, depth, (x, seat + rise, 0)), rod((x, seat, depth * 0.3), front, thick * 0.35)]
    return meshes


def _named(name: str, meshes: Iterable[Mesh]) -> Parts:
    return [(name, mesh) for mesh in meshes]


def _leaning(meshes: Iterable[Mesh], degrees: float, y: float, z: float) -> list[Mesh]:
    return [moved(turned(mesh, "x", -degrees), (0, y, z)) for mesh in meshes]


def chair(draw: Draw) -> Parts:
    """Make a chair for one: seat, back, legs, often arms."""
    width, depth, height = draw.between(0.38, 0.6), draw.between(0.38, 0.55), draw.between(0.36, 0.52)
    thick = draw.between(0.02, 0.1)
    office = draw.chance(0.2)
    base = (
        _pedestal(draw, height, draw.between(0.25, 0.33), casters=True) if office else _base(draw, width, depth, height)
    )
    shape = draw.pick("square", "square", "square", "round")
    back = _back(draw, width * draw.between(0.8, 1.0), draw.between(0.3, 0.75), draw.between(0.015, 0.06))
    parts = [("seat", _slab(draw, shape, width, depth, thick, height)), *_named("leg", base)]
    parts += _named("back", _leaning(back, draw.between(0, 15), height + thick * 0.5, -depth / 2 + 0.02))
    return parts + (_named("arm", _arms(draw, width, depth, height + thick)) if draw.chance(0.4) else [])


def stool(draw: Draw) -> Parts:
    """Make a seat without a back: low or for a bar, on three or four legs or one."""
    width, height = draw.between(0.28, 0.45), draw.between(0.3, 0.85)
    depth, thick = width * draw.between(0.8, 1.0), draw.between(0.02, 0.1)
    parts = [("seat", _slab(draw, draw.pick("round", "round", "square"), width, depth, thick, height))]
    if draw.chance(0.3):
        parts += _named("leg", _pedestal(draw, height, width * draw.between(0.4, 0.65)))
    else:
        parts += _named("leg", _legs(draw, width, depth, height, 3 if draw.chance(0.35) else 4))
    if draw.chance(0.6):
        turn, ring = 2 * np.pi * np.arange(20) / 20, width * draw.between(0.35, 0.5)
        path = np.stack([ring * np.cos(turn), 0 * turn + height * draw.between(0.25, 0.5), ring * np.sin(turn)], 1)
        parts.append(("footrest", tube(path, draw.between(0.008, 0.016), sides=8, closed=True)))
    return parts


def bench(draw: Draw) -> Parts:
    """Make a seat for several: a plank or slats, with or without back and arms."""
    width, depth, height = draw.between(1.0, 2.0), draw.between(0.3, 0.5), draw.between(0.38, 0.5)
    thick = draw.between(0.02, 0.07)
    boards = draw.whole(3, 6) if draw.chance(0.5) else 1
    step = depth / boards
    places = (np.arange(boards) + 0.5) * step - depth / 2
    parts = _named("seat", [box(width, thick, step * (0.8 if boards > 1 else 1), (0, height, z)) for z in places])
    if draw.chance(0.3):
        x = width / 2 * draw.between(0.6, 0.95)
        parts += _named("leg", [box(draw.between(0.05, 0.3), height, depth * 0.9, (s * x, 0, 0)) for s in (-1, 1)])
    else:
        parts += _named("leg", _legs(draw, width, depth, height, 6 if draw.chance(0.3) else 4))
    if draw.chance(0.55):
        back = _back(draw, width, draw.between(0.3, 0.5), draw.between(0.015, 0.04))
        parts += _named("back", _leaning(back, draw.between(0, 15), height, -depth / 2 + 0.02))
        if draw.chance(0.5):
            parts += _named("arm", _arms(draw, width, depth, height + thick))
    return parts


def sofa(draw: Draw) -> Parts:
    """Make a sofa: base, back, arms, cushions, feet, some with a corner."""
    seats = draw.whole(1, 4)
    width, depth, low = 0.65 * seats + draw.between(0.1, 0.3), draw.between(0.75, 1.0), draw.between(0.02, 0.15)
    base, thick = draw.between(0.15, 0.3), draw.between(0.12, 0.25)
    parts = [("base", box(width, base, depth, (0, low, 0)))]
    back = box(width, draw.between(0.4, 0.7), thick, taper=draw.between(0.9, 1.0))
    parts += _named("back", _leaning([back], draw.between(0, 12), low + base * 0.8, -depth / 2 + thick / 2))
    arm, rise = draw.between(0.1, 0.22), draw.between(0.15, 0.4)
    if draw.chance(0.85):
        for x in (-width / 2 + arm / 2, width / 2 - arm / 2):
            parts.append(("arm", box(arm, rise, depth, (x, low + base, 0))))
            if draw.chance(0.3):
                y = low + base + rise
                parts.append(("arm", rod((x, y, -depth / 2), (x, y, depth / 2), arm * 0.6)))
    inner = (width - 2 * arm) / seats
    soft = draw.between(0.1, 0.2)
    for seat in range(seats):
        x, z = (seat + 0.5) * inner - (width - 2 * arm) / 2, thick / 2
        parts.append(("cushion", box(inner * 0.96, soft, depth - thick, (x, low + base, z), taper=0.95)))
    if seats > 1 and draw.chance(0.25):
        x, reach = -1 if draw.chance(0.5) else 1, draw.between(0.5, 0.9)
        place = (x * (width - inner) / 2, low, depth / 2 + reach / 2)
        parts += [
            ("base", box(inner, base, reach, place)),
            ("cushion", box(inner, soft, reach, (place[0], low + base, place[2]))),
        ]
    return parts + (_named("foot", _legs(draw, width, depth, low)) if low > 0.05 else [])


def table(draw: Draw) -> Parts:
    """Make a dining, side or coffee table: top and legs, some with a shelf or stretchers."""
    width, height = draw.between(0.5, 1.8), draw.between(0.35, 0.8)
    depth, thick = max(0.4, width * draw.between(0.45, 1.0)), draw.between(0.015, 0.06)
    parts = [("top", _slab(draw, draw.pick("square", "square", "round"), width, depth, thick, height))]
    parts += _named("leg", _base(draw, width * 0.95, depth * 0.95, height))
    if draw.chance(0.3):
        y = height * draw.between(0.15, 0.4)
        parts.append(("shelf", box(width * 0.75, 0.02, depth * 0.75, (0, y, 0))))
    if draw.chance(0.4):
        rim = draw.between(0.04, 0.1)
        sides = [box(width * 0.7, rim, 0.02, (0, height - rim, z * depth * 0.35)) for z in (-1, 1)]
        parts += _named(
            "frame", [*sides, *(box(0.02, rim, depth * 0.7, (x * width * 0.35, height - rim, 0)) for x in (-1, 1))]
        )
    return parts


def desk(draw: Draw) -> Parts:
    """Make a desk: a rectangular top, drawers under one end or both, a panel behind, some with a rack above."""
    width, depth, height = draw.between(1.0, 1.8), draw.between(0.5, 0.8), draw.between(0.68, 0.8)
    thick = draw.between(0.02, 0.05)
    parts = [("top", box(width, thick, depth, (0, height, 0)))]
    block = width * draw.between(0.2, 0.32)
    deep = draw.between(0.3, 1.0) * height
    sides = draw.pick("left", "right", "both")
    for side, name in ((-1, "left"), (1, "right")):
        x = side * (width - block) / 2
        if sides in (name, "both"):
            parts.append(("drawer", box(block, deep, depth * 0.9, (x, height - deep, 0))))
            count = draw.whole(1, 4)
            for row in range(count):
                y = height - deep + (row + 0.5) * deep / count
                parts.append(("handle", rod((x - 0.06, y, depth * 0.47), (x + 0.06, y, depth * 0.47), 0.012)))
        if sides not in (name, "both") or deep < 0.9 * height:
            parts += _named(
                "leg", [box(0.05, height, 0.05, (side * (width / 2 - 0.04), 0, z * depth * 0.42)) for z in (-1, 1)]
            )
    if draw.chance(0.5):
        parts.append(
            ("panel", box(width * 0.95, height * draw.between(0.3, 0.8), 0.02, (0, height * 0.2, -depth * 0.42)))
        )
    if draw.chance(0.3):
        rack, z = draw.between(0.2, 0.5), -depth / 2 + 0.1
        parts.append(("rack", box(width, 0.02, 0.2, (0, height + rack, z))))
        parts += _named("rack", [box(0.02, rack, 0.2, (x * width * 0.48, height, z)) for x in (-1, 0, 1)])
    return parts


def bed(draw: Draw) -> Parts:
    """Make a bed: mattress, frame, boards at its ends, pillows, some with posts."""
    width, depth = draw.between(0.8, 2.0), draw.between(1.8, 2.2)
    low, rail, soft = draw.between(0.1, 0.35), draw.between(0.08, 0.25), draw.between(0.12, 0.3)
    parts = [("frame", box(width, rail, depth, (0, low, 0)))]
    parts.append(("mattress", box(width * 0.96, soft, depth * 0.97, (0, low + rail, 0), taper=0.97)))
    parts += _named("frame", _legs(draw, width, depth, low))
    board = draw.between(0.5, 1.3)
    parts += _named("board", [moved(mesh, (0, low, -depth / 2)) for mesh in _back(draw, width, board, 0.05)])
    if draw.chance(0.5):
        parts += _named("board", [moved(mesh, (0, low, depth / 2)) for mesh in _back(draw, width, board * 0.6, 0.05)])
    count = 2 if width > 1.3 else 1
    for pillow in range(count):
        x = (pillow - (count - 1) / 2) * width / 2
        parts.append(("pillow", ellipsoid(0.3, 0.09, 0.2, (x, low + rail + soft + 0.05, -depth * 0.38))))
    if draw.chance(0.15):
        tall = draw.between(1.6, 2.2)
        corners = [(x * width / 2, z * depth / 2) for x, z in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
        for (x, z), (u, w) in zip(corners, corners[1:] + corners[:1]):
            parts += _named("post", [rod((x, 0, z), (x, tall, z), 0.03), rod((x, tall, z), (u, tall, w), 0.02)])
    return parts


def cabinet(draw: Draw) -> Parts:
    """Make a cupboard, wardrobe or chest: a closed body with doors or drawers, handles, feet."""
    width, height, depth = draw.between(0.5, 1.6), draw.between(0.5, 2.0), draw.between(0.35, 0.6)
    low = draw.between(0.04, 0.2) if draw.chance(0.6) else 0.0
    parts = [("body", box(width, height, depth, (0, low, 0)))]
    rows, columns = (draw.whole(2, 5), draw.whole(1, 2)) if draw.chance(0.5) else (1, draw.whole(1, 4))
    w, h = width / columns, height / rows
    knobs = draw.chance(0.5)
    for row in range(rows):
        for column in range(columns):
            x, y, z = (column + 0.5) * w - width / 2, low + row * h, depth / 2
            parts.append(("door", box(w * 0.94, h * 0.94, 0.02, (x, y + h * 0.03, z + 0.01))))
            if rows == 1:
                x += w * 0.35 * (-1 if column % 2 else 1)
            middle = (x, y + h / 2, z + 0.045)
            if knobs:
                parts.append(("handle", ellipsoid(0.025, 0.025, 0.025, middle)))
            else:
                long = (0, 0.12, 0) if rows == 1 else (min(0.12, w * 0.3), 0, 0)
                parts.append(("handle", rod(tuple(np.subtract(middle, long)), tuple(np.add(middle, long)), 0.014)))
    if draw.chance(0.4):
        parts.append(("top", box(width * 1.06, 0.03, depth * 1.1, (0, low + height, 0))))
    return parts + (_named("foot", _legs(draw, width, depth, low)) if low else [])


def shelf(draw: Draw) -> Parts:
    """Make a bookcase: boards between sides or posts, with or without a back, dividers, books."""
    width, height, depth = draw.between(0.5, 1.6), draw.between(0.8, 2.1), draw.between(0.22, 0.4)
    thick, rows = draw.between(0.015, 0.035), draw.whole(3, 7)
    levels = np.linspace(draw.between(0.0, 0.1), height - thick, rows)
    parts = _named("board", [box(width, thick, depth, (0, y, 0)) for y in levels])
    if draw.chance(0.65):
        parts += _named("side", [box(thick, height, depth, (x * width / 2, 0, 0)) for x in (-1, 1)])
    else:
        corners = [(x * width / 2, z * depth / 2) for x in (-1, 1) for z in (-1, 1)]
        parts += _named("side", [rod((x, 0, z), (x, height, z), draw.between(0.01, 0.02)) for x, z in corners])
    if draw.chance(0.5):
        parts.append(("back", box(width, height, 0.01, (0, 0, -depth / 2))))
    if draw.chance(0.4):
        for y, above in itertools.pairwise(levels):
            parts.append(("divider", box(thick, above - y, depth, (width * draw.between(-0.3, 0.3), y, 0))))
    if draw.chance(0.5):
        for y, above in itertools.pairwise(levels):
            filled, tall = width * draw.between(0.1, 0.5), (above - y - thick) * draw.between(0.6, 0.9)
            x = draw.between(-1, 1) * (width - filled) * 0.45
            parts.append(("book", box(filled, tall, depth * 0.7, (x, y + thick, 0))))
    return parts


def lamp(draw: Draw) -> Parts:
    """Make a table, floor or desk lamp: foot, pole, shade."""
    if draw.chance(0.3):
        return _desk_lamp(draw)
    floor = draw.chance(0.45)
    height = draw.between(1.1, 1.6) if floor else draw.between(0.25, 0.5)
    reach, wide, high = draw.between(0.1, 0.18), draw.between(0.13, 0.28), draw.between(0.15, 0.32)
    parts: Parts = []
    if not floor and draw.chance(0.6):
        line = np.linspace(0, 1, 9)
        bulge = 0.5 + draw.between(0.2, 0.6) * np.sin(np.pi * line * draw.between(0.8, 1.8)) + 0.1 * (1 - line)
        profile = np.stack([np.clip(bulge, 0.15, 1) * reach, line * height * 0.9], 1)
        parts += [
            ("base", revolve([(0, 0), *profile, (0, height * 0.9)])),
            ("pole", rod((0, height * 0.9, 0), (0, height + high * 0.3, 0), 0.012)),
        ]
    else:
        parts += [("base", disc(reach, draw.between(0.015, 0.04), top=draw.between(0.7, 1.0)))]
        parts += [("pole", rod((0, 0, 0), (0, height + high * 0.3, 0), draw.between(0.01, 0.02)))]
    top = wide * draw.between(0.3, 1.0)
    match draw.pick("cone", "cone", "ball", "bowl"):
        case "cone":
            parts.append(("shade", revolve([(wide, height), (top, height + high)])))
        case "ball":
            parts.append(("shade", ellipsoid(wide * 0.8, high * 0.6, wide * 0.8, (0, height + high * 0.6, 0))))
        case _:
            turn = np.linspace(0, np.pi / 2, 7)
            parts.append(("shade", revolve(np.stack([wide * np.sin(turn), height + high * (1 - np.cos(turn))], 1))))
    return parts


def _desk_lamp(draw: Draw) -> Parts:
    first, second = draw.between(0.25, 0.4), draw.between(0.2, 0.4)
    lean, bend = np.radians(draw.between(-25, 20)), np.radians(draw.between(50, 110))
    elbow = np.array([0, first * np.cos(lean), first * np.sin(lean)])
    head = elbow + second * np.array([0, np.cos(bend), np.sin(bend)])
    wide, high, tilt = draw.between(0.06, 0.11), draw.between(0.08, 0.16), draw.between(-40, 20)
    shade = moved(turned(revolve([(wide, -high), (0.03, 0.0), (0.0, 0.01)]), "x", tilt), head)
    poles = [tube(np.array([[0, 0, 0], elbow]), 0.012), tube(np.array([elbow, head]), 0.012)]
    return [("base", disc(draw.between(0.08, 0.13), 0.025)), *_named("pole", poles), ("shade", shade)]

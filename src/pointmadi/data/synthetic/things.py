"""Vessels, vehicles, machines and instruments of many proportions, in named parts. y is up, z is to the front."""

import numpy as np

from pointmadi.data.synthetic.solids import (
    Draw,
    Mesh,
    Parts,
    box,
    disc,
    ellipsoid,
    extrude,
    hexahedron,
    moved,
    revolve,
    rod,
    rotation,
    scaled,
    tube,
    turned,
)


def _curve(radii: list[float], heights: list[float], points: int = 16) -> np.ndarray:
    """Draw a smooth line through (radius, height) knots by cosine interpolation: -> (P, 2)."""
    at = np.linspace(0, len(radii) - 1, points)
    low = np.minimum(at.astype(int), len(radii) - 2)
    part = (1 - np.cos(np.pi * (at - low))) / 2
    r, h = np.asarray(radii), np.asarray(heights)
    return np.stack([r[low] * (1 - part) + r[low + 1] * part, np.interp(at, np.arange(len(h)), h)], 1)


def _hollow(outside: np.ndarray, wall: float) -> Mesh:
    """Turn a line into a vessel with a floor, an inner wall and an open top."""
    inside = np.maximum(outside[::-1] - [wall, 0], 0)
    inside[-1, 1] += wall
    return revolve([(0, outside[0, 1]), *outside, *inside, (0, outside[0, 1] + wall)])


def _ear(radius: float, low: float, high: float, reach: float, thick: float, square: bool = False) -> Mesh:
    """Bend a handle from a wall at x = radius, between two heights."""
    if square:
        path = np.array([(0.0, high), (0.6, high), (1.0, high - 0.15 * (high - low)), (1.0, low + 0.15 * (high - low)),
                         (0.6, low), (0.0, low)])  # fmt: skip
        x, y = radius + reach * path[:, 0], path[:, 1]
    else:
        turn = np.linspace(np.pi / 2, -np.pi / 2, 13)
        x, y = radius + reach * np.cos(turn), (high + low) / 2 + (high - low) / 2 * np.sin(turn)
    return tube(np.stack([x, y, 0 * x], 1), thick, sides=8)


def mug(draw: Draw) -> Parts:
    """Make a cup with a handle: straight, conical or bellied."""
    radius, height = draw.between(0.35, 0.6), draw.between(0.6, 1.3)
    foot, belly = draw.between(0.65, 1.0), draw.between(0.9, 1.15)
    outside = _curve([radius * foot, radius * belly, radius], [0, height * 0.5, height])
    low, high = height * draw.between(0.1, 0.3), height * draw.between(0.7, 0.92)
    reach, thick = draw.between(0.15, 0.4), draw.between(0.03, 0.07)
    handle = _ear(radius * 0.92, low, high, reach, thick, draw.chance(0.35))
    parts = [("body", _hollow(outside, draw.between(0.02, 0.06))), ("handle", handle)]
    if draw.chance(0.25):
        parts.append(("saucer", revolve([(0, -0.05), (radius, -0.05), (radius * draw.between(1.4, 1.9), 0.06)])))
    return parts


def bowl(draw: Draw) -> Parts:
    """Make an open bowl or deep plate, on a ring or a stem."""
    radius = 1.0
    height, foot = draw.between(0.15, 0.9), draw.between(0.25, 0.55)
    turn = np.linspace(np.arcsin(foot), np.pi / 2, 12)
    power = draw.between(0.6, 1.3)
    outside = np.stack([radius * np.sin(turn), height * (1 - np.cos(turn) ** power)], 1)
    outside[:, 1] -= outside[0, 1]
    if draw.chance(0.4):
        outside = np.concatenate([outside, [[radius * draw.between(1.05, 1.3), outside[-1, 1] + 0.03]]])
    parts = [("body", _hollow(outside, draw.between(0.02, 0.06)))]
    if draw.chance(0.7):
        deep = draw.between(0.04, 0.12) if draw.chance(0.75) else draw.between(0.3, 0.6)
        ring = [(foot * draw.between(0.8, 1.3), -deep), (foot * (0.95 if deep < 0.2 else 0.4), 0)]
        parts.append(("foot", revolve([(0, -deep), *ring])))
    return parts


def vase(draw: Draw) -> Parts:
    """Make a vase: a belly, a neck, an open lip, some with ears."""
    height = draw.between(1.0, 2.2)
    foot, belly, neck = draw.between(0.15, 0.4), draw.between(0.35, 0.6), draw.between(0.1, 0.3)
    lip, at = neck * draw.between(1.0, 2.0), draw.between(0.3, 0.6)
    shoulder = draw.between(0.72, 0.85)
    body = _curve([foot, belly, neck], [0, height * at, height * shoulder])
    top = _curve([neck, lip], [height * shoulder, height], 6)
    parts = [("body", revolve([(0, 0), *body])), ("neck", revolve(top)), ("neck", revolve(top * [0.88, 1]))]
    if draw.chance(0.35):
        for side in (1, -1):
            ear = _ear(neck, height * at * 1.1, height * 0.92, draw.between(0.25, 0.35), 0.04)
            parts.append(("handle", scaled(ear, (side, 1, 1))))
    if draw.chance(0.3):
        parts.append(("foot", disc(foot * 1.25, 0.08, (0, -0.08, 0), top=0.8)))
    return parts


def bottle(draw: Draw) -> Parts:
    """Make a bottle: body, shoulder and neck, cap; round or flat."""
    radius, height = draw.between(0.22, 0.5), draw.between(0.7, 1.3)
    neck, long = radius * draw.between(0.25, 0.5), draw.between(0.15, 0.6)
    shoulder = draw.between(0.08, 0.4)
    waist = draw.between(0.8, 1.0) if draw.chance(0.4) else 1.0
    body = _curve([radius, radius * waist, radius], [0, height * 0.5, height], 10)
    slope = _curve([radius, neck], [height, height + shoulder], 8)
    end = height + shoulder + long
    shapes = [("body", revolve([(0, 0), *body])), ("neck", revolve([*slope, (neck, end), (0, end)]))]
    if draw.chance(0.6):
        cap = neck * draw.between(1.05, 1.5)
        shapes.append(("cap", disc(cap, draw.between(0.08, 0.22), (0, end - 0.05, 0))))
    flat = draw.between(0.45, 0.8) if draw.chance(0.3) else 1.0
    parts = [(name, scaled(mesh, (1, 1, flat))) for name, mesh in shapes]
    if draw.chance(0.12):
        parts.append(("handle", _ear(neck, height * 0.7, end * 0.9, radius * 0.9, 0.05)))
    return parts


def teapot(draw: Draw) -> Parts:
    """Make a pot: body, spout, lid with a knob, handle behind or above."""
    radius, height = draw.between(0.45, 0.65), draw.between(0.5, 1.0)
    foot, mouth = radius * draw.between(0.5, 0.8), radius * draw.between(0.4, 0.7)
    parts = [("body", revolve([(0, 0), *_curve([foot, radius, mouth], [0, height * draw.between(0.35, 0.6), height])]))]
    reach, rise = draw.between(0.3, 0.6), draw.between(0.7, 1.1) * height
    t = np.linspace(0, 1, 9)
    bend = draw.between(0.0, 0.25)
    x = radius * 0.8 + reach * t + bend * np.sin(2 * np.pi * t) * 0.3
    y = height * 0.3 + (rise - height * 0.3) * t ** draw.between(0.8, 1.6)
    parts.append(("spout", tube(np.stack([x, y, 0 * t], 1), np.linspace(0.13, draw.between(0.04, 0.08), 9), sides=10)))
    dome = draw.between(0.08, 0.25)
    lid = _curve([mouth, mouth * 0.6, 0.0], [height, height + dome * 0.8, height + dome], 8)
    parts += [("lid", revolve(lid)), ("lid", ellipsoid(0.07, 0.07, 0.07, (0, height + dome + 0.05, 0)))]
    thick = draw.between(0.03, 0.06)
    if draw.chance(0.3):
        turn, rise = np.linspace(0, np.pi, 13), draw.between(0.4, 0.8)
        path = np.stack([radius * 0.8 * np.cos(turn), height * 0.8 + rise * np.sin(turn), 0 * turn], 1)
        parts.append(("handle", tube(path, thick, sides=8)))
    else:
        ear = _ear(radius * 0.75, height * 0.2, height * 0.9, draw.between(0.35, 0.55), thick, draw.chance(0.3))
        parts.append(("handle", scaled(ear, (-1, 1, 1))))
    return parts


def _wing(root: float, tip: float, span: float, sweep: float, rise: float, thick: float) -> Mesh:
    """Make a wing from x = 0 to x = span; z is forward, `sweep` moves the tip back."""
    chord = [np.array([(0, -thick / 2, c / 2), (0, -thick / 2, -c / 2), (0, thick / 2, -c / 2), (0, thick / 2, c / 2)])
             for c in (root, tip)]  # fmt: skip
    return hexahedron(np.concatenate([chord[0], chord[1] * [1, 0.5, 1] + [span, rise, -sweep]]))


def airplane(draw: Draw) -> Parts:
    """Make an airliner, a jet or a propeller plane: fuselage, wings, tail, engines."""
    long, radius = 2.0, draw.between(0.09, 0.17)
    ends = draw.between(0.1, 0.3), draw.between(0.4, 0.8)
    z = np.concatenate([1 - ends[0] * np.linspace(0, 1, 5) ** 2, -1 + ends[1] * np.linspace(1, 0, 6)])
    width = np.concatenate([np.sqrt(np.linspace(0.02, 1, 5)), np.linspace(1, draw.between(0.1, 0.3), 6)]) * radius
    drop = np.concatenate([np.zeros(5), np.linspace(0, radius * 0.6, 6)])
    parts = [("fuselage", tube(np.stack([0 * z, drop, z], 1), width, sides=16))]
    jet = draw.chance(0.25)
    root = draw.between(0.3, 0.55) * (1.6 if jet else 1)
    tip, span = root * draw.between(0.1, 0.8), draw.between(0.45, 0.75) if jet else draw.between(0.7, 1.2)
    sweep = draw.between(0.3, 0.7) if jet or draw.chance(0.6) else draw.between(-0.03, 0.08)
    y = radius * (draw.between(0.6, 0.95) if draw.chance(0.4) else draw.between(-0.7, -0.3))
    rise, at = draw.between(-0.03, 0.12), draw.between(-0.1, 0.25)
    tail_y = draw.between(0.28, 0.5)
    fin = _wing(draw.between(0.25, 0.4), draw.between(0.12, 0.2), tail_y, draw.between(0.1, 0.3), 0, 0.03)
    high = draw.chance(0.25)
    tail = _wing(
        draw.between(0.2, 0.3), draw.between(0.08, 0.18), draw.between(0.28, 0.45), draw.between(0, 0.2), 0, 0.025
    )
    tail = moved(tail, (0, radius * 0.5 + (tail_y if high else 0), -0.82 - (0.2 if high else 0)))
    parts.append(("tail", moved(turned(fin, "z", 90), (0, radius * 0.5, -0.78))))
    engines = draw.pick("wing", "wing2", "rear", "nose") if not jet else draw.pick("rear", "none")
    count = {"wing": (0.35,), "wing2": (0.3, 0.6)}.get(engines, ())
    for side in (1, -1):
        mirror = (side, 1, 1)
        parts += [("wing", scaled(moved(_wing(root, tip, span, sweep, rise, 0.05), (0, y, at)), mirror))]
        parts += [("tail", scaled(tail, mirror))]
        size = draw.between(0.05, 0.075)
        for share in count:
            place = (span * share, y + rise * share - size, at - sweep * share + root * 0.4)
            parts.append(("engine", scaled(moved(_nacelle(size), place), mirror)))
        if engines == "rear":
            parts.append(("engine", scaled(moved(_nacelle(size), (radius + size, radius * 0.5, -0.5)), mirror)))
    if engines == "nose":
        blade = draw.between(0.2, 0.32)
        blades = [turned(box(0.04, blade, 0.015), "z", 360 * i / n) for n in [draw.whole(2, 4)] for i in range(n)]
        parts += [("engine", moved(mesh, (0, 0, 1.02))) for mesh in blades]
    return [(name, scaled(mesh, (1, 1, long / 2))) for name, mesh in parts]


def _nacelle(radius: float) -> Mesh:
    path = np.array([(0, 0, 0.14), (0, 0, 0.1), (0, 0, -0.1), (0, 0, -0.2)])
    return tube(path, radius * np.array([0.85, 1.0, 1.0, 0.55]), sides=12)


def car(draw: Draw) -> Parts:
    """Make a saloon, hatchback, van, pickup or sports car: body, cabin, wheels, some with bumpers and mirrors."""
    style = draw.pick("saloon", "hatchback", "van", "pickup", "sports")
    long, width = draw.between(3.6, 5.0), draw.between(1.5, 1.95)
    wheel, low = draw.between(0.27, 0.38), draw.between(0.15, 0.3)
    waist = draw.between(0.55, 0.75) if style == "sports" else draw.between(0.75, 1.0)
    roof = waist + {"van": draw.between(0.7, 1.1), "sports": draw.between(0.3, 0.4)}.get(style, draw.between(0.45, 0.7))
    front, half = long / 2, long / 2
    nose, back = waist * draw.between(0.75, 0.95), waist * draw.between(0.85, 1.0)
    hood = [(half, low), (half, nose * 0.8), (half * 0.95, nose), (half * 0.35, waist)]
    boot = [(-half * 0.6, waist), (-half * 0.97, back), (-half, back * 0.8), (-half, low)]
    side = turned(extrude(np.array(hood + boot), width), "y", -90)
    parts = [("body", side)]
    start = {"van": 0.75, "sports": 0.15}.get(style, 0.4) * front
    end = {"hatchback": -0.92, "van": -0.98, "pickup": -0.15, "sports": -0.6}.get(style, -0.6) * front
    slope = {"van": 0.4, "sports": 0.7}.get(style, 0.55)
    behind = {"hatchback": 0.3, "van": 0.05, "pickup": 0.1}.get(style, 0.5)
    w, top = width / 2 * 0.95, width / 2 * draw.between(0.72, 0.9)
    corners = [(-w, waist, start), (w, waist, start), (w, waist, end), (-w, waist, end),
               (-top, roof, start - slope), (top, roof, start - slope), (top, roof, end + behind),
               (-top, roof, end + behind)]  # fmt: skip
    parts.append(("cabin", hexahedron(np.array(corners))))
    tyre = draw.between(0.16, 0.26)
    axle = draw.between(0.55, 0.68) * half, -draw.between(0.52, 0.68) * half
    for x in (-1, 1):
        for z in axle:
            round_ = moved(turned(disc(wheel, tyre), "z", 90), (tyre / 2 + x * (width / 2 - 0.06), wheel, z))
            parts.append(("wheel", round_))
        if draw.chance(0.5):
            parts.append(("mirror", box(0.2, 0.13, 0.08, (x * (width / 2 + 0.08), waist, start - 0.25))))
    if draw.chance(0.5):
        parts += [("bumper", box(width * 1.02, 0.14, 0.12, (0, low + 0.05, z))) for z in (-half - 0.03, half + 0.03)]
    if style == "pickup":
        parts += [("body", box(0.06, 0.25, half * 0.75, (x * (width / 2 - 0.03), waist, -half * 0.6))) for x in (-1, 1)]
        parts.append(("body", box(width, 0.25, 0.06, (0, waist, -half * 0.96))))
    if style in ("sports", "hatchback") and draw.chance(0.5):
        above = waist + 0.12 if style == "sports" else roof - 0.02
        parts.append(("spoiler", box(width * 0.9, 0.03, 0.25, (0, above, -half * 0.9))))
    return parts


def guitar(draw: Draw) -> Parts:
    """Make an acoustic or electric guitar, a bass or a ukulele, standing: body, neck, head, pegs."""
    electric = draw.chance(0.45)
    thick = draw.between(0.05, 0.08) if electric else draw.between(0.14, 0.25)
    lower, upper, waist = draw.between(0.28, 0.36), draw.between(0.2, 0.28), draw.between(0.16, 0.22)
    high = draw.between(0.7, 0.95)
    y = np.linspace(0, 1, 15)
    radii = np.interp(y, [0, 0.28, 0.58, 0.8, 1], [0, lower, waist, upper, 0])
    smooth = np.convolve(np.pad(radii, 1, mode="edge"), [0.25, 0.5, 0.25], "valid") * np.minimum(
        1, 4 * np.sqrt(y * (1 - y))
    )
    right, left = np.stack([smooth, y * high], 1), np.stack([-smooth, y * high], 1)[::-1]
    if electric or draw.chance(0.25):  # a cutaway on one side, horns on both
        right[-4:-1, 0] *= draw.between(0.3, 0.7)
        if electric:
            right[-4:-2, 1] += draw.between(0.05, 0.15)
            left[2:4, 1] += draw.between(0.05, 0.2)
    body = extrude(np.concatenate([right, left[1:-1]]), thick)
    long, slim = draw.between(0.55, 0.95), draw.between(0.045, 0.07)
    z = thick / 2
    parts = [("body", body), ("neck", box(slim, long, 0.04, (0, high * 0.93, z - 0.03), taper=0.85))]
    if not electric:
        parts.append(("bridge", box(0.2, 0.03, 0.025, (0, high * 0.25, z))))
    top = high * 0.93 + long
    head, tall, lean = draw.between(0.09, 0.14), draw.between(0.14, 0.24), draw.between(0, 18)
    pieces = [("head", box(head, tall, 0.025, taper=draw.between(0.6, 1.1)))]
    pegs, one_side = draw.whole(2, 3), electric and draw.chance(0.5)
    for side in (1,) if one_side else (-1, 1):
        for peg in range(2 * pegs if one_side else pegs):
            height = tall * (peg + 0.7) / ((2 * pegs if one_side else pegs) + 0.4)
            x = side * head / 2
            pieces.append(("peg", rod((x, height, 0), (x + side * 0.045, height, 0), 0.012)))
    return parts + [(name, moved(turned(mesh, "x", -lean), (0, top, z - 0.03))) for name, mesh in pieces]


def laptop(draw: Draw) -> Parts:
    """Make an open laptop: base with keys and pad, screen at an angle."""
    width, thick = 1.0, draw.between(0.02, 0.07)
    depth = width * draw.between(0.58, 0.78)
    parts = [("base", box(width, thick, depth))]
    keys = depth * draw.between(0.4, 0.55)
    parts.append(("keyboard", box(width * draw.between(0.75, 0.92), 0.015, keys, (0, thick, -depth * 0.15))))
    if draw.chance(0.7):
        parts.append(("pad", box(width * 0.25, 0.01, depth * 0.2, (0, thick, depth * 0.33))))
    screen = box(width, depth * draw.between(0.9, 1.05), draw.between(0.015, 0.04))
    tilt = draw.between(-40, 25)
    parts.append(("screen", moved(turned(screen, "x", tilt), (0, thick, -depth / 2))))
    return parts


def monitor(draw: Draw) -> Parts:
    """Make a flat or an old deep screen: screen, neck, foot."""
    width = 1.0
    height = width * draw.between(0.48, 0.8)
    lift, deep = draw.between(0.08, 0.3), draw.between(0.03, 0.08)
    tilt = rotation("x", draw.between(-12, 6))
    screen = [box(width, height, deep)]
    if draw.chance(0.25):
        tube_deep = draw.between(0.3, 0.6)
        back = np.array([(-1, 0, 0), (1, 0, 0), (1, 1, 0), (-1, 1, 0)]) * [width / 2, height, 1]
        small = (back - [0, height / 2, 0]) * draw.between(0.4, 0.75) + [0, height / 2, -tube_deep]
        screen.append(hexahedron(np.concatenate([small, back])))
    parts = [("screen", (mesh[0] @ tilt.T + [0, lift, 0], mesh[1])) for mesh in screen]
    reach = draw.between(0.12, 0.28)
    match draw.pick("disc", "plate", "vee", "feet"):
        case "disc":
            parts.append(("foot", scaled(disc(reach, 0.025), (1.3, 1, 1))))
        case "plate":
            parts.append(("foot", box(reach * 2.2, 0.02, reach * 1.5)))
        case "vee":
            parts += [("foot", rod((0, 0.03, -0.05), (x * reach * 1.3, 0, reach), 0.018)) for x in (-1, 1)]
        case _:
            x = width * draw.between(0.3, 0.42)
            feet = [rod((s * x, lift * 1.1, 0), (s * x, 0, z * reach * 0.8), 0.016) for s in (-1, 1) for z in (-1, 1)]
            return parts + [("foot", mesh) for mesh in feet]
    if draw.chance(0.5):
        neck = rod((0, 0, -0.05), (0, lift + height * 0.3, -0.05), draw.between(0.02, 0.04))
    else:
        neck = box(draw.between(0.06, 0.2), lift + height * 0.3, 0.03, (0, 0, -0.06))
    return [*parts, ("neck", neck)]

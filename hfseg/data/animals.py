"""Shapes of animals, as circles joined to limbs: what `hfseg.data.synthetic` paints."""

import math

import numpy as np

Circle = tuple[float, float, float]  # x, y, radius; the body's length is about 1, y points down
Limb = list[Circle]  # drawn as the hull of each two circles that follow one another


def build_pose(rng: np.random.Generator) -> tuple[list[list[Limb]], list[Limb], list[Limb], float]:
    """Limbs of a standing, sitting or lying animal that looks right, or of one that faces the viewer.

    Returns:
        the far, middle and near layer, the eyes, the nose, and about how far the figure reaches, in body lengths.
    """
    pose = rng.choice(["stand", "sit", "lie", "face"], p=[0.32, 0.2, 0.15, 0.33])
    if pose == "face":
        return _face(rng)
    thick, leg = rng.uniform(0.13, 0.21), rng.uniform(0.25, 0.5)
    far: list[Limb] = []
    near: list[Limb] = []
    if pose == "stand":
        hip, chest, ground = (-0.36, 0.0), (0.34, rng.normal(0, 0.03)), thick + leg
        for layer, lift in ((far, -0.02), (near, 0.0)):
            for x, y in (hip, chest):
                knee, foot = x + rng.normal(0, 0.05), x + rng.normal(0, 0.09)
                paw = (foot + 0.05, ground + lift, 0.045)
                layer.append([(x, y, thick * 0.75), (knee, (y + ground) / 2, 0.065), (foot, ground + lift, 0.05), paw])
        body = [(*hip, thick), (0.0, 0.02, thick * rng.uniform(0.85, 1.1)), (*chest, thick * 1.05)]
    elif pose == "sit":
        hip, chest, ground = (-0.2, 0.22), (0.13, -0.2), 0.42
        for layer, shift in ((far, 0.06), (near, 0.0)):
            front = 0.2 + shift + rng.normal(0, 0.03)
            layer.append([(chest[0] + shift, chest[1] + 0.1, 0.09), (front, 0.15, 0.06), (front + 0.02, ground, 0.055)])
            layer.append([(hip[0] + 0.04, 0.25, 0.15), (0.02, 0.35, 0.09), (0.06 + shift, ground, 0.05)])
        body = [(*hip, thick * 1.15), (-0.04, 0.02, thick), (*chest, thick * 0.95)]
    else:
        hip, chest, ground = (-0.36, 0.1), (0.3, 0.06), 0.1 + thick
        for layer, shift in ((far, 0.08), (near, 0.0)):
            layer.append([(0.28, 0.14, 0.08), (0.45 + shift, ground, 0.055), (0.6 + shift, ground, 0.05)])
            layer.append([(-0.34, 0.12, 0.13), (-0.16 + shift, ground - 0.03, 0.07), (-0.05 + shift, ground, 0.05)])
        body = [(*hip, thick), (0.0, 0.09, thick * 1.05), (*chest, thick)]
    skull, snout = rng.uniform(0.13, 0.19), rng.uniform(0.03, 0.24)
    head_x, head_y = chest[0] + rng.uniform(0.08, 0.26), chest[1] - rng.uniform(0.16, 0.38)
    nod = rng.uniform(-0.1, 0.6)
    tip = (head_x + (skull + snout) * math.cos(nod), head_y + (skull + snout) * math.sin(nod))
    head = [(head_x, head_y, skull), (*tip, skull * rng.uniform(0.3, 0.5))]
    neck = [(*chest, thick * 0.85), (head_x, head_y, skull * 0.8)]
    tail_angle, bend = rng.uniform(-0.9, 0.7), rng.uniform(-0.35, 0.35)
    tail = [(hip[0] - thick * 0.6, hip[1] - thick * 0.3, 0.06)]
    for _ in range(rng.integers(2, 7)):
        x, y, r = tail[-1]
        tail.append((x - 0.11 * math.cos(tail_angle), y - 0.11 * math.sin(tail_angle), max(0.025, r * 0.93)))
        tail_angle += bend
    ear = _ear(rng, skull)
    far.append([(head_x + x - 0.02 + 0.08, head_y + y, r) for x, y, r in ear])
    near.append([(head_x + x - 0.06, head_y + y, r) for x, y, r in ear])
    eye = [(head_x + skull * 0.5, head_y - skull * 0.15, 0.025)]
    return [far, [tail, body, neck, head], near], [eye], [[(*tip, skull * 0.2)]], 1.25


def _ear(rng: np.random.Generator, skull: float) -> Limb:
    """An ear on a head around (0, 0): pointed, round, hanging or long."""
    length = skull * rng.uniform(0.8, 1.3)
    kind = rng.choice(["pointed", "round", "hanging", "long"], p=[0.4, 0.15, 0.35, 0.1])
    if kind == "pointed":
        return [(0.0, -skull * 0.6, skull * 0.42), (-0.01, -skull * 0.6 - length * 0.75, 0.012)]
    if kind == "round":
        return [(0.0, -skull * 0.95, skull * 0.42)]
    if kind == "hanging":
        return [
            (-0.02, -skull * 0.7, skull * 0.25),
            (-0.06, -skull * 0.1, skull * 0.32),
            (-0.05, length * 0.6, skull * 0.3),
        ]
    return [(0.0, -skull * 0.7, skull * 0.25), (-0.08, -skull * 0.7 - length * 1.5, skull * 0.22)]


def _face(rng: np.random.Generator) -> tuple[list[list[Limb]], list[Limb], list[Limb], float]:
    """An animal that faces the viewer, seen down to its chest; as `build_pose`."""
    skull, chest = rng.uniform(0.27, 0.34), rng.uniform(0.24, 0.36)
    tilt = rng.normal(0, 0.03)
    body = [(tilt, 0.3, chest * 0.8), (0.0, 0.62, chest), (0.0, 1.5, chest * 1.2)]
    ear = _ear(rng, skull)
    ears = [[(side * (skull * 0.62 - x), y, r) for x, y, r in ear] for side in (-1, 1)]
    muzzle = [(tilt, skull * 0.5, skull * rng.uniform(0.35, 0.55))]
    eyes = [[(side * skull * 0.42 + tilt, -skull * 0.12, skull * 0.11)] for side in (-1, 1)]
    head = [(-0.05, 0.0, skull), (0.05, 0.0, skull)]
    nose = [(tilt - 0.02, skull * 0.42, skull * 0.1), (tilt + 0.02, skull * 0.42, skull * 0.1)]
    return [[body], [head], [*ears, muzzle]], eyes, [nose], 0.95

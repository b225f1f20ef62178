"""Drawn pictures of animals: no download, any number, and each one a function of (seed, split, index) alone.

Animals with striped, spotted or patched coats stand, sit, lie or look at the viewer before cluttered scenes in the
same colours. Masks have the three classes of Oxford-IIIT Pet: background, a band along the outline, foreground.
"""

import io
import math
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict, Features
from datasets import Image as ImageFeature
from PIL import Image, ImageDraw, ImageFilter

from hfseg.data.animals import Limb, build_pose
from hfseg.errors import InputError
from hfseg.labels import Labels

NAMES = ("background", "boundary", "foreground")
SPLITS = ("train", "validation", "test")
SUPERSAMPLING = 2

# Fur, earth, stone, wood: animals and scenes draw from them alike, so that colour alone tells little.
SHARED_COLORS = (
    *((62, 44, 34), (120, 82, 52), (176, 124, 74), (214, 170, 118), (232, 214, 186), (240, 236, 228)),
    *((38, 36, 38), (92, 90, 94), (150, 148, 148), (196, 108, 48), (138, 66, 36), (104, 96, 70)),
)
SCENE_COLORS = ((70, 108, 48), (112, 146, 66), (44, 74, 52), (126, 168, 204), (84, 110, 150), (172, 92, 84))


def load(
    data_dir: str | None = None,
    *,
    num_images: int = 480,
    num_validation: int | None = None,
    num_test: int | None = None,
    size: tuple[int, int] = (96, 128),
    seed: int = 0,
) -> tuple[DatasetDict, Labels]:
    """Draws the data set, in memory.

    Args:
        data_dir: not used by this data set.
        num_images: number of training images.
        num_validation: number of validation images; unset: an eighth of `num_images`.
        num_test: number of test images; unset: an eighth of `num_images`.
        size: (height, width) in pixels.
        seed: another seed gives other images in all splits.

    Returns:
        train, validation and test with `image` and `mask`, and the labels background, boundary, foreground.

    Raises:
        InputError: a folder, a number of images below 1, a side under 32 pixels, or a negative seed.
    """
    if data_dir is not None:
        raise InputError(f"data_dir is {data_dir}, but the data set synthetic is drawn, not read. Leave data_dir out.")
    eighth = max(1, num_images // 8)
    counts = [num_images, *(eighth if n is None else n for n in (num_validation, num_test))]
    for name, count in zip(("num_images", "num_validation", "num_test"), counts):
        if count < 1:
            raise InputError(f"{name} is {count}; give a number of images above 0.")
    if len(size) != 2 or min(size) < 32:
        raise InputError(f"size is {size}; give height and width in pixels, 32 or more each.")
    if seed < 0:
        raise InputError(f"seed is {seed}; give 0 or more.")
    features = Features({"image": ImageFeature(), "mask": ImageFeature()})
    parts = {}
    for split, count in zip(SPLITS, counts):
        samples = [draw_sample(seed, split, index, size) for index in range(count)]
        columns = {name: [_to_png(sample[i]) for sample in samples] for i, name in enumerate(("image", "mask"))}
        for name, column in columns.items():
            for index, entry in enumerate(column):
                entry["path"] = f"synthetic_{split}_{index:06d}_{name}.png"
        parts[split] = Dataset.from_dict(columns, features=features)
    return DatasetDict(parts), Labels(NAMES)


def _to_png(array: np.ndarray) -> dict[str, Any]:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG", compress_level=1)
    return {"bytes": buffer.getvalue()}


def draw_sample(seed: int, split: str, index: int, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """One picture and its mask.

    Returns:
        (H, W, 3) uint8 RGB, and (H, W) uint8 class ids.
    """
    rng = np.random.default_rng((seed, SPLITS.index(split), index))
    angle = rng.uniform(0, 2 * math.pi)
    light = (0.6 * math.cos(angle), -abs(math.sin(angle)))  # from above
    picture = draw_scene(rng, size, light)
    cover = np.zeros(size, np.float32)
    for number in range(2 if rng.random() < 0.1 else 1):
        cover = np.maximum(cover, draw_animal(rng, picture, light, small=number > 0))
    glow = 1 + 0.35 * (_noise(rng, size, max(size)) - 0.5)[..., None]  # uneven light over the whole scene
    grain = np.float32(rng.uniform(1, 6)) * rng.standard_normal((*size, 1), np.float32)
    picture = np.clip(picture * glow * rng.uniform(0.8, 1.15) + grain, 0, 255).astype(np.uint8)
    return picture, _to_mask(cover > 0.5)


def _to_mask(inside: np.ndarray) -> np.ndarray:
    """Class ids from the (H, W) bool figure: a band of both sides of its outline is boundary."""
    radius = max(1, round(min(inside.shape) / 64))
    wide, narrow = inside, inside
    for axis in (0, 1):
        wide, narrow = _grow(wide, radius, axis), ~_grow(~narrow, radius, axis)
    return (wide.astype(np.uint8) + narrow).astype(np.uint8)


def _grow(inside: np.ndarray, radius: int, axis: int) -> np.ndarray:
    out = inside.copy()
    for step in range(1, radius + 1):
        ahead, behind = [slice(None)] * 2, [slice(None)] * 2
        ahead[axis], behind[axis] = slice(step, None), slice(None, -step)
        out[tuple(ahead)] |= inside[tuple(behind)]
        out[tuple(behind)] |= inside[tuple(ahead)]
    return out


# ---- surfaces ----
def _noise(rng: np.random.Generator, size: tuple[int, int], cell: float, stretch: float = 1.0) -> np.ndarray:
    """(H, W) float32 in 0..1, smooth over about `cell` pixels, and `stretch` times as far along x."""
    shape = (2 + int(size[0] / cell), 2 + int(size[1] / (cell * stretch)))
    coarse = Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8))
    return np.asarray(coarse.resize(size[::-1], Image.Resampling.BICUBIC), np.float32) / 255


def _texture(rng: np.random.Generator, size: tuple[int, int], colors: tuple[tuple[int, int, int], ...]) -> np.ndarray:
    """(H, W, 3) float32: two colours in stripes, spots, patches or hardly apart, finely streaked as fur or grass."""
    pair = np.array(colors, np.float32)[rng.integers(0, len(colors), 2)]
    first, second = (pair + rng.normal(0, 5, (2, 3))).clip(15).astype(np.float32)
    second = first + np.float32(rng.uniform(0.35, 1)) * (second - first)
    side = min(size)
    kind = rng.choice(["plain", "stripes", "spots", "patches"], p=[0.46, 0.16, 0.19, 0.19])
    if kind == "stripes":
        angle, period = rng.uniform(0, math.pi), side * rng.uniform(0.05, 0.14)
        y, x = np.ogrid[: size[0], : size[1]]
        phase = (x * math.cos(angle) + y * math.sin(angle)) / period + 1.6 * _noise(rng, size, side / 5)
        share = np.clip(0.5 + 1.5 * np.sin(2 * math.pi * phase, dtype=np.float32), 0, 1)
    elif kind == "spots":
        share = np.clip((_noise(rng, size, side * rng.uniform(0.03, 0.08)) - 0.6) * 9, 0, 1)
    elif kind == "patches":
        share = np.clip((_noise(rng, size, side * rng.uniform(0.12, 0.3)) - 0.5) * 12, 0, 1)
    else:
        share = 0.6 * _noise(rng, size, side / 4)
    streaks = _noise(rng, size, side / 90, rng.uniform(1, 5))
    if rng.random() < 0.5:
        streaks = _noise(rng, size[::-1], side / 90, rng.uniform(1, 5)).T
    streaks *= rng.uniform(0.15, 0.5)
    streaks += 0.3 * _noise(rng, size, side / 8)
    brightness = 1 + (streaks - streaks.mean())
    return (first + share[..., None] * (second - first)) * brightness[..., None]


def _shade(cover: np.ndarray, light: tuple[float, float], depth: float) -> np.ndarray:
    """(H, W) brightness of a shape as if it were round: lit from `light`, darker towards its outline."""
    blurred = Image.fromarray((255 * cover).astype(np.uint8)).filter(ImageFilter.GaussianBlur(depth))
    height = np.asarray(blurred, np.float32) / 255
    slope_y, slope_x = np.gradient(height)
    slope = np.float32(depth * light[0]) * slope_x + np.float32(depth * light[1]) * slope_y
    return np.clip(0.55 + 0.5 * height - 1.6 * slope, 0.35, 1.5)


def _paint(picture: np.ndarray, cover: np.ndarray, color: np.ndarray) -> None:
    picture += cover[..., None] * (color - picture)


# ---- scene ----
def draw_scene(rng: np.random.Generator, size: tuple[int, int], light: tuple[float, float]) -> np.ndarray:
    """(H, W, 3) float32 in 0..255: a wall or sky, a floor, and things that are no animals."""
    height, width = size
    colors = SHARED_COLORS + SCENE_COLORS
    picture = _texture(rng, size, colors)
    horizon = height * rng.uniform(0.3, 0.85) + height * rng.uniform(0, 0.15) * _noise(rng, size, width / 4)
    _paint(picture, np.clip(np.arange(height)[:, None] - horizon, 0, 1), _texture(rng, size, colors))
    for _ in range(2):
        things = Image.new("L", (width, height))
        draw = ImageDraw.Draw(things)
        for _ in range(rng.integers(2, 6)):
            x, y, r = rng.uniform(0, width), rng.uniform(0, height), min(size) * rng.uniform(0.04, 0.2)
            kind = rng.integers(3)
            if kind == 0:  # a stone, a ball, a bush
                flat = rng.uniform(0.4, 1)
                draw.ellipse((x - r, y - r * flat, x + r, y + r * flat), 255)
            elif kind == 1:  # a box, a broken edge
                angles = np.sort(rng.uniform(0, 2 * math.pi, rng.integers(3, 6)))
                draw.polygon([(x + r * math.cos(a), y + r * math.sin(a)) for a in angles], 255)
            else:  # a branch, a stem
                dx, dy = rng.uniform(-3, 3, 2) * r
                draw.line((x, y, x + dx, y + dy), 255, max(1, int(r / 3)))
        cover = np.asarray(things, np.float32) / 255
        shade = _shade(cover, light, min(size) / 24)
        _paint(picture, cover, _texture(rng, size, colors) * shade[..., None])
    return picture


# ---- animal ----
def draw_animal(
    rng: np.random.Generator, picture: np.ndarray, light: tuple[float, float], small: bool = False
) -> np.ndarray:
    """Paints one animal into `picture`; returns its (H, W) float32 cover in 0..1."""
    size = picture.shape[:2]
    layers, eyes, noses, reach = build_pose(rng)
    scale = min(size) * rng.uniform(0.6, 0.75 if small else 1.2) / reach
    angle, mirror = rng.normal(0, 0.12), rng.choice([-1, 1])
    cos, sin = scale * math.cos(angle), scale * math.sin(angle)
    center_x, center_y = size[1] * rng.uniform(0.2, 0.8), size[0] * rng.uniform(0.36, 0.64)

    def place(limb: Limb) -> Limb:
        return [
            (center_x + cos * mirror * x - sin * y, center_y + sin * mirror * x + cos * y, scale * r)
            for x, y, r in limb
        ]

    covers = [_cover(size, [place(limb) for limb in limbs]) for limbs in layers]
    whole = np.maximum.reduce(covers)
    shadow = Image.new("L", size[::-1])
    shadow.paste(Image.fromarray((255 * whole).astype(np.uint8)), (int(-light[0] * scale / 8), int(scale / 14)))
    blurred = shadow.filter(ImageFilter.GaussianBlur(scale / 12))
    picture *= 1 - (0.4 / 255) * np.asarray(blurred, np.float32)[..., None]
    coat = _texture(rng, size, SHARED_COLORS)
    for cover, brightness in zip(covers, (0.62, 1.0, 1.06)):
        _paint(picture, cover, coat * (brightness * _shade(cover, light, scale / 14))[..., None])
    dark = np.array((28, 22, 22), np.float32)
    _paint(picture, _cover(size, [place(limb) for limb in eyes + noses]), dark)
    return whole


def _cover(size: tuple[int, int], limbs: list[Limb]) -> np.ndarray:
    """(H, W) float32 in 0..1: share of each pixel under the limbs, given in pixels."""
    s = SUPERSAMPLING
    image = Image.new("L", (size[1] * s, size[0] * s))
    draw = ImageDraw.Draw(image)
    for limb in limbs:
        for x, y, r in limb:
            draw.ellipse(((x - r) * s, (y - r) * s, (x + r) * s, (y + r) * s), 255)
        for (x0, y0, r0), (x1, y1, r1) in zip(limb, limb[1:]):
            length = math.hypot(x1 - x0, y1 - y0) or 1.0
            nx, ny = (y0 - y1) / length, (x1 - x0) / length
            corners = [(x0 + nx * r0, y0 + ny * r0), (x1 + nx * r1, y1 + ny * r1)]
            corners += [(x1 - nx * r1, y1 - ny * r1), (x0 - nx * r0, y0 - ny * r0)]
            draw.polygon([(x * s, y * s) for x, y in corners], 255)
    return np.asarray(image.reduce(s), np.float32) / 255

"""The worst examples as small pictures: an image with its mask, or an image with its double."""

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from hfseg.audit.duplicates import Duplicate
from hfseg.audit.sample import KINDS, WORST, Issue
from hfseg.audit.survey import Survey
from hfseg.errors import InputError
from hfseg.images import UNREADABLE, read_image, read_mask
from hfseg.labels import IGNORE_INDEX, Labels
from hfseg.pictures import to_jpeg

TILE = (260, 200)  # width, height of one picture at most, in pixels
OF_ONE_KIND, IN_ALL = 4, 40
OUTSIDE = (255, 0, 255)  # pixels of no class


def draw_examples(found: Survey, issues: Sequence[Issue], pairs: Sequence[Duplicate]) -> list[dict[str, Any]]:
    """Up to four of each kind, the worst kinds first: {kind, file, detail, pictures: data addresses}."""
    by_name: dict[str, int] = {}
    for i, sample in enumerate(found.samples):
        by_name.setdefault(sample.name, i)
        if sample.mask_name:
            by_name.setdefault(sample.mask_name, i)
    doubles = {found.samples[pair.second].name: pair for pair in pairs}
    order = [*WORST, *(kind for kind in KINDS if kind not in WORST)]
    drawn: list[dict[str, Any]] = []
    for kind in order:
        for issue in [issue for issue in issues if issue.kind == kind][:OF_ONE_KIND]:
            index = by_name.get(issue.file)
            if index is None or len(drawn) >= IN_ALL:
                continue
            sample = found.samples[index]
            if kind.startswith("duplicate") and issue.file in doubles:
                pair = doubles[issue.file]
                tiles = [_draw_image(found.samples[i].image) for i in (pair.first, pair.second)]
            else:
                tiles = [_draw_image(sample.image), _draw_mask(sample.mask, found.labels)]
            pictures = [_to_address(tile) for tile in tiles if tile is not None]
            if pictures:
                drawn.append({"kind": kind, "file": issue.file, "detail": issue.detail, "pictures": pictures})
    return drawn


def _draw_image(source: Any) -> Image.Image | None:
    if source is None:
        return None
    try:
        return ImageOps.contain(Image.fromarray(read_image(source)), TILE)
    except (InputError, *UNREADABLE):
        return None


def _draw_mask(source: Any, labels: Labels) -> Image.Image | None:
    """Classes in their colours, ignored pixels black, pixels of no class in magenta."""
    if source is None:
        return None
    try:
        raw = read_mask(source)
    except (InputError, *UNREADABLE):
        return None
    if raw.ndim == 3:
        return ImageOps.contain(Image.fromarray(raw), TILE, Image.Resampling.NEAREST)
    inside = (raw >= 0) & (raw < len(labels.lookup))
    ids = np.where(inside, labels.lookup[np.where(inside, raw, 0)], -1)
    colors = np.zeros((IGNORE_INDEX + 2, 3), np.uint8)
    colors[: labels.num_labels] = labels.palette
    colors[-1] = OUTSIDE
    return ImageOps.contain(Image.fromarray(colors[ids]), TILE, Image.Resampling.NEAREST)


def _to_address(tile: Image.Image) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(to_jpeg(tile)).decode()

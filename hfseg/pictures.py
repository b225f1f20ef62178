"""Overlays, and the pictures of a model card, drawn in milliseconds: they are made anew with each best model."""

import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from hfseg.errors import InputError
from hfseg.labels import OKABE_ITO, Labels

TILE = 192  # longest side of a picture on the sheet, in pixels
INK, FAINT = (60, 60, 60), (225, 225, 225)


def draw_sheet(
    images: Sequence[np.ndarray], masks: Sequence[np.ndarray], preds: Sequence[np.ndarray], labels: Labels
) -> Image.Image:
    """One row an image: the picture, its label, the prediction, and the prediction laid over the picture.

    Args:
        images: (H, W, 3) uint8 each.
        masks: (H, W) uint8 each, class id or 255, which is drawn black.
        preds: (H, W) class ids each.
        labels: names and colours.
    """
    colors = np.zeros((256, 3), np.uint8)
    colors[: labels.num_labels] = labels.palette
    rows = []
    for image, mask, pred in zip(images, masks, preds):
        scale = TILE / max(image.shape[:2])
        size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
        small = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))
        mask, pred = (np.asarray(Image.fromarray(m).resize(size, Image.Resampling.NEAREST)) for m in (mask, pred))
        rows.append((small, colors[mask], colors[pred], overlay(small, pred, labels.palette)))
    font, gap, head = ImageFont.load_default(13), 6, 22
    legend = _lay_out_legend(labels, font, 4 * (TILE + gap))
    height = head + sum(row[0].shape[0] + gap for row in rows) + legend[-1][1] + 26
    sheet = Image.new("RGB", (4 * (TILE + gap) + gap, height), "white")
    draw = ImageDraw.Draw(sheet)
    for column, title in enumerate(("image", "label", "prediction", "overlay")):
        draw.text((gap + column * (TILE + gap), 4), title, INK, font)
    top = head
    for row in rows:
        for column, picture in enumerate(row):
            sheet.paste(Image.fromarray(picture), (gap + column * (TILE + gap), top))
        top += row[0].shape[0] + gap
    for (x, y, name), color in zip(legend, labels.palette):
        draw.rectangle((x + gap, top + y + 4, x + gap + 12, top + y + 16), tuple(color))
        draw.text((x + gap + 18, top + y + 2), name, INK, font)
    return sheet


def _lay_out_legend(labels: Labels, font: Any, width: int) -> list[tuple[int, int, str]]:
    """(x, y, name) of each class, in lines of at most `width` pixels."""
    places, x, y = [], 0, 0
    for name in labels.names:
        name = " ".join(name.split())[:40]
        step = 32 + int(font.getlength(name))
        if x and x + step > width:
            x, y = 0, y + 20
        places.append((x, y, name))
        x += step
    return places


def draw_curves(rows: Sequence[dict[str, Any]], kept_step: int | None = None) -> Image.Image:
    """Loss and mIoU over the epochs, each for training and validation; a line marks the kept epoch.

    Args:
        rows: as `hfseg.card.log_rows` gives them.
        kept_step: optimiser step of the kept weights.
    """
    panels = (("loss", "train_loss", "loss"), ("mean IoU", "train_mean_iou", "mean_iou"))
    scale, width, height = 2, 400, 240  # drawn twice as large and reduced, which smooths the lines
    sheet = Image.new("RGB", (2 * width * scale, height * scale), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(12 * scale)
    kept = next((row["epoch"] for row in rows if row["step"] == kept_step), None)
    for number, (title, *keys) in enumerate(panels):
        series = [[(r["epoch"], r[k]) for r in rows if r.get(k) is not None and math.isfinite(r[k])] for k in keys]
        points = [point for line in series for point in line]
        left, right = (number * width + 46) * scale, ((number + 1) * width - 14) * scale
        top, bottom = 28 * scale, (height - 36) * scale
        x_ticks = _ticks(0, max((x for x, _ in points), default=1))
        y_ticks = _ticks(0, max((y for _, y in points), default=1))
        spans = (x_ticks[-1] or 1, y_ticks[-1] or 1)

        def place(x: float, y: float, box: Any = (left, right, top, bottom), spans: Any = spans) -> tuple[float, float]:
            return box[0] + (box[1] - box[0]) * x / spans[0], box[3] - (box[3] - box[2]) * y / spans[1]

        for y in y_ticks:
            draw.line((*place(0, y), *place(spans[0], y)), FAINT, scale)
            draw.text((left - 6 * scale, place(0, y)[1]), f"{y:g}", INK, font, anchor="rm")
        for x in x_ticks:
            draw.text((place(x, 0)[0], bottom + 6 * scale), f"{x:g}", INK, font, anchor="mt")
        if kept is not None:
            draw.line((*place(kept, 0), *place(kept, spans[1])), (150, 150, 150), scale)
        draw.text((left, 8 * scale), title, INK, font)
        draw.text(((left + right) / 2, bottom + 22 * scale), "epoch", INK, font, anchor="mt")
        for line, name, color, x in zip(series, ("train", "validation"), (OKABE_ITO[5], OKABE_ITO[6]), (230, 160)):
            pixels = [place(*point) for point in line]
            if len(pixels) > 1:
                draw.line(pixels, color, 2 * scale, joint="curve")
            for px, py in pixels if len(pixels) <= 40 else ():
                draw.ellipse((px - 2 * scale, py - 2 * scale, px + 2 * scale, py + 2 * scale), color)
            draw.line((right - x * scale, 14 * scale, right - (x - 18) * scale, 14 * scale), color, 3 * scale)
            draw.text((right - (x - 24) * scale, 14 * scale), name, INK, font, anchor="lm")
    return sheet.reduce(scale)


def to_png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def to_jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers from `low` to `high` or just above, four to six of them."""
    span = max(high - low, 1e-9)
    step = 10 ** math.floor(math.log10(span / 4))
    step = next(step * factor for factor in (1, 2, 5, 10) if span / (step * factor) <= 5)
    return [round(low + i * step, 10) for i in range(math.ceil(span / step - 1e-9) + 1)]


def overlay(image: np.ndarray, pred: np.ndarray, palette: Sequence[Sequence[int]], alpha: float = 0.5) -> np.ndarray:
    """Lays the classes' colours over a picture; pixels without a colour (255, ignored) stay as they are.

    Args:
        image: (H, W, 3) uint8.
        pred: (H, W) class ids, or 255.
        palette: one RGB colour a class.
        alpha: share of the colour, 0 to 1.

    Returns:
        (H, W, 3) uint8.
    """
    assert image.shape[:2] == pred.shape, f"image {image.shape}, pred {pred.shape}"
    if not 0 <= alpha <= 1:
        raise InputError(f"alpha is {alpha}; the share of the colour lies between 0 and 1.")
    colors = np.zeros((max(256, len(palette)), 3), np.float32)
    colors[: len(palette)] = np.reshape(palette, (-1, 3))
    share = np.zeros((len(colors), 1), np.float32)
    share[: len(palette)] = alpha
    blended = image + share[pred] * (colors[pred] - image)
    return blended.round().astype(np.uint8)

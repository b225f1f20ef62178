"""Images, labels and predictions side by side."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image

from hfseg.labels import IGNORE_INDEX, Labels
from hfseg.pictures import overlay
from hfseg.plots.style import style

RIGHT, WRONG, UNKNOWN = (236, 236, 236), (17, 17, 17), (160, 160, 160)  # in maps of errors; no class has them


def color_mask(mask: np.ndarray, labels: Labels) -> np.ndarray:
    """(H, W) class ids to (H, W, 3) uint8 colours; ignored pixels are black."""
    table = np.zeros((IGNORE_INDEX + 1, 3), np.uint8)
    table[: labels.num_labels] = labels.palette
    return table[mask]


def plot_predictions(
    images: Sequence[np.ndarray], masks: Sequence[np.ndarray], preds: Sequence[np.ndarray], labels: Labels
) -> Figure:
    """One row an image: the picture, its label, the prediction, and the prediction laid over the picture.

    Args:
        images: (H, W, 3) uint8 each.
        masks: (H, W) uint8 each, class id or 255.
        preds: (H, W) class ids each.
        labels: names and colours.
    """
    heights = [image.shape[0] / image.shape[1] for image in images]  # of a picture that is one unit wide
    figure = Figure(figsize=(9, 2.25 * sum(heights) + 0.1 * len(images) + 0.6), layout="constrained", dpi=120)
    axes = figure.subplots(len(images), 4, squeeze=False, height_ratios=heights)
    for row, image, mask, pred in zip(axes, images, masks, preds):
        shown = (image, color_mask(mask, labels), color_mask(pred, labels), overlay(image, pred, labels.palette))
        for axis, picture in zip(row, shown):
            axis.imshow(picture, interpolation="nearest")
            axis.set_axis_off()
    for axis, title in zip(axes[0], ("image", "label", "prediction", "overlay")):
        axis.set_title(title, fontsize=10)
    _legend(figure, labels, ignored=any((np.asarray(m) == IGNORE_INDEX).any() for m in masks))
    return figure


def _legend(figure: Figure, labels: Labels, ignored: bool) -> None:
    colors = ["#{:02x}{:02x}{:02x}".format(*color) for color in labels.palette]
    handles = [Patch(color=color, label=name) for color, name in zip(colors, labels.names)]
    if ignored:
        handles.append(Patch(color="black", label="ignored"))
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 6), frameon=False, fontsize=9)


def plot_samples(images: Sequence[np.ndarray], masks: Sequence[np.ndarray], labels: Labels) -> Figure:
    """Pictures in one row and their labels below.

    Args:
        images: (H, W, 3) uint8 each.
        masks: (H, W) uint8 each, class id or 255.
        labels: names and colours.
    """
    with style():
        height = 2 * max(image.shape[0] / image.shape[1] for image in images)
        figure = Figure(figsize=(2.05 * len(images), 2 * min(height, 3) + 0.5), layout="constrained", dpi=100)
        axes = figure.subplots(2, len(images), squeeze=False)
        for column, (image, mask) in enumerate(zip(images, masks)):
            _show(axes[0, column], shrink(image))
            _show(axes[1, column], color_mask(shrink(mask), labels))
        for row, name in zip(axes, ("image", "label")):
            _name_row(row[0], name)
        _legend(figure, labels, ignored=any((mask == IGNORE_INDEX).any() for mask in masks))
    return figure


def plot_errors(
    images: Sequence[np.ndarray],
    masks: Sequence[np.ndarray],
    preds: Sequence[np.ndarray],
    titles: Sequence[str],
    labels: Labels,
) -> Figure:
    """One row an image: the picture, its label, the prediction, and where they differ (black; ignored pixels grey).

    Args:
        images: (H, W, 3) uint8 each.
        masks: (H, W) uint8 each, class id or 255.
        preds: (H, W) class ids each.
        titles: of the rows.
        labels: names and colours.
    """
    with style():
        heights = [1.65 * min(image.shape[0] / image.shape[1], 1.3) for image in images]
        figure = Figure(figsize=(8, sum(heights) + 0.06 * len(images) + 0.6), layout="constrained", dpi=100)
        axes = figure.subplots(len(images), 4, squeeze=False, height_ratios=heights)
        for row, image, mask, pred, title in zip(axes, images, masks, preds, titles):
            mask, pred = shrink(mask), shrink(pred)
            errors = np.full((*mask.shape, 3), RIGHT, np.uint8)
            errors[pred != mask] = WRONG
            errors[mask == IGNORE_INDEX] = UNKNOWN
            for axis, picture in zip(row, (shrink(image), color_mask(mask, labels), color_mask(pred, labels), errors)):
                _show(axis, picture)
            _name_row(row[0], title)
        for axis, title in zip(axes[0], ("image", "label", "prediction", "errors")):
            axis.set_title(title)
        _legend(figure, labels, ignored=any((mask == IGNORE_INDEX).any() for mask in masks))
    return figure


def shrink(pixels: np.ndarray, longest: int = 160) -> np.ndarray:
    """A picture (H, W, 3) or a map of class ids (H, W), both uint8, with no side above `longest` pixels."""
    height, width = pixels.shape[:2]
    factor = min(1.0, longest / max(height, width))
    size = (max(round(width * factor), 1), max(round(height * factor), 1))
    how = Image.Resampling.NEAREST if pixels.ndim == 2 else Image.Resampling.BOX
    return np.asarray(Image.fromarray(pixels.astype(np.uint8)).resize(size, how))


def _show(axis: Any, picture: np.ndarray) -> None:
    axis.imshow(picture, interpolation="none")
    axis.set_xticks([])
    axis.set_yticks([])
    axis.spines[:].set_visible(False)


def _name_row(axis: Any, name: str) -> None:
    axis.set_ylabel(name, rotation=0, ha="right", va="center", labelpad=6)

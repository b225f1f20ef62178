"""Figures; each function returns one and writes nothing."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from hfseg.images import overlay
from hfseg.labels import IGNORE_INDEX, Labels


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

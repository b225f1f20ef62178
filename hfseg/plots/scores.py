"""Confusion matrices and ROC curves."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from hfseg.labels import Labels
from hfseg.plots.style import style

MAX_ANNOTATED = 12  # classes; beyond, the numbers would not be legible
DARK, LIGHT = "#111111", "#ffffff"  # on the cells' own colours, whatever the page's


def plot_scores(matrix: np.ndarray, curves: Sequence[Any], labels: Labels, title: str = "") -> Figure:
    """Confusion matrix as counts and as shares of the truth, and one-vs-rest ROC curves.

    Args:
        matrix: (C, C) pixel counts, the truth in rows.
        curves: one per class, with false_positive_rate, true_positive_rate and auc (None where it is undefined).
        labels: names and colours.
        title: of the whole figure.
    """
    many = labels.num_labels > MAX_ANNOTATED
    side = 3.6 if not many else 5.6
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    with style():
        figure = Figure(figsize=(3 * side + 0.9, side + 0.5), layout="constrained", dpi=100)
        counts_axis, shares_axis, roc_axis = figure.subplots(1, 3)
        largest = max(int(matrix.max()), 1)
        _draw_matrix(counts_axis, matrix / largest, [[_short(n) for n in row] for row in matrix], labels, "pixels")
        texts = [[f"{100 * value:.1f} %" for value in row] for row in shares]
        _draw_matrix(shares_axis, shares, texts, labels, "share of the true class")
        for name, color, curve in zip(labels.names, labels.palette, curves):
            if curve.auc is None:
                continue
            shown = "#{:02x}{:02x}{:02x}".format(*color)
            roc_axis.plot(curve.false_positive_rate, curve.true_positive_rate, color=shown, lw=2.2)
            roc_axis.plot([], [], color=shown, lw=3, label=f"{name}  AUC {curve.auc:.3f}")
        roc_axis.plot([0, 1], [0, 1], color="#8a8a8a", lw=0.8, ls=":")
        roc_axis.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), xlabel="false positive rate", ylabel="true positive rate")
        roc_axis.set_title("ROC, each class against the rest", loc="left")
        roc_axis.set_aspect("equal")
        roc_axis.grid(True)
        roc_axis.legend(loc="lower right", fontsize=6 if many else 8)
        if title:
            figure.suptitle(title, fontsize=10)
    return figure


def _draw_matrix(axis: Any, values: np.ndarray, texts: list[list[str]], labels: Labels, title: str) -> None:
    size = labels.num_labels
    axis.imshow(values, cmap="Blues", vmin=0, vmax=1, interpolation="none")
    axis.set_xticks(range(size), labels.names, rotation=0 if size < 5 else 90)
    axis.set_yticks(range(size), labels.names, rotation=90 if size < 5 else 0, va="center")
    axis.set(xlabel="predicted", ylabel="true")
    axis.set_title(title, loc="left")
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0)
    for row in range(size) if size <= MAX_ANNOTATED else ():
        for column in range(size):
            color = LIGHT if values[row, column] > 0.55 else DARK
            fontsize = 9 if size < 5 else 6
            axis.text(column, row, texts[row][column], ha="center", va="center", color=color, fontsize=fontsize)


def _short(count: int) -> str:
    """1234567 as 1.23 M."""
    for unit, name in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if count >= unit:
            return f"{count / unit:.3g}{name}"
    return str(int(count))

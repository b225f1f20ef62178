"""Loss and mean IoU over the epochs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from hfseg.plots.style import LINES, style

# Title -> key in Trainer's log.
PANELS = {
    "train loss": "loss",
    "train mIoU": "train_mean_iou",
    "validation loss": "eval_loss",
    "validation mIoU": "eval_mean_iou",
}


@dataclass
class Curve:
    """One quantity of a run over its epochs, of one or several seeds.

    Attributes:
        epochs: (N,) those that every seed has.
        values: (seeds, N).
    """

    epochs: np.ndarray
    values: np.ndarray

    @classmethod
    def from_logs(cls, logs: Sequence[Sequence[Mapping[str, Any]]], key: str) -> "Curve":
        """Collects `key` from one log per seed."""
        found = [{entry["epoch"]: entry[key] for entry in log if key in entry} for log in logs]
        found = [points for points in found if points]
        shared = sorted(set.intersection(*(set(points) for points in found))) if found else []
        values = np.array([[points[epoch] for epoch in shared] for points in found], float)
        return cls(np.array(shared, float), values.reshape(len(found), len(shared)))


def plot_log(log: Sequence[Mapping[str, Any]]) -> Figure:
    """Loss and mean IoU of one training, train and validation overlaid.

    Args:
        log: Trainer's log history.
    """
    with style():
        figure = Figure(figsize=(8, 3), layout="constrained", dpi=120)
        for axis, what in zip(figure.subplots(1, 2), ("loss", "mIoU")):
            for (color, dashes), part in zip(LINES, ("train", "validation")):
                curve = Curve.from_logs([log], PANELS[f"{part} {what}"])
                marker = "o" if len(curve.epochs) < 25 else None
                if curve.values.size:
                    axis.plot(curve.epochs, curve.values[0], color=color, ls=dashes, marker=marker, ms=3, label=part)
            _finish(axis, what, what == "mIoU")
            if axis.lines:
                axis.legend(fontsize=8)
    return figure


def plot_curves(runs: Mapping[str, Mapping[str, Curve]], lines: Mapping[str, int] | None = None) -> Figure:
    """Four panels, train and validation, loss and mean IoU, with every run in each; several seeds as mean and range.

    Args:
        runs: run -> panel (a key of `PANELS`) -> curve.
        lines: run -> index of its line in `LINES`; unset: in their order.
    """
    with style():
        figure = Figure(figsize=(8, 6), layout="constrained", dpi=110)
        axes = figure.subplots(2, 2)
        handles: dict[str, Any] = {}
        for axis, panel in zip(axes.flat, PANELS):
            for number, (name, curves) in enumerate(runs.items()):
                curve = curves[panel]
                color, dashes = LINES[(lines or {}).get(name, number) % len(LINES)]
                if not curve.values.size:
                    continue
                if len(curve.values) > 1:
                    low, high = curve.values.min(0), curve.values.max(0)
                    axis.fill_between(curve.epochs, low, high, color=color, alpha=0.18, linewidth=0)
                marker = "o" if len(curve.epochs) < 3 else None
                label = name if len(curve.values) == 1 else f"{name} ({len(curve.values)} seeds)"
                (line,) = axis.plot(
                    curve.epochs, curve.values.mean(0), color=color, ls=dashes, lw=1.7, marker=marker, ms=4
                )
                handles.setdefault(label, line)
            _finish(axis, panel, panel.endswith("mIoU"))
        if handles:
            entry = 0.85 + 0.085 * max(map(len, handles))  # inches, the line and the space around it included
            columns = max(1, min(len(handles), 3, int(figure.get_figwidth() / entry)))
            figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=columns, handlelength=3.5)
    return figure


def _finish(axis: Any, title: str, from_zero: bool) -> None:
    axis.set_title(title, loc="left")
    axis.set_xlabel("epoch")
    axis.grid(True)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    low, high = axis.dataLim.intervaly  # bands included
    if axis.lines and np.isfinite([low, high]).all():
        axis.set_ylim(0 if from_zero else low - 0.1 * (high - low), max(high + 0.08 * (high - min(low, 0)), 1e-6))

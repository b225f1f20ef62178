"""Figures; each function returns one and writes nothing."""

from hfseg.plots.architecture import Stage, plot_architectures
from hfseg.plots.curves import Curve, plot_curves, plot_log
from hfseg.plots.pictures import color_mask, plot_errors, plot_predictions, plot_samples
from hfseg.plots.scores import plot_scores

__all__ = [
    "Curve",
    "Stage",
    "color_mask",
    "plot_architectures",
    "plot_curves",
    "plot_errors",
    "plot_log",
    "plot_predictions",
    "plot_samples",
    "plot_scores",
]

"""Mean IoU over a whole data set, from one confusion matrix that does not grow with the number of images.

The field's convention (mmsegmentation, evaluate): IoU per class over all pixels of the set; a class that is neither in
the truth nor predicted is left out of the mean; a class that is predicted but not in the truth counts 0.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

Array = torch.Tensor | np.ndarray


def confusion_matrices(pred: torch.Tensor, labels: torch.Tensor, num_labels: int) -> torch.Tensor:
    """One matrix an image.

    Args:
        pred: (B, H, W) integer class ids below `num_labels`.
        labels: (B, H, W) integer; counted where 0 <= label < num_labels.
        num_labels: number of classes C.

    Returns:
        (B, C, C) int64 on the same device: rows are the truth, columns the prediction.
    """
    assert pred.shape == labels.shape, f"prediction {tuple(pred.shape)} against labels {tuple(labels.shape)}"
    labels = labels.long()
    valid = (labels >= 0) & (labels < num_labels)
    image = torch.arange(len(labels), device=labels.device).view(-1, 1, 1)
    cell = (image * num_labels + labels) * num_labels + pred.long()
    # Ignored pixels go to a last cell that is cut off: masking would make the device wait for their number.
    size = len(labels) * num_labels**2
    cell = torch.where(valid, cell, size)
    return torch.bincount(cell.flatten(), minlength=size + 1)[:size].view(-1, num_labels, num_labels)


def confusion_matrix(pred: torch.Tensor, labels: torch.Tensor, num_labels: int) -> torch.Tensor:
    """(C, C) int64 over all pixels; see `confusion_matrices`."""
    return confusion_matrices(pred.reshape(1, 1, -1), labels.reshape(1, 1, -1), num_labels)[0]


class SegMetric:
    """Adds up predictions, and gives IoU and accuracies of all of them.

    Args:
        labels: class names, or their number.
    """

    def __init__(self, labels: Sequence[str] | int) -> None:
        self.names = [str(i) for i in range(labels)] if isinstance(labels, int) else list(labels)
        self.reset()

    def reset(self) -> None:
        """Forgets everything."""
        self.matrix = torch.zeros(len(self.names), len(self.names), dtype=torch.int64)

    def update(self, pred: Array, labels: Array) -> None:
        """Adds maps of class ids, (..., H, W) integer each; see `confusion_matrices`."""
        self.add_matrix(confusion_matrix(torch.as_tensor(pred), torch.as_tensor(labels), len(self.names)))

    def add_matrix(self, matrix: torch.Tensor) -> None:
        """Adds a (C, C) int64 matrix."""
        self.matrix = self.matrix.to(matrix.device) + matrix

    def mIoU(self) -> float:
        """Mean IoU; NaN when no class was seen."""
        value = self.compute()["mean_iou"]
        return math.nan if value is None else value

    def compute(self) -> dict[str, Any]:
        """All figures, ready for JSON: what is undefined is None.

        Returns:
            mean_iou, mean_accuracy (over the classes in the truth), pixel_accuracy, per_class {name: {iou, accuracy,
            pixels}}, confusion_matrix (rows truth, columns prediction).
        """
        matrix = self.matrix.cpu().double()
        hits, truth, predicted = matrix.diagonal(), matrix.sum(1), matrix.sum(0)
        ious, accuracies = (hits / (truth + predicted - hits)).tolist(), (hits / truth).tolist()
        return {
            "mean_iou": _mean(ious),
            "mean_accuracy": _mean(accuracies),
            "pixel_accuracy": _or_none((hits.sum() / matrix.sum()).item()),
            "per_class": {
                name: {"iou": _or_none(iou), "accuracy": _or_none(accuracy), "pixels": int(pixels)}
                for name, iou, accuracy, pixels in zip(self.names, ious, accuracies, truth.tolist())
            },
            "confusion_matrix": self.matrix.tolist(),
        }


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value


def _mean(values: Sequence[float]) -> float | None:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else None

"""Mean IoU over a whole data set, from one confusion matrix that does not grow with the number of images.

The field's convention (mmsegmentation, evaluate): IoU per class over all pixels of the set; a class that is neither in
the truth nor predicted is left out of the mean; a class that is predicted but not in the truth counts 0.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from hfseg.errors import InputError
from hfseg.labels import Labels

Array = torch.Tensor | np.ndarray


def predict_ids(logits: torch.Tensor) -> torch.Tensor:
    """The most likely class of each pixel: logits (B, C, H, W) to (B, H, W) int64 class ids.

    torch's argmax takes 15 times as long over a dimension that is not the last (torch 2.14, CPU); on ties both take the
    first class.
    """
    return logits.max(1).indices


def confusion_matrices(pred: torch.Tensor, labels: torch.Tensor, num_labels: int, check: bool = True) -> torch.Tensor:
    """One matrix an image.

    Args:
        pred: (B, H, W) integer class ids.
        labels: (B, H, W) integer; a pixel counts where 0 <= label < num_labels.
        num_labels: number of classes C.
        check: look for predictions that are no class, for which the host must wait for a GPU; False for those of an
            argmax, which can't be.

    Returns:
        (B, C, C) int64 on the same device: rows are the truth, columns the prediction.

    Raises:
        InputError: a counted pixel's prediction is outside 0 .. C-1.
    """
    assert pred.shape == labels.shape, f"prediction {tuple(pred.shape)} against labels {tuple(labels.shape)}"
    size = len(labels) * num_labels**2
    dtype = torch.int64 if check or size > 2**30 else torch.int32  # half the memory to go through
    pred, labels = pred.to(dtype), labels.to(dtype)
    image = torch.arange(len(labels), device=labels.device, dtype=dtype).view(-1, 1, 1)
    cell = (image * num_labels + labels) * num_labels + pred
    # Two more cells, cut off below, take what has no place in a matrix: ignored pixels and impossible predictions.
    if check:
        cell = torch.where((pred >= 0) & (pred < num_labels), cell, size + 1)
    cell = torch.where((labels >= 0) & (labels < num_labels), cell, size)
    counts = _count(cell, size + 2)
    if check and (outside := counts[size + 1].item()):
        raise InputError(
            f"{outside} predictions are no class id; allowed are 0 to {num_labels - 1}. Compare with a model of the "
            f"same {num_labels} classes."
        )
    return counts[:size].view(-1, num_labels, num_labels)


def _count(cell: torch.Tensor, size: int) -> torch.Tensor:
    """(size,) int64: how often each of 0 .. size-1 is in `cell`, int32 or int64."""
    if cell.device.type == "cpu":  # elsewhere the host would wait to learn the largest cell
        return torch.bincount(cell.flatten(), minlength=size)
    if cell.is_cuda:  # by blocks of threads: with index_add_ all wait for the few cells that most pixels are in
        return torch.histc(cell, size, 0, size).long()
    counts = torch.zeros(size, dtype=torch.int64, device=cell.device)
    return counts.index_add_(0, cell.flatten(), torch.ones_like(counts[:1]).expand(cell.numel()))


def confusion_matrix(pred: torch.Tensor, labels: torch.Tensor, num_labels: int, check: bool = True) -> torch.Tensor:
    """(C, C) int64 over all pixels of maps of any shape; see `confusion_matrices`."""
    assert pred.shape == labels.shape, f"prediction {tuple(pred.shape)} against labels {tuple(labels.shape)}"
    return confusion_matrices(pred.reshape(1, 1, -1), labels.reshape(1, 1, -1), num_labels, check)[0]


class SegMetric:
    """Adds up predictions, and gives IoU and accuracies of all of them.

    `matrix`, (C, C) int64 with the truth in rows, is the whole state: processes may sum theirs.

    Args:
        labels: the classes, their names, or their number.
        device: where the matrix is kept; unset: where the predictions are.
    """

    def __init__(self, labels: Labels | Sequence[str] | int, device: torch.device | str | None = None) -> None:
        if isinstance(labels, Labels):
            labels = labels.names
        self.names = [str(i) for i in range(labels)] if isinstance(labels, int) else list(labels)
        self.device = device
        self.reset()

    def reset(self) -> None:
        """Forgets everything."""
        self.matrix = torch.zeros(len(self.names), len(self.names), dtype=torch.int64, device=self.device)

    def update(self, pred: Array, labels: Array) -> None:
        """Adds maps of class ids.

        Args:
            pred: (..., H, W) integer class ids.
            labels: integer of the same shape; a pixel counts where 0 <= label < C.

        Raises:
            InputError: the shapes differ, the values are no integers, or a prediction is outside 0 .. C-1.
        """
        pred, labels = torch.as_tensor(pred), torch.as_tensor(labels)
        if pred.shape != labels.shape or pred.is_floating_point() or labels.is_floating_point():
            raise InputError(
                f"Predictions are {tuple(pred.shape)} {pred.dtype}, labels {tuple(labels.shape)} {labels.dtype}; "
                "give class ids as integers of one shape (of logits: logits.argmax(1))."
            )
        self.add_matrix(confusion_matrix(pred, labels.to(pred.device), len(self.names)))

    def add_matrix(self, matrix: torch.Tensor) -> None:
        """Adds a (C, C) int64 matrix, the truth in rows."""
        assert matrix.shape == self.matrix.shape, f"{tuple(matrix.shape)} against {tuple(self.matrix.shape)}"
        device = self.device or matrix.device
        self.matrix = self.matrix.to(device) + matrix.to(device)

    def mIoU(self) -> float:
        """Mean IoU in 0 .. 1; NaN when no valid pixel was seen."""
        value = self.compute()["mean_iou"]
        return math.nan if value is None else value

    def compute(self) -> dict[str, Any]:
        """All figures, ready for JSON: what is undefined is None.

        Returns:
            mean_iou (over the classes in the truth or predicted), mean_accuracy (over the classes in the truth),
            pixel_accuracy, per_class {name: {iou, accuracy, pixels of the truth}}, and confusion_matrix (rows truth,
            columns prediction).
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
    return math.fsum(known) / len(known) if known else None

"""Evaluation of a segmentation model: each image becomes one matrix on its device before anything is gathered."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import EvalPrediction, Trainer

from hfseg.bands import compare_by_bands
from hfseg.labels import IGNORE_INDEX
from hfseg.losses import cross_entropy, upsample
from hfseg.metrics import SegMetric, confusion_matrices, predict_ids


class MatrixEvaluation(Trainer):
    """The part of SegTrainer that evaluates. Memory does not grow with the number of images, which may have any size.

    Attributes:
        eval_metric: of the last evaluation, for its confusion matrix.
    """

    eval_metric: SegMetric
    num_labels: int
    pixel_loss: Callable[..., torch.Tensor]
    class_weights: torch.Tensor | None
    _eval_loss: torch.Tensor  # (2,): summed pixel loss, valid pixels

    @torch.no_grad()
    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[None, torch.Tensor, torch.Tensor]:
        """One batch as numbers that can be summed.

        Returns:
            None (the mean of batch losses is not the data set's), (B, C, C) int64 matrices with the truth in rows, and
            (B, 2) float64: summed pixel loss and number of valid pixels of each image.
        """
        inputs = self._prepare_inputs(inputs)
        logits = model(pixel_values=inputs["pixel_values"]).logits
        dtype = torch.float32 if logits.device.type == "mps" else torch.float64  # MPS has no float64
        parts = [self._compare(*one) for one in _by_size(logits, inputs["labels"])]
        matrices, losses, valid = (torch.cat(values) for values in zip(*parts))
        return None, matrices, torch.stack([losses.to(dtype), valid.to(dtype)], dim=1)

    def _compare(self, logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(B, C, C) matrices, (B,) summed losses and (B,) valid pixels, without all of a batch at the labels' size."""
        valid = (labels != IGNORE_INDEX).sum((1, 2))
        if self.pixel_loss is cross_entropy:
            return *compare_by_bands(logits, labels, **self.loss_options()), valid
        matrices, losses = [], []
        for one_logits, one_labels in zip(logits.split(1), labels.split(1)):  # a loss of the user's
            full = upsample(one_logits, labels.shape[-2:])
            matrices.append(confusion_matrices(predict_ids(full), one_labels, self.num_labels, check=False))
            losses.append(self.pixel_loss(full, one_labels, num_items=1, **self.loss_options()))
        return torch.cat(matrices), torch.stack(losses), valid

    def loss_options(self) -> dict[str, Any]:
        """What the recipe says of the loss."""
        return {"weight": self.class_weights, "label_smoothing": self.args.label_smoothing_factor}

    def _sum_matrices(self, batch: EvalPrediction, compute_result: bool) -> dict[str, float]:
        """Adds a gathered batch; after the last one gives the metrics of the whole set."""
        # Both stay on the device: the host waits for it once, at the end.
        self.eval_metric.add_matrix(torch.as_tensor(batch.predictions).sum(0))
        sums = torch.as_tensor(batch.label_ids).sum(0)
        self._eval_loss = self._eval_loss.to(sums) + sums
        if not compute_result:
            return {}
        result = self.eval_metric.compute()
        loss, valid = self._eval_loss.tolist()
        metrics = {"loss": loss / max(valid, 1.0)}
        metrics |= {key: result[key] for key in ("mean_iou", "mean_accuracy", "pixel_accuracy")}
        metrics |= {f"iou_{name}": row["iou"] for name, row in result["per_class"].items()}
        return {key: value for key, value in metrics.items() if value is not None}  # None: the class is nowhere

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        if self.args.world_size > 1:
            assert self.model is not None
            for buffer in self.model.buffers():  # what BatchNorm has counted: the first process' is saved
                torch.distributed.broadcast(buffer, 0)
        self.eval_metric.reset()
        self._eval_loss = torch.zeros(2, dtype=torch.float64)
        with _cache_kept():
            return super().evaluation_loop(*args, **kwargs)


@contextmanager
def _cache_kept() -> Iterator[None]:
    """Leaves PyTorch's memory cache alone.

    With `batch_eval_metrics`, Trainer's loop empties it after each batch, to get rid of gathered logits that are not
    there: it makes the host wait for the device, and the next batch ask the driver for all its memory again.
    """
    empty_cache = torch.cuda.empty_cache
    torch.cuda.empty_cache = lambda: None
    try:
        yield
    finally:
        torch.cuda.empty_cache = empty_cache


def _by_size(
    logits: torch.Tensor, labels: torch.Tensor | list[torch.Tensor]
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """A batch as (logits, labels) pairs in which all labels have one size: the whole, or image by image."""
    if isinstance(labels, torch.Tensor):
        return [(logits, labels)]
    return [(logits[i : i + 1], one[None]) for i, one in enumerate(labels)]

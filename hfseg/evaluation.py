"""Evaluation of a segmentation model: each image becomes one matrix on its device before anything is gathered."""

from typing import Any

import torch
from torch import nn
from transformers import EvalPrediction, Trainer

from hfseg.labels import IGNORE_INDEX
from hfseg.losses import upsample
from hfseg.metrics import SegMetric, confusion_matrices, predict_ids


class MatrixEvaluation(Trainer):
    """The part of SegTrainer that evaluates. Memory does not grow with the number of images, which may have any size.

    Attributes:
        eval_metric: of the last evaluation, for its confusion matrix.
    """

    eval_metric: SegMetric
    num_labels: int
    _eval_loss: torch.Tensor  # (2,) float64: summed pixel loss, valid pixels

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
        matrices, sums = [], []
        for one_logits, one_labels in _by_size(logits, inputs["labels"]):
            one_logits = upsample(one_logits, one_labels.shape[-2:])
            matrices.append(confusion_matrices(predict_ids(one_logits), one_labels, self.num_labels))
            for image_logits, image_labels in zip(one_logits, one_labels):
                total = self._loss(image_logits[None], image_labels[None], 1)
                sums.append(torch.stack([total.to(dtype), (image_labels != IGNORE_INDEX).sum().to(dtype)]))
        return None, torch.cat(matrices), torch.stack(sums)

    def _loss(self, logits: torch.Tensor, labels: torch.Tensor, num_items: torch.Tensor | int | None) -> torch.Tensor:
        raise NotImplementedError

    def _sum_matrices(self, batch: EvalPrediction, compute_result: bool) -> dict[str, float]:
        """Adds a gathered batch; after the last one gives the metrics of the whole set."""
        self.eval_metric.add_matrix(torch.as_tensor(batch.predictions).sum(0).cpu())
        self._eval_loss += torch.as_tensor(batch.label_ids).double().cpu().sum(0)
        if not compute_result:
            return {}
        result = self.eval_metric.compute()
        loss, valid = self._eval_loss.tolist()
        metrics = {"loss": loss / max(valid, 1.0)}
        metrics |= {key: result[key] for key in ("mean_iou", "mean_accuracy", "pixel_accuracy")}
        metrics |= {f"iou_{name}": row["iou"] for name, row in result["per_class"].items()}
        return {key: value for key, value in metrics.items() if value is not None}  # None: the class is nowhere

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        self.eval_metric.reset()
        self._eval_loss.zero_()
        return super().evaluation_loop(*args, **kwargs)


def _by_size(
    logits: torch.Tensor, labels: torch.Tensor | list[torch.Tensor]
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """A batch as (logits, labels) pairs in which all labels have one size: the whole, or image by image."""
    if isinstance(labels, torch.Tensor):
        return [(logits, labels)]
    return [(logits[i : i + 1], one[None]) for i, one in enumerate(labels)]

"""SegMetric as a metric of the `evaluate` library, without its download and without its files.

`evaluate.load("mean_iou")` fetches code from the Hub and writes every map to disk; this one adds each batch to one
confusion matrix. It has a file of its own because `import evaluate` takes seconds.
"""

from typing import Any

import datasets
import evaluate
import numpy as np
import torch

from hfseg.labels import Labels
from hfseg.metrics import SegMetric

_INPUTS = """
        predictions: maps of class ids: one (..., H, W) integer array or tensor, or a list of (H, W) maps of any sizes.
        references: true class ids in the same form; only pixels with 0 <= id < C count.
"""


class MeanIou(evaluate.Metric):
    """Mean IoU and what `hfseg.metrics.SegMetric.compute` gives with it; also in `evaluate.combine`.

    Args:
        labels: the classes, their names, or their number.
        cache_dir: folder that `evaluate` insists on making; nothing is written to it.
    """

    def __init__(self, labels: Labels | list[str] | int, cache_dir: str | None = None) -> None:
        self.metric = SegMetric(labels)
        super().__init__(cache_dir=cache_dir)

    def _info(self) -> evaluate.MetricInfo:
        value = datasets.Sequence(datasets.Sequence(datasets.Value("int64")))
        return evaluate.MetricInfo(
            description="Mean intersection over union of semantic segmentation, from one confusion matrix.",
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": value, "references": value}),
        )

    def add(self, *, prediction: Any = None, reference: Any = None, **kwargs: Any) -> None:
        """Adds one image."""
        self.metric.update(_to_array(prediction), _to_array(reference))

    def add_batch(self, *, predictions: Any = None, references: Any = None, **kwargs: Any) -> None:
        """Adds a batch."""
        if isinstance(predictions, list | tuple) and np.ndim(predictions[0]) > 0:
            for pred, labels in zip(predictions, references, strict=True):
                self.metric.update(_to_array(pred), _to_array(labels))
        else:
            self.metric.update(_to_array(predictions), _to_array(references))

    def compute(self, *, predictions: Any = None, references: Any = None, **kwargs: Any) -> dict[str, Any]:
        """The figures of everything added since the last call, this batch too if there is one."""
        if predictions is not None:
            self.add_batch(predictions=predictions, references=references)
        result = self.metric.compute()
        self.metric.reset()
        return result


def _to_array(values: Any) -> torch.Tensor | np.ndarray:
    return values if isinstance(values, torch.Tensor) else np.asarray(values)

import copy
from pathlib import Path

import evaluate
import numpy as np
import pytest
import torch

from hfseg.labels import Labels
from hfseg.mean_iou import MeanIou
from hfseg.metrics import SegMetric


@pytest.fixture
def metric(tmp_path: Path) -> MeanIou:
    return MeanIou(Labels(("background", "boundary", "foreground")), cache_dir=str(tmp_path))


def draw(seed: int, size: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, size)
    return np.where(rng.random(size) < 0.5, labels, rng.integers(0, 3, size)), np.where(
        rng.random(size) < 0.1, 255, labels
    )


def test_equals_segmetric_and_starts_anew(metric: MeanIou) -> None:
    expected = SegMetric(("background", "boundary", "foreground"))
    for seed in range(3):
        pred, labels = draw(seed, (2, 5, 6))
        expected.update(pred, labels)
        metric.add_batch(predictions=pred, references=labels)
    assert metric.compute() == expected.compute()
    assert metric.compute()["mean_iou"] is None, "compute must empty the metric, as evaluate's do"


def test_forms_of_a_batch(metric: MeanIou) -> None:
    pred, labels = draw(0, (3, 5, 6))
    expected = SegMetric(3)
    expected.update(pred, labels)
    matrix = expected.matrix.tolist()
    forms = [
        (pred, labels),
        (torch.from_numpy(pred), torch.from_numpy(labels)),
        (list(pred), list(labels)),
        (pred.tolist(), labels.tolist()),
        (pred.ravel().tolist(), labels.ravel().tolist()),
        ([pred[:1], pred[1:]], [labels[:1], labels[1:]]),
    ]
    for predictions, references in forms:
        assert metric.compute(predictions=predictions, references=references)["confusion_matrix"] == matrix
    for p, t in zip(pred, labels):
        metric.add(prediction=p, reference=t)
    assert metric.compute()["confusion_matrix"] == matrix


def test_maps_of_different_sizes(metric: MeanIou) -> None:
    batch = [draw(0, (5, 6)), draw(1, (3, 9))]
    result = metric.compute(predictions=[p for p, _ in batch], references=[t for _, t in batch])
    assert sum(map(sum, result["confusion_matrix"])) == sum(int((t != 255).sum()) for _, t in batch)
    with pytest.raises(ValueError):
        metric.add_batch(predictions=[p for p, _ in batch], references=[batch[0][1]])


def test_perfect_prediction_is_one(metric: MeanIou) -> None:
    _, labels = draw(0, (2, 8, 8))
    result = metric.compute(predictions=np.where(labels == 255, 0, labels), references=labels)
    assert result["mean_iou"] == 1.0


def test_in_combine(metric: MeanIou) -> None:
    class Count(evaluate.Metric):
        def _info(self) -> evaluate.MetricInfo:
            return evaluate.MetricInfo("", "", copy.deepcopy(metric.features), "")

        def add_batch(self, *, predictions: list, references: list) -> None:
            """Counts."""
            self.count = getattr(self, "count", 0) + len(predictions)

        def compute(self, **kwargs: object) -> dict[str, int]:
            """The count."""
            return {"count": self.count}

    both = evaluate.combine([metric, Count()])
    pred, labels = draw(0, (4, 5, 6))
    both.add_batch(predictions=pred[:2], references=labels[:2])
    both.add_batch(predictions=pred[2:], references=labels[2:])
    expected = SegMetric(("background", "boundary", "foreground"))
    expected.update(pred, labels)
    assert both.compute() == expected.compute() | {"count": 4}


def test_writes_no_file(metric: MeanIou, tmp_path: Path) -> None:
    metric.add_batch(predictions=draw(0, (2, 5, 6))[0], references=draw(0, (2, 5, 6))[1])
    metric.compute()
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]

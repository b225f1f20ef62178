import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from hfseg.roc import ScoreHistogram


def expected(logits: torch.Tensor, labels: torch.Tensor, class_id: int) -> float:
    valid = labels != 255
    scores = logits.double().softmax(1)[:, class_id][valid]
    return roc_auc_score((labels[valid] == class_id).numpy(), scores.numpy())


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    num_labels=st.integers(2, 6),
    scale=st.sampled_from([0.003, 0.1, 1.0, 10.0]),
    signal=st.sampled_from([0.0, 0.5, 3.0]),
)
def test_auc_equals_that_of_scikit_learn(seed: int, num_labels: int, scale: float, signal: float) -> None:
    """Also where all scores lie close together, and where the softmax is saturated."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(num_labels, (4, 24, 24), generator=generator)
    labels[:, 0, :num_labels] = torch.arange(num_labels)
    labels[:, -2:] = 255
    hot = torch.nn.functional.one_hot(labels.clamp(max=num_labels - 1), num_labels).movedim(-1, 1)
    logits = scale * (torch.randn(4, num_labels, 24, 24, generator=generator) + signal * hot)
    histogram = ScoreHistogram(num_labels)
    for i in range(0, 4, 2):  # batch by batch
        histogram.update(logits[i : i + 2], labels[i : i + 2])
    for class_id, curve in enumerate(histogram.compute()):
        assert curve.auc == pytest.approx(expected(logits, labels, class_id), abs=1e-3)
        assert (curve.false_positive_rate[0], curve.true_positive_rate[-1]) == (0, 1)
        assert np.all(np.diff(curve.false_positive_rate) >= 0) and np.all(np.diff(curve.true_positive_rate) >= 0)
        thinned = np.trapezoid(curve.true_positive_rate, curve.false_positive_rate)
        assert thinned == pytest.approx(curve.auc, abs=0.02)


def test_logits_are_brought_to_the_size_of_the_labels() -> None:
    labels = torch.zeros(1, 8, 8, dtype=torch.uint8)
    labels[:, :, 4:] = 1
    logits = torch.tensor([[[[5.0, -5.0]], [[-5.0, 5.0]]]])
    histogram = ScoreHistogram(2)
    histogram.update(logits, labels)
    assert [curve.auc for curve in histogram.compute()] == [1.0, 1.0]
    assert histogram.counts.sum().item() == 2 * 64


def test_memory_does_not_grow_and_absent_classes_have_no_curve() -> None:
    histogram = ScoreHistogram(3)
    size = histogram.counts.numel()
    for _ in range(3):
        histogram.update(torch.randn(2, 3, 4, 4), torch.randint(2, (2, 4, 4)))
    assert histogram.counts.numel() == size
    assert [curve.auc is None for curve in histogram.compute()] == [False, False, True]

import json
import math
from typing import Any

import numpy as np
import pytest
import sklearn.metrics
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hfseg.errors import InputError
from hfseg.labels import IGNORE_INDEX, Labels
from hfseg.metrics import SegMetric, confusion_matrices, confusion_matrix, predict_ids


def draw_maps(seed: int, num_images: int, num_labels: int, size: tuple[int, int] = (5, 6)) -> tuple[torch.Tensor, ...]:
    """Predictions and labels (B, H, W), about half of them equal and a fifth of the labels ignored."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, num_labels, (num_images, *size))
    pred = np.where(rng.random(labels.shape) < 0.5, labels, rng.integers(0, num_labels, labels.shape))
    labels[rng.random(labels.shape) < 0.2] = IGNORE_INDEX
    return torch.from_numpy(pred), torch.from_numpy(labels)


def count_by_loops(pred: Any, labels: Any, num_labels: int) -> list[list[int]]:
    matrix = [[0] * num_labels for _ in range(num_labels)]
    for p, t in zip(np.asarray(pred).ravel().tolist(), np.asarray(labels).ravel().tolist()):
        if 0 <= t < num_labels:
            matrix[t][p] += 1
    return matrix


def evaluate_by_loops(preds: Any, labels: Any, num_labels: int) -> dict[str, Any]:
    """The formula of `evaluate`'s mean_iou: areas of intersection, prediction and truth per class, then nanmean."""
    hit, predicted, truth = ([0] * num_labels for _ in range(3))
    for pred, label in zip(preds, labels):
        for p, t in zip(np.asarray(pred).ravel().tolist(), np.asarray(label).ravel().tolist()):
            if t != 255:
                predicted[p] += 1
                truth[t] += 1
                hit[t] += p == t
    ious = [h / (p + t - h) for h, p, t in zip(hit, predicted, truth) if p + t > h or h]
    accuracies = [h / t for h, t in zip(hit, truth) if t]
    return {
        "mean_iou": sum(ious) / len(ious) if ious else None,
        "mean_accuracy": sum(accuracies) / len(accuracies) if accuracies else None,
        "pixel_accuracy": sum(hit) / sum(truth) if sum(truth) else None,
    }


def measure(pred: Any, labels: Any, num_labels: int) -> dict[str, Any]:
    metric = SegMetric(num_labels)
    metric.update(np.array(pred), np.array(labels))
    return metric.compute()


maps = st.builds(draw_maps, st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 7))


@settings(deadline=None)
@given(maps)
def test_matrix_equals_loops(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    pred, labels = batch
    matrix = confusion_matrix(pred, labels, 7)
    assert matrix.dtype == torch.int64
    assert matrix.tolist() == count_by_loops(pred, labels, 7)


def test_matrix_equals_sklearn() -> None:
    pred, labels = draw_maps(0, 9, 5, (40, 30))
    valid = labels != IGNORE_INDEX
    expected = sklearn.metrics.confusion_matrix(labels[valid], pred[valid], labels=range(5))
    assert (confusion_matrix(pred, labels, 5).numpy() == expected).all()


def test_figures_equal_sklearn() -> None:
    pred, labels = draw_maps(1, 9, 5, (40, 30))
    metric = SegMetric(["a", "b", "c", "d", "e"])
    metric.update(pred, labels)
    truth, guess = labels[labels != IGNORE_INDEX], pred[labels != IGNORE_INDEX]
    result = metric.compute()
    ious = sklearn.metrics.jaccard_score(truth, guess, average=None)
    recalls = sklearn.metrics.recall_score(truth, guess, average=None)
    assert [row["iou"] for row in result["per_class"].values()] == pytest.approx(ious, abs=1e-12)
    assert [row["accuracy"] for row in result["per_class"].values()] == pytest.approx(recalls, abs=1e-12)
    assert [row["pixels"] for row in result["per_class"].values()] == truth.bincount().tolist()
    assert list(result["per_class"]) == ["a", "b", "c", "d", "e"]
    assert result["mean_iou"] == metric.mIoU() == pytest.approx(ious.mean(), abs=1e-12)
    assert result["mean_accuracy"] == pytest.approx(recalls.mean(), abs=1e-12)
    assert result["pixel_accuracy"] == pytest.approx(sklearn.metrics.accuracy_score(truth, guess), abs=1e-12)


@settings(deadline=None)
@given(maps)
def test_figures_equal_the_formula_of_evaluate(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    result = measure(*batch, 9)  # 9: some classes are always absent
    for key, value in evaluate_by_loops(*batch, 9).items():
        assert result[key] == (None if value is None else pytest.approx(value, abs=1e-9))


# ---- any order, any split ----
@settings(deadline=None)
@given(maps, st.randoms(use_true_random=False), st.data())
def test_order_and_split_change_nothing(batch: tuple[torch.Tensor, ...], random: Any, data: Any) -> None:
    pred, labels = batch
    order = list(range(len(pred)))
    random.shuffle(order)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(pred)), max_size=4)))
    metric = SegMetric(7)
    for start, stop in zip([0, *cuts], [*cuts, len(pred)]):
        metric.update(pred[order[start:stop]], labels[order[start:stop]])  # empty batches among them
    assert metric.matrix.equal(confusion_matrix(pred, labels, 7))


@settings(deadline=None)
@given(maps)
def test_matrices_of_images(batch: tuple[torch.Tensor, ...]) -> None:
    pred, labels = batch
    matrices = confusion_matrices(pred, labels, 7)
    assert matrices.shape == (len(pred), 7, 7) and matrices.dtype == torch.int64
    assert matrices.tolist() == [count_by_loops(p, t, 7) for p, t in zip(pred, labels)]
    assert matrices.sum(0).equal(confusion_matrix(pred, labels, 7))


@settings(deadline=None)
@given(maps, st.permutations(range(7)))
def test_renaming_classes_moves_rows_and_columns(batch: tuple[torch.Tensor, ...], order: list[int]) -> None:
    pred, labels = batch
    table = torch.tensor([*order, *[IGNORE_INDEX] * 249])
    renamed = confusion_matrix(table[pred], table[labels], 7)
    assert renamed[order][:, order].equal(confusion_matrix(pred, labels, 7))
    before, after = measure(pred, labels, 7), measure(table[pred], table[labels], 7)
    assert after["mean_iou"] == (None if before["mean_iou"] is None else pytest.approx(before["mean_iou"], abs=1e-12))


def test_images_of_different_sizes() -> None:
    parts = [draw_maps(seed, 1, 4, size) for seed, size in enumerate([(5, 6), (1, 1), (17, 3)])]
    metric = SegMetric(4)
    for pred, labels in parts:
        metric.update(pred[0], labels[0])
    flat = [torch.cat([part[i].flatten() for part in parts]) for i in (0, 1)]
    assert metric.matrix.tolist() == count_by_loops(*flat, 4)


def test_matrices_can_be_summed() -> None:
    """As processes do with theirs."""
    pred, labels = draw_maps(0, 5, 4)
    metric = SegMetric(4)
    metric.add_matrix(confusion_matrix(pred[:2], labels[:2], 4))
    metric.add_matrix(confusion_matrices(pred[2:], labels[2:], 4).sum(0))
    assert metric.matrix.equal(confusion_matrix(pred, labels, 4))


# ---- counted by hand ----
def test_ignored_pixels_count_nowhere() -> None:
    #                 hit hit miss(1->0) ignored ignored
    result = measure([[0, 1, 0, 1, 0]], [[0, 1, 1, 255, 255]], 2)
    assert result["confusion_matrix"] == [[1, 0], [1, 1]]
    assert result["per_class"]["0"] == {"iou": 1 / 2, "accuracy": 1.0, "pixels": 1}
    assert result["per_class"]["1"] == {"iou": 1 / 2, "accuracy": 1 / 2, "pixels": 2}
    assert result["mean_iou"] == 0.5 and result["mean_accuracy"] == 0.75 and result["pixel_accuracy"] == 2 / 3


@pytest.mark.parametrize("other", [3, 254, 255, -1, -100])
def test_labels_outside_the_classes_are_ignored(other: int) -> None:
    assert measure([[0, 2, 1]], [[0, 2, other]], 3)["confusion_matrix"] == [[1, 0, 0], [0, 0, 0], [0, 0, 1]]


def test_absent_class_is_left_out() -> None:
    result = measure([[0, 0, 1, 1]], [[0, 0, 1, 0]], 3)
    assert result["per_class"]["2"] == {"iou": None, "accuracy": None, "pixels": 0}
    assert result["mean_iou"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert result["mean_accuracy"] == pytest.approx((2 / 3 + 1) / 2)


def test_class_predicted_but_absent_counts_zero() -> None:
    result = measure([[0, 0, 2, 1]], [[0, 0, 0, 1]], 3)
    assert result["per_class"]["2"] == {"iou": 0.0, "accuracy": None, "pixels": 0}
    assert result["mean_iou"] == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert result["mean_accuracy"] == pytest.approx((2 / 3 + 1) / 2)


def test_class_never_found_counts_zero() -> None:
    result = measure([[0, 0, 0, 0]], [[0, 0, 1, 1]], 2)
    assert result["per_class"]["1"] == {"iou": 0.0, "accuracy": 0.0, "pixels": 2}
    assert result["mean_iou"] == 0.25 and result["mean_accuracy"] == 0.5


def test_one_class() -> None:
    result = measure([[0, 0]], [[0, 255]], 1)
    assert result["mean_iou"] == result["pixel_accuracy"] == 1.0 and result["confusion_matrix"] == [[1]]


@pytest.mark.parametrize("labels", [[[255, 255]], np.zeros((0, 2), int)])
def test_nothing_valid(labels: Any) -> None:
    metric = SegMetric(["a", "b"])
    metric.update(np.zeros_like(labels), np.array(labels))
    assert math.isnan(metric.mIoU())
    result = metric.compute()
    assert result["mean_iou"] is result["mean_accuracy"] is result["pixel_accuracy"] is None
    assert result["per_class"]["a"] == {"iou": None, "accuracy": None, "pixels": 0}


@settings(deadline=None)
@given(maps)
def test_perfect_prediction_is_exactly_one(batch: tuple[torch.Tensor, ...]) -> None:
    labels = batch[1]
    if (labels == IGNORE_INDEX).all():
        return
    result = measure(torch.where(labels == IGNORE_INDEX, 0, labels), labels, 7)
    assert result["mean_iou"] == result["mean_accuracy"] == result["pixel_accuracy"] == 1.0


def test_set_and_not_mean_of_images() -> None:
    metric = SegMetric(2)
    batch = [([0, 0, 0, 0], [0, 0, 0, 0]), ([0, 0, 1, 1], [1, 1, 1, 0])]
    for pred, labels in batch:
        metric.update(np.array([pred]), np.array([labels]))
    hits, unions = (4 + 0, 1), (4 + 3, 4)
    assert metric.mIoU() == pytest.approx((hits[0] / unions[0] + hits[1] / unions[1]) / 2)
    of_images = [measure([pred], [labels], 2)["mean_iou"] for pred, labels in batch]
    assert metric.mIoU() != pytest.approx(sum(of_images) / 2, abs=0.1)


# ---- state ----
def test_reset_forgets() -> None:
    metric = SegMetric(3)
    metric.update(torch.tensor([[0, 1]]), torch.tensor([[0, 2]]))
    metric.reset()
    assert metric.matrix.sum() == 0 and math.isnan(metric.mIoU())
    metric.update(torch.tensor([[0, 1]]), torch.tensor([[0, 1]]))
    assert metric.mIoU() == 1.0


def test_mean_iou_in_between_changes_nothing() -> None:
    pred, labels = draw_maps(3, 4, 3)
    metric = SegMetric(3)
    for i in range(4):
        metric.update(pred[i], labels[i])
        metric.mIoU()
    assert metric.matrix.equal(confusion_matrix(pred, labels, 3))


def test_memory_does_not_grow() -> None:
    metric = SegMetric(3)
    for seed in range(20):
        metric.update(*draw_maps(seed, 2, 3))
    tensors = [value for value in vars(metric).values() if isinstance(value, torch.Tensor)]
    assert [t.numel() for t in tensors] == [9] and metric.matrix.sum() > 500
    assert all(len(value) <= 3 for value in vars(metric).values() if isinstance(value, list))


def test_counts_beyond_float32_and_int32() -> None:
    metric = SegMetric(2)
    metric.add_matrix(torch.tensor([[2**40, 1], [0, 2**40 + 1]]))
    metric.update(torch.tensor([[0]]), torch.tensor([[1]]))
    assert metric.compute()["confusion_matrix"] == [[2**40, 1], [1, 2**40 + 1]]
    assert 0 < 1 - metric.mIoU() < 1e-11


def test_compute_is_json() -> None:
    result = measure([[0, 0, 2]], [[0, 0, 255]], 4)
    assert json.loads(json.dumps(result, allow_nan=False)) == result


# ---- what may be given ----
@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "int64"])
def test_integer_types_of_torch_and_numpy(dtype: str) -> None:
    pred, labels = draw_maps(0, 2, 5)
    expected = count_by_loops(pred, labels, 5)
    arrays = pred.numpy().astype(dtype), labels.numpy().astype(dtype)
    for batch in (arrays, [torch.from_numpy(a) for a in arrays], (torch.from_numpy(arrays[0]), arrays[1])):
        metric = SegMetric(5)
        metric.update(*batch)
        assert metric.matrix.tolist() == expected


def test_names() -> None:
    labels = Labels(("cat", "dog"))
    for given_labels in (labels, labels.names, ["cat", "dog"]):
        assert list(SegMetric(given_labels).compute()["per_class"]) == ["cat", "dog"]
    assert list(SegMetric(3).compute()["per_class"]) == ["0", "1", "2"]


@pytest.mark.parametrize("bad", [-1, 3, 255])
def test_impossible_prediction_is_an_error(bad: int) -> None:
    """`evaluate`'s metric drops it, and a plain bincount puts it into a neighbour's cell."""
    metric = SegMetric(3)
    with pytest.raises(InputError, match=r"^2 predictions are no class id; allowed are 0 to 2\.[^\n]*$"):
        metric.update(torch.tensor([[0, bad, bad]]), torch.tensor([[0, 1, 2]]))
    assert metric.matrix.sum() == 0
    metric.update(torch.tensor([[0, bad]]), torch.tensor([[0, 255]]))  # it counts nowhere, so it may say anything
    assert metric.mIoU() == 1.0


def test_logits_are_an_error() -> None:
    logits, labels = torch.rand(2, 3, 4, 4), torch.zeros(2, 4, 4, dtype=torch.long)
    for pred in (logits, logits.argmax(1).float(), logits.argmax(1)[:1]):
        with pytest.raises(InputError, match=r"argmax\(1\)"):
            SegMetric(3).update(pred, labels)


def test_other_number_of_classes_is_an_error() -> None:
    with pytest.raises(AssertionError):
        SegMetric(3).add_matrix(torch.zeros(4, 4, dtype=torch.int64))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@settings(deadline=None)
@given(maps)
def test_stays_on_the_device(batch: tuple[torch.Tensor, ...]) -> None:
    pred, labels = (x.cuda() for x in batch)
    assert confusion_matrices(pred, labels, 7).is_cuda
    metric = SegMetric(7)
    metric.update(pred, labels)
    metric.update(pred, labels.cpu())
    assert metric.matrix.is_cuda and metric.matrix.tolist() == (2 * confusion_matrix(*batch, 7)).tolist()
    kept = SegMetric(7, device="cpu")
    kept.update(pred, labels)
    assert not kept.matrix.is_cuda


def test_predicted_ids_are_the_first_of_the_largest() -> None:
    logits = torch.randint(0, 3, (2, 5, 7, 9), generator=torch.Generator().manual_seed(0)).float()  # with many ties
    assert torch.equal(predict_ids(logits), logits.argmax(1))

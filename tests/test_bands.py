"""Loss, counts and predictions by bands, against the plain form on whole upsampled logits."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from hfseg import bands
from hfseg.bands import (
    compare_by_bands,
    cross_entropy_by_bands,
    is_large,
    predict_ids_by_bands,
)
from hfseg.labels import IGNORE_INDEX
from hfseg.losses import cross_entropy, upsample
from hfseg.metrics import confusion_matrices, confusion_matrix, predict_ids
from hfseg.trainer import SegTrainer
from hfseg.upsampling import upsample_rows
from tests.test_trainer import arguments, batch_of, norms_in_eval, tiny_segformer


@st.composite
def batches(draw: Any) -> dict[str, Any]:
    """Logits and labels of any two sizes, with any options."""
    num_images, num_labels = draw(st.integers(1, 3)), draw(st.sampled_from([2, 3, 4, 5, 6, 20]))
    small = draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    large = draw(st.one_of(st.just(small), st.tuples(st.integers(1, 37), st.integers(1, 37))))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    labels = torch.randint(0, num_labels, (num_images, *large), generator=generator, dtype=torch.uint8)
    labels[torch.rand(labels.shape, generator=generator) < draw(st.sampled_from([0.0, 0.3, 1.0]))] = IGNORE_INDEX
    weight = torch.rand(num_labels, generator=generator) * 3
    options = {
        "weight": draw(st.sampled_from([None, weight])),
        "label_smoothing": draw(st.sampled_from([0.0, 0.1])),
        "num_items": draw(st.sampled_from([None, 7, torch.tensor(11)])),
    }
    return {
        "logits": 4 * torch.randn(num_images, num_labels, *small, generator=generator),
        "labels": labels,
        "options": options,
        # From less than a row to more than the batch.
        "band_values": draw(
            st.sampled_from([1, num_labels * large[1] * 3, num_labels * large[0] * large[1] * 2, 10**9])
        ),
    }


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(
    ("num_labels", "small", "large"), [(150, (16, 16), (64, 64)), (3, (7, 9), (29, 31)), (5, (8, 8), (8, 8))]
)
def test_a_gpu_gives_what_the_plain_form_gives_on_a_cpu(
    num_labels: int, small: tuple[int, int], large: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    logits, weight = 4 * torch.randn(3, num_labels, *small), torch.rand(num_labels) * 3
    labels = torch.randint(0, num_labels, (3, *large), dtype=torch.uint8)
    labels[:, 2:9] = IGNORE_INDEX
    for options in ({}, {"weight": weight, "label_smoothing": 0.1}):
        plain_logits = logits.clone().requires_grad_()
        plain = cross_entropy(plain_logits, labels, **options)
        expected = gradient(plain, plain_logits)
        for values in (num_labels * large[1] * 3, 10**9):
            there = logits.cuda().requires_grad_()
            loss, matrix = cross_entropy_by_bands(there, labels.cuda(), **options, band_values=values)
            torch.testing.assert_close(loss.cpu(), plain, rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(gradient(loss, there).cpu(), expected, rtol=1e-5, atol=1e-6)
            assert matrix.sum() == (labels != IGNORE_INDEX).sum()


def gradient(loss: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    return torch.autograd.grad(loss, logits)[0]


@settings(max_examples=150, deadline=None, derandomize=True)
@given(batches())
def test_equals_the_plain_form(batch: dict[str, Any]) -> None:
    logits, labels, options = batch["logits"].requires_grad_(), batch["labels"], batch["options"]
    loss, matrix = cross_entropy_by_bands(logits, labels, **options, band_values=batch["band_values"])
    plain = cross_entropy(logits, labels, **options)
    torch.testing.assert_close(loss, plain, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradient(3 * loss, logits), gradient(3 * plain, logits), rtol=1e-5, atol=1e-6)
    if (labels == IGNORE_INDEX).all():
        assert loss == 0 and (gradient(cross_entropy_by_bands(logits, labels)[0], logits) == 0).all()
    # Two classes may lie closer than rounding: a pixel in a thousand may go the other way.
    counted = confusion_matrix(predict_ids(upsample(logits.detach(), labels.shape[-2:])), labels, logits.shape[1])
    assert (matrix.sum(1) == counted.sum(1)).all()
    assert (matrix - counted).abs().sum() <= max(2, labels.numel() // 1000)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(batches())
def test_evaluation_and_prediction_equal_the_plain_form(batch: dict[str, Any]) -> None:
    logits, labels, values = batch["logits"], batch["labels"], batch["band_values"]
    options = {name: batch["options"][name] for name in ("weight", "label_smoothing")}
    matrices, sums = compare_by_bands(logits, labels, **options, band_values=values)
    full = upsample(logits, labels.shape[-2:])
    ids = predict_ids_by_bands(logits, labels.shape[-2:], values)
    assert (ids != predict_ids(full)).sum() <= max(1, ids.numel() // 1000)
    assert torch.equal(matrices, confusion_matrices(ids, labels, logits.shape[1]))
    for total, one, truth in zip(sums, logits.split(1), labels.split(1)):
        torch.testing.assert_close(total, cross_entropy(one, truth, num_items=1, **options), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("size", [(8, 10), (29, 31)])
def test_ignored_pixels_change_nothing_and_get_exactly_no_gradient(size: tuple[int, int], smoothing: float) -> None:
    """Seen at the logits' own size; when they are upsampled, where all pixels around a logit are ignored."""
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 4, 8, 10, requires_grad=True), torch.randint(0, 4, (2, *size))
    labels[:, : size[0] // 2] = IGNORE_INDEX
    loss, _ = cross_entropy_by_bands(logits, labels, label_smoothing=smoothing, band_values=300)
    grad = gradient(loss, logits)
    assert (grad[:, :, :3] == 0).all() and (grad[:, :, 5:] != 0).any(1).all()
    changed = logits.detach().clone()
    changed[:, :, :3] = 50
    assert cross_entropy_by_bands(changed, labels, label_smoothing=smoothing, band_values=300)[0] == loss


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_are_computed_in_float32(dtype: torch.dtype) -> None:
    logits = torch.randn(2, 5, 8, 8).to(dtype).requires_grad_()
    labels = torch.randint(0, 5, (2, 30, 30))
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = cross_entropy_by_bands(logits, labels, band_values=400)
    full = logits.detach().float().requires_grad_()
    exact, _ = cross_entropy_by_bands(full, labels, band_values=400)
    assert loss.dtype == torch.float32 and loss == exact
    grad = gradient(loss, logits)
    assert grad.dtype == dtype and torch.equal(grad, gradient(exact, full).to(dtype))


def test_a_label_that_is_no_class_is_an_error() -> None:
    with pytest.raises((RuntimeError, IndexError)):
        cross_entropy_by_bands(torch.randn(1, 3, 4, 4), torch.full((1, 8, 8), 3))


def test_a_second_derivative_is_refused() -> None:
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    loss, _ = cross_entropy_by_bands(logits, torch.zeros(1, 8, 8, dtype=torch.long))
    (first,) = torch.autograd.grad(loss, logits, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable|does not require grad"):
        first.sum().backward()


def test_bands_after_inference_mode_can_be_trained_through() -> None:
    """What a resize remembers of its rows must not be bound to the mode in which it was first needed."""
    with torch.inference_mode():
        upsample_rows(torch.randn(1, 2, 5, 5), (23, 23), slice(3, 9))
    logits = torch.randn(1, 2, 5, 5, requires_grad=True)
    cross_entropy_by_bands(logits, torch.zeros(1, 23, 23, dtype=torch.long))[0].backward()
    assert logits.grad is not None and logits.grad.abs().sum() > 0


class LargestTensor(TorchDispatchMode):
    """Notes the number of values of the largest tensor that any operation returns."""

    def __init__(self) -> None:
        super().__init__()
        self.values = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, torch.Tensor) and tensor.dtype.is_floating_point:
                self.values = max(self.values, tensor.numel())
        return result


def test_no_tensor_has_the_size_of_the_upsampled_logits() -> None:
    logits, labels = torch.randn(4, 20, 16, 16, requires_grad=True), torch.randint(0, 20, (4, 64, 64))
    with LargestTensor() as largest:
        cross_entropy_by_bands(logits, labels, label_smoothing=0.1, band_values=2**14)[0].backward()
        compare_by_bands(logits, labels, band_values=2**14)
        predict_ids_by_bands(logits, (64, 64), 2**14)
    assert largest.values <= max(logits.numel(), 2**14, labels.numel()) < 20 * labels.numel() / 10
    with LargestTensor() as plain:
        cross_entropy(logits, labels)
    assert plain.values == 20 * labels.numel()


def test_many_values_are_large_and_a_small_study_is_not() -> None:
    assert is_large(torch.empty(8, 150, 128, 128), (512, 512)) and not is_large(torch.empty(64, 3, 16, 16), (64, 64))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_training_and_evaluation_equal_those_of_the_plain_form(
    smoothing: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same seed gives the same curve within rounding, and the same matrices."""
    rows = {}
    for few, calls in ((0, 1), (10**12, 0)):
        monkeypatch.setattr(bands, "FEW_VALUES", few)
        monkeypatch.setattr(bands, "CPU_BAND", 3 * 32 * 7)
        settings = dict(max_steps=4, learning_rate=1e-2, max_grad_norm=1.0, label_smoothing_factor=smoothing)
        samples = batch_of(8)
        trainer = SegTrainer(
            norms_in_eval(tiny_segformer()),
            arguments(tmp_path, per_device_train_batch_size=4, **settings),
            train_dataset=samples,
            eval_dataset=samples,
            class_weights=torch.tensor([0.5, 1.0, 2.0]),
        )
        trainer.train()
        rows[calls] = [row for row in trainer.state.log_history if "loss" in row] + [trainer.evaluate()]
    for banded, plain in zip(rows[1], rows[0]):
        for key in ("loss", "grad_norm", "train_mean_iou", "eval_loss", "eval_mean_iou"):
            if key in plain:
                assert banded[key] == pytest.approx(plain[key], rel=2e-5), key
    losses = [row["loss"] for row in rows[0][:-1]]
    assert len(losses) == 4 and losses[-1] < losses[0]

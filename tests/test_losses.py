import pytest
import torch
from torch.nn import functional as F

from hfseg.labels import IGNORE_INDEX
from hfseg.losses import LOSSES, compute_class_weights, cross_entropy, upsample

NUM_LABELS = 4


def draw_batch(
    seed: int = 0, size: tuple[int, int] = (8, 10), ignored: float = 0.3
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (3, C, h, w) and labels (3, h, w) whose images ignore different numbers of pixels."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(3, NUM_LABELS, *size, generator=generator)
    labels = torch.randint(0, NUM_LABELS, (3, *size), generator=generator)
    share = torch.tensor([ignored / 2, ignored, min(1.0, 2 * ignored)]).view(3, 1, 1)
    labels[torch.rand(labels.shape, generator=generator) < share] = IGNORE_INDEX
    return logits, labels


def gradient(logits: torch.Tensor, labels: torch.Tensor, **options: object) -> torch.Tensor:
    logits = logits.clone().requires_grad_()
    (grad,) = torch.autograd.grad(cross_entropy(logits, labels, **options), logits)
    return grad


def pixel_losses(
    logits: torch.Tensor, labels: torch.Tensor, weight: list[float] | None = None, smoothing: float = 0.0
) -> torch.Tensor:
    """The definition, pixel by pixel: -sum over classes of target x weight x log p, ignored pixels left out."""
    log_p = logits.double() - logits.double().exp().sum(1, keepdim=True).log()
    losses = []
    for b, y, x in (labels != IGNORE_INDEX).nonzero().tolist():
        truth = int(labels[b, y, x])
        target = [smoothing / NUM_LABELS + (1 - smoothing) * (c == truth) for c in range(NUM_LABELS)]
        losses.append(-sum(target[c] * (weight or [1] * NUM_LABELS)[c] * log_p[b, c, y, x] for c in range(NUM_LABELS)))
    return torch.stack(losses)


def test_equals_torch_mean() -> None:
    logits, labels = draw_batch()
    torch.testing.assert_close(cross_entropy(logits, labels), F.cross_entropy(logits, labels, ignore_index=255))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weight", [None, [0.5, 0.0, 2.0, 3.0]])
def test_equals_definition(weight: list[float] | None, smoothing: float) -> None:
    logits, labels = draw_batch(1)
    loss = cross_entropy(
        logits, labels, weight=None if weight is None else torch.tensor(weight), label_smoothing=smoothing
    )
    torch.testing.assert_close(loss.double(), pixel_losses(logits, labels, weight, smoothing).mean(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_weighted_equals_torch_reduction_none(smoothing: float) -> None:
    logits, labels = draw_batch(2)
    weight = torch.tensor([0.5, 1.0, 2.0, 3.0])
    each = F.cross_entropy(logits, labels, weight, ignore_index=255, reduction="none", label_smoothing=smoothing)
    loss = cross_entropy(logits, labels, weight=weight, label_smoothing=smoothing)
    torch.testing.assert_close(loss, each.sum() / (labels != 255).sum())


def test_weight_of_any_float_dtype() -> None:
    logits, labels = draw_batch()
    weight = torch.tensor([0.5, 1.0, 2.0, 3.0])
    assert cross_entropy(logits, labels, weight=weight.double()) == cross_entropy(logits, labels, weight=weight)


def test_better_prediction_lower_loss() -> None:
    _, labels = draw_batch()
    truth = F.one_hot(labels.clamp(max=NUM_LABELS - 1), NUM_LABELS).movedim(-1, 1).float()
    losses = [cross_entropy(scale * truth, labels).item() for scale in (-4, 0, 1, 4, 40)]
    assert losses == sorted(losses, reverse=True) and len(set(losses)) == 5
    assert losses[-1] < 1e-6
    torch.testing.assert_close(losses[1], torch.tensor(float(NUM_LABELS)).log().item())


def test_gradient_leads_down() -> None:
    logits, labels = draw_batch()
    grad = gradient(logits, labels)
    assert grad.abs().sum() > 0
    assert cross_entropy(logits - grad, labels) < cross_entropy(logits, labels)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weight", [None, torch.tensor([0.5, 0.0, 2.0, 3.0])])
def test_ignored_pixels_get_exactly_zero_gradient(weight: torch.Tensor | None, smoothing: float) -> None:
    logits, labels = draw_batch()
    grad = gradient(logits, labels, weight=weight, label_smoothing=smoothing)
    ignored = (labels == IGNORE_INDEX).unsqueeze(1).expand_as(grad)
    assert ignored.any() and (grad[ignored] == 0).all()
    assert (grad[~ignored] != 0).any(), "no gradient anywhere: the line above shows nothing"


def test_what_an_ignored_pixel_predicts_changes_nothing() -> None:
    logits, labels = draw_batch()
    changed = torch.where((labels == IGNORE_INDEX).unsqueeze(1), 100 * torch.randn_like(logits), logits)
    assert not changed.equal(logits)
    assert cross_entropy(changed, labels) == cross_entropy(logits, labels)


@pytest.mark.parametrize("num_items", [None, 0, 7, torch.tensor(0), torch.tensor(7)])
@pytest.mark.parametrize("size", [(8, 10), (16, 20)])
def test_all_ignored_is_zero(num_items: torch.Tensor | int | None, size: tuple[int, int]) -> None:
    """torch's own mean is NaN here: a mean over no pixel."""
    logits = draw_batch()[0].requires_grad_()
    labels = torch.full((3, *size), IGNORE_INDEX)
    assert F.cross_entropy(upsample(logits, size), labels, ignore_index=255).isnan()
    loss = cross_entropy(logits, labels, num_items=num_items, label_smoothing=0.1, weight=torch.ones(NUM_LABELS))
    loss.backward()
    assert loss.item() == 0 and logits.grad is not None and (logits.grad == 0).all()


@pytest.mark.parametrize("as_tensor", [False, True])
@pytest.mark.parametrize("weight", [None, torch.tensor([0.5, 1.0, 2.0, 3.0])])
def test_split_batch_adds_up(weight: torch.Tensor | None, as_tensor: bool) -> None:
    logits, labels = draw_batch()
    valid = (labels != IGNORE_INDEX).sum(dim=(1, 2)).tolist()
    assert len(set(valid)) == 3, "images must ignore different numbers of pixels"
    num_items = torch.tensor(sum(valid)) if as_tensor else sum(valid)
    parts = [(logits[i : i + 1], labels[i : i + 1]) for i in range(3)]
    total = sum(cross_entropy(*part, weight=weight, num_items=num_items) for part in parts)
    torch.testing.assert_close(total, cross_entropy(logits, labels, weight=weight))
    grads = torch.cat([gradient(*part, weight=weight, num_items=num_items) for part in parts])
    torch.testing.assert_close(grads, gradient(logits, labels, weight=weight))
    mean_of_means = torch.stack([cross_entropy(*part, weight=weight) for part in parts]).mean()
    assert not torch.isclose(mean_of_means, torch.as_tensor(total)), "any normalisation would have passed"


def test_logits_are_brought_to_the_labels_size() -> None:
    logits, labels = draw_batch(size=(32, 40))
    small = torch.randn(3, NUM_LABELS, 8, 10)
    expected = F.interpolate(small, size=(32, 40), mode="bilinear", align_corners=False)
    torch.testing.assert_close(cross_entropy(small, labels), F.cross_entropy(expected, labels, ignore_index=255))
    assert gradient(small, labels).shape == small.shape


def test_upsample() -> None:
    row = torch.tensor([0.0, 1.0]).view(1, 1, 1, 2)
    assert upsample(row, (1, 4)).flatten().tolist() == [0.0, 0.25, 0.75, 1.0]  # pixel centres, edges repeated
    assert upsample(row, (1, 2)) is row
    assert upsample(row, [3, 5]).shape == (1, 1, 3, 5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_give_a_float32_loss(dtype: torch.dtype) -> None:
    logits, labels = draw_batch(size=(16, 20))
    logits = logits[..., ::2, ::2].to(dtype)
    loss = cross_entropy(logits, labels)
    assert loss.dtype == torch.float32 and gradient(logits, labels).dtype == dtype
    torch.testing.assert_close(loss, cross_entropy(logits.float(), labels), rtol=0, atol=0)
    # A float16 sum would overflow at 65504 here.
    large = torch.full((1, 2, 64, 64), 0.0, dtype=dtype)
    large[:, 1] = 100
    assert cross_entropy(large, torch.zeros(1, 64, 64, dtype=torch.long), num_items=1).item() == 64 * 64 * 100


def test_autocast_keeps_float32() -> None:
    logits, labels = draw_batch()
    with torch.autocast("cpu", torch.bfloat16):
        loss = cross_entropy(logits, labels)
    assert loss.dtype == torch.float32 and loss == cross_entropy(logits, labels)


def test_uint8_labels() -> None:
    logits, labels = draw_batch()
    assert cross_entropy(logits, labels.to(torch.uint8)) == cross_entropy(logits, labels)


def test_class_weights_by_hand() -> None:
    # Shares 0.1, 0.2, 0.7 of 1000 pixels; their median is 0.2.
    weights = compute_class_weights(torch.tensor([100, 200, 700]))
    torch.testing.assert_close(weights, torch.tensor([2.0, 1.0, 2 / 7]))
    # Of two classes the median lies halfway.
    torch.testing.assert_close(compute_class_weights(torch.tensor([100, 300])), torch.tensor([2.0, 2 / 3]))


def test_class_weights_leave_out_absent_classes() -> None:
    weights = compute_class_weights(torch.tensor([100, 0, 200, 700]))
    torch.testing.assert_close(weights, torch.tensor([2.0, 0.0, 1.0, 2 / 7]))
    assert compute_class_weights(torch.zeros(3, dtype=torch.long)).tolist() == [0, 0, 0]
    assert weights.dtype == torch.float32


def test_class_weights_even_out_the_classes() -> None:
    """With equal losses everywhere, each class contributes the same."""
    counts = torch.tensor([5, 50, 500, 5000])
    share = counts * compute_class_weights(counts)
    torch.testing.assert_close(share, share[:1].expand(4))


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_takes_the_same_arguments(name: str) -> None:
    logits, labels = draw_batch()
    loss = LOSSES[name](logits, labels, weight=torch.ones(NUM_LABELS), label_smoothing=0.1, num_items=9)
    assert loss.shape == () and loss > 0

"""Logits against labels at the labels' size, without ever holding the logits at that size.

Upsampled logits (B, C, H, W) are the largest tensors of a training step: 1.2 GiB for 8 images with 150 classes at
512 x 512, and loss and gradient need three such. Here a band of rows is upsampled, used, and dropped for the next.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from hfseg.labels import IGNORE_INDEX
from hfseg.metrics import confusion_matrices, confusion_matrix, predict_ids
from hfseg.upsampling import interpolate_rows, resize_back, source_rows, upsample_rows

# Upsampled values of one band. On a CPU 8 MiB, which stays in its caches; elsewhere 256 MiB, which keeps a GPU busy.
CPU_BAND, DEVICE_BAND = 2**21, 2**26
# With fewer upsampled values than this the whole is small, and the plain way is as fast or faster.
FEW_VALUES = 2**22


def is_large(logits: torch.Tensor, size: Sequence[int]) -> bool:
    """Whether logits (B, C, h, w) upsampled to `size` are so many that bands are the faster way."""
    return logits.shape[0] * logits.shape[1] * size[0] * size[1] >= FEW_VALUES


def cross_entropy_by_bands(
    logits: torch.Tensor,
    labels: torch.Tensor,
    *,
    weight: torch.Tensor | None = None,
    label_smoothing: float = 0.0,
    num_items: torch.Tensor | int | None = None,
    band_values: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`hfseg.losses.cross_entropy` of upsampled logits, and how often each class was taken for each other.

    The gradient is computed along with the loss, so that each band is upsampled and exponentiated once; kept until the
    backward pass is only that of the small logits. It can't be differentiated again.

    Args:
        logits: (B, C, h, w) float, of any stride.
        labels: (B, H, W) integer, class id or 255.
        weight, label_smoothing, num_items: see `hfseg.losses.cross_entropy`.
        band_values: upsampled values held at a time; unset: by the device.

    Returns:
        Scalar float32, and (C, C) int64 counts of the pixels: rows are the truth, columns the prediction.
    """
    if weight is not None:
        weight = weight.to(logits.device, torch.float32)
    with torch.autocast(logits.device.type, enabled=False):
        total, matrix = _BandedCrossEntropy.apply(logits, labels, weight, label_smoothing, band_values)
    if num_items is None:
        num_items = (labels != IGNORE_INDEX).sum()
    return total / torch.as_tensor(num_items).clamp(min=1), matrix


@torch.no_grad()
def compare_by_bands(
    logits: torch.Tensor,
    labels: torch.Tensor,
    *,
    weight: torch.Tensor | None = None,
    label_smoothing: float = 0.0,
    band_values: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Each image's counts and loss, without gradients.

    Returns:
        (B, C, C) int64 matrices with the truth in rows, and (B,) float32: the sum of each image's pixel losses.
    """
    num_labels = logits.shape[1]
    if weight is not None:
        weight = weight.to(logits.device, torch.float32)
    matrices = torch.zeros(len(logits), num_labels, num_labels, dtype=torch.int64, device=logits.device)
    sums = torch.zeros(len(logits), device=logits.device)
    options: Any = dict(weight=weight, label_smoothing=label_smoothing, ignore_index=IGNORE_INDEX, reduction="none")
    with torch.autocast(logits.device.type, enabled=False):
        for images, rows in bands(logits, labels.shape[-2:], band_values):
            band = upsample_rows(logits[images], labels.shape[-2:], rows)
            truth = labels[images, rows]
            matrices[images] += confusion_matrices(predict_ids(band), truth, num_labels, check=False)
            if band.is_contiguous():
                losses = F.cross_entropy(band, truth.long(), **options).flatten(1)
            else:
                by_pixel = band.permute(0, 2, 3, 1).flatten(0, 2)  # (pixels, C)
                losses = F.cross_entropy(by_pixel, truth.long().flatten(), **options).view(len(band), -1)
            sums[images] += losses.sum(1)
    return matrices, sums


@torch.no_grad()
def predict_ids_by_bands(logits: torch.Tensor, size: Sequence[int], band_values: int | None = None) -> torch.Tensor:
    """The most likely class of each pixel at `size`: logits (B, C, h, w) to (B, H, W) int64."""
    ids = torch.empty(len(logits), *size, dtype=torch.int64, device=logits.device)
    for images, rows in bands(logits, size, band_values):
        ids[images, rows] = predict_ids(upsample_rows(logits[images], size, rows))
    return ids


def bands(logits: torch.Tensor, size: Sequence[int], band_values: int | None = None) -> Iterator[tuple[slice, slice]]:
    """Parts of a batch as (images, rows at `size`): several whole images, or some rows of one."""
    if band_values is None:
        band_values = CPU_BAND if logits.device.type == "cpu" else DEVICE_BAND
    num_images, num_labels = logits.shape[:2]
    height, row_values = size[0], num_labels * size[1]
    images = max(1, band_values // (row_values * height))
    rows = height if images > 1 else min(height, max(1, band_values // row_values))
    for first in range(0, num_images, images):
        for top in range(0, height, rows):
            yield slice(first, min(first + images, num_images)), slice(top, min(top + rows, height))


class _BandedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        logits: torch.Tensor,
        labels: torch.Tensor,
        weight: torch.Tensor | None,
        label_smoothing: float,
        band_values: int | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        (num_labels, height, width), size = logits.shape[1:], labels.shape[-2:]
        differentiate, by_autograd = ctx.needs_input_grad[0], logits.device.type == "cpu"
        total = torch.zeros((), device=logits.device)
        matrix = torch.zeros(num_labels, num_labels, dtype=torch.int64, device=logits.device)
        gradient = torch.zeros_like(logits, dtype=torch.float32) if differentiate else None
        for images, rows in bands(logits, size, band_values):
            part = source_rows(height, size[0], rows, logits.device)
            with torch.set_grad_enabled(differentiate and by_autograd):
                source = logits[images, :, part].detach().float().requires_grad_(differentiate and by_autograd)
                upsampled = interpolate_rows(source, part.start, height, size, rows)
            band, truth = upsampled.detach(), labels[images, rows]
            losses, pred = _score(band, truth, weight, label_smoothing)
            total += losses.sum()
            matrix += confusion_matrix(pred, truth, num_labels, check=False)
            if gradient is None:
                continue
            # `band` holds it now, and it is taken back to the rows it came from.
            if by_autograd:
                gradient[images, :, part] += torch.autograd.grad(upsampled, source, band)[0]
            else:
                gradient[images] += resize_back(band, height, width, size[0], rows)
        if gradient is not None:
            ctx.save_for_backward(gradient)
        ctx.dtype = logits.dtype
        ctx.mark_non_differentiable(matrix)
        return total, matrix

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_total: torch.Tensor, grad_matrix: Any) -> tuple[Any, ...]:
        (gradient,) = ctx.saved_tensors
        return (gradient * grad_total).to(ctx.dtype), None, None, None, None


def _score(
    band: torch.Tensor,
    labels: torch.Tensor,
    weight: torch.Tensor | None,
    label_smoothing: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss and prediction of each pixel; `band` is overwritten by the gradient of the losses' sum.

    With a target t (B, C, rows, W) as torch defines it, of sum T over the classes, the loss of a pixel is
    T log(sum exp z) - sum t z, and its gradient T softmax(z) - t.

    Args:
        band: (B, C, rows, W) float32 logits z.
        labels: (B, rows, W), class id or 255.

    Returns:
        (B, rows, W) float32 losses, 0 where ignored, and (B, rows, W) int64 class ids.
    """
    num_labels = band.shape[1]
    ignored = labels == IGNORE_INDEX
    truth = labels.long().masked_fill(ignored, 0)
    largest, pred = band.max(1, keepdim=True)
    band -= largest
    hard = (1 - label_smoothing) * (torch.ones_like(largest[:, 0]) if weight is None else weight[truth])
    hard = hard.masked_fill(ignored, 0)  # the target of the true class
    losses = -hard * band.gather(1, truth[:, None])[:, 0]
    total = hard
    if label_smoothing:
        soft = torch.full((num_labels,), label_smoothing / num_labels, device=band.device)  # of every class
        soft = (soft if weight is None else soft * weight).view(-1, 1, 1)
        total = hard + soft.sum() * ~ignored
        losses -= (soft * band).sum(1)
    band.exp_()
    exponentials = band.sum(1)
    losses = (losses + total * exponentials.log()).masked_fill(ignored, 0)
    band *= (total / exponentials)[:, None]
    band.scatter_add_(1, truth[:, None], -hard[:, None])
    if label_smoothing:
        band.addcmul_(-soft, (~ignored[:, None]).float())
    return losses, pred[:, 0]

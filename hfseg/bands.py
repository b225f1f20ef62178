"""Logits against labels at the labels' size, without ever holding the logits at that size.

Upsampled logits (B, C, H, W) are the largest tensors of a training step: 1.2 GiB for 8 images with 150 classes at
512 x 512, and loss and gradient need three such. Here a band of rows is upsampled, used, and dropped for the next.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from hfseg.labels import IGNORE_INDEX
from hfseg.metrics import confusion_matrices, confusion_matrix

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
    with torch.autocast(logits.device.type, enabled=False):
        for images, rows in bands(logits, labels.shape[-2:], band_values):
            band = upsample_rows(logits[images], labels.shape[-2:], rows)
            truth = labels[images, rows]
            losses, pred = _score(band, truth, weight, label_smoothing, differentiate=False)
            matrices[images] += confusion_matrices(pred, truth, num_labels, check=False)
            sums[images] += losses.sum((1, 2))
    return matrices, sums


@torch.no_grad()
def predict_ids_by_bands(logits: torch.Tensor, size: Sequence[int], band_values: int | None = None) -> torch.Tensor:
    """The most likely class of each pixel at `size`: logits (B, C, h, w) to (B, H, W) int64."""
    ids = torch.empty(len(logits), *size, dtype=torch.int64, device=logits.device)
    for images, rows in bands(logits, size, band_values):
        ids[images, rows] = upsample_rows(logits[images], size, rows).max(1).indices
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


def upsample_rows(logits: torch.Tensor, size: Sequence[int], rows: slice) -> torch.Tensor:
    """`upsample(logits, size)[:, :, rows]` in float32, computed from those rows of the logits that it needs.

    Args:
        logits: (B, C, h, w).
        size: (H, W) of the whole.
        rows: of the result, with a start and a stop.

    Returns:
        (B, C, rows, W) float32, on a CPU channels last; a tensor of its own.
    """
    source = source_rows(logits.shape[2], size[0], rows, logits.device)
    return _interpolate(logits[:, :, source].float(), source.start, logits.shape[2], size, rows)


def source_rows(height: int, new_height: int, rows: slice, device: torch.device) -> slice:
    """The rows of the logits that some upsampled rows are made of."""
    if height == new_height:
        return rows
    *_, first, last = _rows_of_resize(height, new_height, device)
    return slice(first[rows.start], last[rows.stop - 1] + 1)


def _interpolate(source: torch.Tensor, start: int, height: int, size: Sequence[int], rows: slice) -> torch.Tensor:
    """Some upsampled rows from the rows of the logits, `start` onwards of `height`, that they are made of."""
    if size[0] == height:
        part = source
    else:
        above, below, share, *_ = _rows_of_resize(height, size[0], source.device)
        one, other = (source.index_select(2, index[rows] - start) for index in (above, below))
        part = torch.lerp(one, other, share[rows, None])  # (B, C, rows, w)
    if part.device.type == "cpu":
        # Upsampling is twice as fast then, and its gradient eight times (torch 2.14, 150 classes).
        part = part.contiguous(memory_format=torch.channels_last)
    if size[1] == source.shape[3]:
        return part.clone() if size[0] == height else part
    return F.interpolate(part, size=(rows.stop - rows.start, size[1]), mode="bilinear", align_corners=False)


def resize_back(gradient: torch.Tensor, height: int, width: int, new_height: int, rows: slice) -> torch.Tensor:
    """The gradient of upsampled rows as one of the logits they were made of: the transposed resize, as two products.

    CUDA's own kernel adds every value to four others atomically, which takes longer than the rest of the loss.

    Args:
        gradient: (B, C, rows, W) float32.
        height, width: of the logits.
        new_height: H of the whole.
        rows: of the whole that these are.

    Returns:
        (B, C, height, width) float32, with the precision that float32 products have (`tf32`).
    """
    device = gradient.device
    down = _resize_matrix(height, new_height, device)[rows]
    return down.T @ (gradient @ _resize_matrix(width, gradient.shape[3], device))


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def _resize_matrix(length: int, new_length: int, device: torch.device) -> torch.Tensor:
    """(new_length, length) float32: the shares of the old rows, or columns, in each new one."""
    if length == new_length:
        return torch.eye(length, device=device)
    lower, upper, share, *_ = _rows_of_resize(length, new_length, torch.device("cpu"))
    matrix = torch.zeros(new_length, length)
    matrix.scatter_add_(1, lower[:, None], 1 - share[:, None])
    matrix.scatter_add_(1, upper[:, None], share[:, None])
    return matrix.to(device)


@lru_cache(maxsize=64)  # kept on the device: a copy at each step would make the host wait for it
@torch.inference_mode(False)
def _rows_of_resize(
    height: int, new_height: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, list[int], list[int]]:
    """Where the rows of a bilinear resize come from, in float32 as torch computes it (align_corners=False).

    Returns:
        For each new row the row above and the row below it, int64, and the share of the row below, float32; the first
        two also as lists, which the host reads without waiting.
    """
    scale = torch.tensor(float(height)) / new_height
    centre = ((torch.arange(new_height) + 0.5) * scale - 0.5).clamp(min=0)
    lower = centre.long().clamp(max=height - 1)
    upper = (lower + 1).clamp(max=height - 1)
    share = (centre - lower).clamp(0, 1)
    return lower.to(device), upper.to(device), share.to(device), lower.tolist(), upper.tolist()


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
                upsampled = _interpolate(source, part.start, height, size, rows)
            band, truth = upsampled.detach(), labels[images, rows]
            losses, pred = _score(band, truth, weight, label_smoothing, differentiate)
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
    differentiate: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss and prediction of each pixel; `band` is overwritten, by the gradient of the losses' sum where it is wanted.

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
    if differentiate:
        band *= (total / exponentials)[:, None]
        band.scatter_add_(1, truth[:, None], -hard[:, None])
        if label_smoothing:
            band.addcmul_(-soft, (~ignored[:, None]).float())
    return losses, pred[:, 0]

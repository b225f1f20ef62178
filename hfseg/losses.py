"""(logits, labels) -> loss. A loss is a sum over the valid pixels, divided by their number.

Pixels with the label 255 are ignored: they count nowhere and get exactly zero gradient. Other labels outside 0 .. C-1
end in a device assert on a GPU: whoever reads masks checks them first (`hfseg.labels.Labels.encode`).
"""

from collections.abc import Callable, Sequence

import torch
from torch.nn import functional as F

from hfseg.labels import IGNORE_INDEX


def upsample(logits: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Brings logits (B, C, h, w) to `size` (height, width), bilinear between pixel centres."""
    if tuple(logits.shape[-2:]) == tuple(size):
        return logits
    return F.interpolate(logits, size=tuple(size), mode="bilinear", align_corners=False)


def cross_entropy(
    logits: torch.Tensor,
    labels: torch.Tensor,
    *,
    weight: torch.Tensor | None = None,
    label_smoothing: float = 0.0,
    num_items: torch.Tensor | int | None = None,
) -> torch.Tensor:
    """Pixel cross-entropy in float32.

    Args:
        logits: (B, C, h, w) float; brought to the labels' size.
        labels: (B, H, W) integer, class id or 255.
        weight: (C,) float, multiplies the loss of each class's pixels. The sum is divided by the number of pixels, not
            by the sum of their weights as torch's mean is: only then do the parts of a split batch add up.
        label_smoothing: share of the target spread over all classes, as torch defines it.
        num_items: number of valid pixels to divide by, that of the whole accumulated batch of all processes; unset:
            those of this batch.

    Returns:
        Scalar float32; 0 with zero gradients where no pixel is valid.
    """
    logits = upsample(logits.float(), labels.shape[-2:])
    labels = labels.long()
    if weight is not None:
        weight = weight.to(logits)
    total = F.cross_entropy(
        logits, labels, weight, ignore_index=IGNORE_INDEX, reduction="sum", label_smoothing=label_smoothing
    )
    if num_items is None:
        num_items = (labels != IGNORE_INDEX).sum()
    return total / torch.as_tensor(num_items).clamp(min=1)


def compute_class_weights(pixel_counts: torch.Tensor) -> torch.Tensor:
    """Median frequency balancing: the median class frequency over each class's own.

    Eigen & Fergus 2015 (arXiv:1411.4734, section 6.3.2), with one difference: a class's frequency is its share of all
    pixels, not of those in the images that show it.

    Args:
        pixel_counts: (C,) integer.

    Returns:
        (C,) float32; 0 for a class without a pixel, which the median does not count either.
    """
    counts = pixel_counts.double()
    seen = counts > 0
    if not seen.any():
        return torch.zeros_like(counts, dtype=torch.float32)
    # quantile, since torch's median of an even number of values is the lower of the middle two.
    return torch.where(seen, counts[seen].quantile(0.5) / counts.clamp(min=1), 0.0).float()


LOSSES: dict[str, Callable[..., torch.Tensor]] = {"cross_entropy": cross_entropy}

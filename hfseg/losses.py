"""(logits, labels) -> loss. A loss is a sum over the valid pixels, divided by their number.

Pixels with the label 255 are ignored: they count nowhere and get exactly zero gradient.
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
        num_items: number of valid pixels to divide by; unset: those of this batch.

    Returns:
        Scalar float32; 0 with zero gradients where no pixel is valid.
    """
    logits = upsample(logits, labels.shape[-2:]).float()
    labels = labels.long()
    total = F.cross_entropy(
        logits, labels, weight, ignore_index=IGNORE_INDEX, reduction="sum", label_smoothing=label_smoothing
    )
    if num_items is None:
        num_items = (labels != IGNORE_INDEX).sum().clamp(min=1)
    return total / num_items


def compute_class_weights(pixel_counts: torch.Tensor) -> torch.Tensor:
    """Median frequency balancing (Eigen & Fergus 2015, section 6.3.2) from the pixels of each class.

    Args:
        pixel_counts: (C,) integer.

    Returns:
        (C,) float32: median class frequency over the class's own; 0 for a class without a pixel.
    """
    counts = pixel_counts.double()
    seen = counts > 0
    median = counts[seen].median() if seen.any() else counts.new_tensor(0.0)
    return torch.where(seen, median / counts.clamp(min=1), 0.0).float()


LOSSES: dict[str, Callable[..., torch.Tensor]] = {"cross_entropy": cross_entropy}

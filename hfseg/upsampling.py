"""Some rows of upsampled logits, computed from few rows of the logits, and the way back for their gradient."""

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch.nn import functional as F

from hfseg.losses import upsample

# With fewer classes, channels last make torch's softmax take ten times as long on a CPU, and upsampling half as long
# again (torch 2.14).
CLASSES_LAST = 16


def upsample_rows(logits: torch.Tensor, size: Sequence[int], rows: slice) -> torch.Tensor:
    """`upsample(logits, size)[:, :, rows]` in float32, computed from those rows of the logits that it needs.

    Args:
        logits: (B, C, h, w).
        size: (H, W) of the whole.
        rows: of the result, with a start and a stop.

    Returns:
        (B, C, rows, W) float32, on a CPU channels last where there are many; a tensor of its own.
    """
    many = logits.shape[1] >= CLASSES_LAST
    if rows.stop - rows.start == size[0] and logits.shape[2:] != tuple(size):
        return upsample(lay_out(logits.float(), many), size)
    source = source_rows(logits.shape[2], size[0], rows, logits.device)
    return interpolate_rows(logits[:, :, source].float(), source.start, logits.shape[2], size, rows, many)


def source_rows(height: int, new_height: int, rows: slice, device: torch.device) -> slice:
    """The rows of the logits that some upsampled rows are made of."""
    if height == new_height:
        return rows
    *_, first, last = _rows_of_resize(height, new_height, device)
    return slice(first[rows.start], last[rows.stop - 1] + 1)


def interpolate_rows(
    source: torch.Tensor, start: int, height: int, size: Sequence[int], rows: slice, channels_last: bool = True
) -> torch.Tensor:
    """Some upsampled rows from the rows of the logits, `start` onwards of `height`, that they are made of."""
    if size[0] == height:
        part = source
    else:
        above, below, share, *_ = _rows_of_resize(height, size[0], source.device)
        one, other = (source.index_select(2, index[rows] - start) for index in (above, below))
        part = torch.lerp(one, other, share[rows, None])  # (B, C, rows, w)
    part = lay_out(part, channels_last)
    if size[1] == source.shape[3]:
        return part.clone() if size[0] == height else part
    return F.interpolate(part, size=(rows.stop - rows.start, size[1]), mode="bilinear", align_corners=False)


def lay_out(logits: torch.Tensor, channels_last: bool) -> torch.Tensor:
    """As upsampling on a CPU wants it: with channels last twice as fast, its gradient eight times (150 classes)."""
    if logits.device.type != "cpu":
        return logits
    return logits.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


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

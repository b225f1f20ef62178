"""Random changes that need no other size, for a whole batch on its device: mirror image, brightness to hue.

What is drawn is a function of the generator that is handed in, sample by sample; what is done with it is not random,
and the same for a batch of one on a CPU and for any batch on a GPU: each operation rounds once, none is fused.
"""

from collections.abc import Sequence

import numpy as np
import torch

# One row a sample. The values that stand for no change: False, 0, 1, 1, 0.
CHANGES = np.dtype(
    [
        ("height", np.int32),  # what lies below and to the right of these is padding, which nothing touches
        ("width", np.int32),
        ("flip", np.bool_),
        ("brightness", np.float64),  # added to colours in 0..1
        ("contrast", np.float64),
        ("saturation", np.float64),
        ("hue", np.float64),  # of a whole turn
        ("contrast_first", np.bool_),
    ]
)


def draw_changes(
    rng: np.random.Generator, size: tuple[int, int], horizontal_flip: float, photometric_distortion: bool
) -> np.ndarray:
    """What is done to one sample.

    The colours' ranges and order are those of SSD (Liu et al., 2016, arXiv 1512.02325), which SegFormer's training
    took over: brightness +-32 of 255, contrast and saturation x 0.5 to 1.5, hue +-18 degrees, each with probability
    0.5; contrast comes before or after saturation and hue.

    Args:
        rng: makes every choice.
        size: (height, width) of the sample without its padding.
        horizontal_flip: probability of a mirror image.
        photometric_distortion: whether colours change.

    Returns:
        () `CHANGES`.
    """
    flip = rng.random() < horizontal_flip
    if not photometric_distortion:
        return np.array((*size, flip, 0, 1, 1, 0, False), CHANGES)
    brightness, contrast, saturation, hue, contrast_first = rng.random(5) < 0.5
    delta, contrast_factor = rng.uniform(-32, 32) / 255, rng.uniform(0.5, 1.5)
    saturation_factor, hue_turn = rng.uniform(0.5, 1.5), rng.uniform(-18, 18) / 360
    colors = (brightness and delta, contrast_factor if contrast else 1, saturation_factor if saturation else 1)
    return np.array((*size, flip, *colors, hue and hue_turn, contrast_first), CHANGES)


def apply_changes(images: torch.Tensor, masks: torch.Tensor, changes: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Does what was drawn; the tensors given stay as they are.

    Args:
        images: (B, 3, H, W) uint8, on any device.
        masks: (B, H, W) uint8, class id or 255, on the same.
        changes: (B,) `CHANGES`, on the host: nothing waits for the device.
    """
    flips = np.flatnonzero(changes["flip"])
    if len(flips):
        images, masks = images.clone(), masks.clone()
    for width in np.unique(changes["width"][flips]):
        for _, rows in _parts(flips[changes["width"][flips] == width], images.device):
            images[rows, :, :, :width] = images[rows, :, :, :width].flip(-1)
            masks[rows, :, :width] = masks[rows, :, :width].flip(-1)
    names, neutral = ("brightness", "contrast", "saturation", "hue"), (0, 1, 1, 0)
    changed = np.flatnonzero(np.any([changes[n] != value for n, value in zip(names, neutral)], axis=0))
    if len(changed) and not len(flips):
        images = images.clone()
    for some, rows in _parts(changed, images.device):
        old = images[rows]
        new = distort_colors(old, changes[some])
        if (inside := _inside(changes[some], images.shape[-2:])) is not None:
            new = torch.where(inside.to(images.device, non_blocking=True), new, old)
        images[rows] = new
    return images, masks


def distort_colors(images: torch.Tensor, changes: np.ndarray) -> torch.Tensor:
    """Brightness, contrast, saturation and hue of (B, 3, H, W) uint8, as `changes` (B,) `CHANGES` say."""
    pixels = images.float().div_(255)
    first = changes["contrast_first"]
    if (changes["brightness"] != 0).any():
        pixels.add_(_column(changes["brightness"], images)).clamp_(0, 1)
    _multiply(pixels, np.where(first, changes["contrast"], 1))
    if (changes["saturation"] != 1).any():
        factor = changes["saturation"]
        red, green, blue = pixels.split(1, dim=1)
        grey = (red * 0.2989).add_(green * 0.587).add_(blue * 0.114)  # ITU-R BT.601, as torchvision has it
        pixels.mul_(_column(factor, images)).add_(grey.mul_(_column(1 - factor, images))).clamp_(0, 1)
    if len(turned := np.flatnonzero(changes["hue"])):
        rows = _rows(turned, images.device)
        pixels[rows] = turn_hue(pixels[rows], _column(changes["hue"][turned], images))
    _multiply(pixels, np.where(first, 1, changes["contrast"]))
    return pixels.mul_(255).round_().to(torch.uint8)


def turn_hue(pixels: torch.Tensor, turn: torch.Tensor) -> torch.Tensor:
    """Colours with another hue, the same saturation and value.

    With the hue h in sixths of a turn, and chroma = largest - smallest channel, a channel of the result is
    largest - chroma * clamp(2 - d, 0, 1), where d is the distance of n + h from 2 on a circle of 6, and n = 5, 3, 1 for
    red, green, blue (https://en.wikipedia.org/wiki/HSL_and_HSV, "HSV to RGB alternative").

    Args:
        pixels: (B, 3, H, W) float32 in 0..1.
        turn: (B, 1, 1, 1) float32, of a whole turn.
    """
    red, green, blue = pixels.unbind(1)  # (B, H, W)
    largest = torch.maximum(red, green)  # two by two: a reduction over so few channels is slower
    largest = torch.maximum(largest, blue, out=largest)
    chroma = largest - torch.minimum(torch.minimum(red, green), blue)
    divisor = chroma.clamp(min=torch.finfo(torch.float32).tiny)  # grey has no hue, and a chroma of 0 below
    hue = torch.where(
        largest == red,
        (green - blue) / divisor,
        torch.where(largest == green, (blue - red) / divisor + 2, (red - green) / divisor + 4),
    )
    hue += 6 * turn[:, :, 0]
    out = torch.empty_like(pixels)
    for channel, n in enumerate((5, 3, 1)):
        distance = (hue + (n - 2)).abs_().sub_(3).abs_().sub_(3).abs_()  # of a number from -9 to 9
        torch.sub(largest, distance.neg_().add_(2).clamp_(0, 1).mul_(chroma), out=out[:, channel])
    return out


def _multiply(pixels: torch.Tensor, factors: np.ndarray) -> None:
    if (factors != 1).any():
        pixels.mul_(_column(factors, pixels)).clamp_(0, 1)


def _parts(samples: np.ndarray, device: torch.device) -> list[tuple[np.ndarray, slice | torch.Tensor]]:
    """Samples of a batch and their index into it: all at once, or on a CPU one by one, which stay in its cache."""
    if device.type == "cpu":
        return [(samples[k : k + 1], slice(i, i + 1)) for k, i in enumerate(samples.tolist())]
    return [(samples, _rows(samples, device))] if len(samples) else []


def _rows(indices: np.ndarray, device: torch.device) -> torch.Tensor:
    return torch.from_numpy(indices).to(device, non_blocking=True)


def _column(values: np.ndarray, like: torch.Tensor) -> torch.Tensor:
    """(B,) numbers as (B, 1, 1, 1) float32 on a device, which is not waited for."""
    return torch.from_numpy(values.astype(np.float32)).view(-1, 1, 1, 1).to(like.device, non_blocking=True)


def _inside(changes: np.ndarray, size: Sequence[int]) -> torch.Tensor | None:
    """(B, 1, H, W) bool: where there is no padding; None where there is none at all."""
    height, width = size
    if (changes["height"] >= height).all() and (changes["width"] >= width).all():
        return None
    rows = np.arange(height) < changes["height"][:, None]  # (B, H)
    columns = np.arange(width) < changes["width"][:, None]  # (B, W)
    return torch.from_numpy(rows[:, None, :, None] & columns[:, None, None, :])

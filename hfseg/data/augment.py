"""Random changes of an image and its mask together, sample by sample.

The crop is made here; mirror image and colours are drawn here, and made of whole batches by `apply_changes`.

Everything here is a function of its arguments and of the generator `rng` that is handed in; nothing draws from a
global one. An image is (3, H, W) uint8, a mask (H, W) uint8 with class ids or 255.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torchvision.transforms.v2 import functional as F
from torchvision.tv_tensors import Image, Mask

from hfseg.data.batch_augment import draw_changes
from hfseg.data.resize import Window
from hfseg.errors import InputError
from hfseg.labels import IGNORE_INDEX

CROP_TRIES = 10


@dataclass(frozen=True)
class Augmentation:
    """What is changed at random while training, in this order; everything is off by default.

    Args:
        scale_jitter: smallest and largest factor on the input size; the image is cut or padded to `crop_size` then.
        crop_size: (height, width) in pixels of a random crop; unset with `scale_jitter`: the input size.
        crop_max_class_share: a crop is drawn again, up to ten times in all, while one class covers more than this
            share of its valid pixels (SegFormer: 0.75).
        horizontal_flip: probability of a mirror image.
        photometric_distortion: SSD's changes of brightness, contrast, saturation and hue.

    Raises:
        InputError: a value outside its range.
    """

    scale_jitter: Sequence[float] | None = None
    crop_size: Sequence[int] | None = None
    crop_max_class_share: float = 0.75
    horizontal_flip: float = 0.0
    photometric_distortion: bool = False

    def __post_init__(self) -> None:
        jitter, crop = self.scale_jitter, self.crop_size
        if jitter is not None and not (len(jitter) == 2 and 0 < jitter[0] <= jitter[1]):
            raise InputError(f"scale_jitter is {list(jitter)}; give the smallest and the largest factor, as 0.5 2.0.")
        if crop is not None and not (len(crop) == 2 and min(crop) >= 1):
            raise InputError(f"crop_size is {list(crop)}; give height and width in pixels, as 512 512.")
        for name in ("crop_max_class_share", "horizontal_flip"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must lie between 0 and 1.")

    @property
    def changes_size(self) -> bool:
        """Whether images are fed at another size or scale than in evaluation."""
        return self.scale_jitter is not None or self.crop_size is not None

    @property
    def changes_batches(self) -> bool:
        """Whether there is anything that `apply_changes` does."""
        return self.horizontal_flip > 0 or self.photometric_distortion


def crop_and_draw(
    cut_image: Callable[[Window], Image],
    cut_mask: Callable[[Window], Mask],
    size: tuple[int, int],
    augmentation: Augmentation,
    rng: np.random.Generator,
    crop_size: Sequence[int] | None = None,
    fill: Sequence[int] = (0, 0, 0),
) -> tuple[Image, Mask, np.ndarray]:
    """What follows the resize: the crop, filled up to its size, and what `apply_changes` is to do with it.

    Args:
        cut_image: gives a window of the (3, H, W) uint8 image.
        cut_mask: gives a window of the (H, W) uint8 mask.
        size: (H, W).
        augmentation: what is done.
        rng: makes every choice.
        crop_size: (height, width) of the result; unset: the size stays.
        fill: colour of the padding, which no change touches.

    Returns:
        Image, mask, and () `CHANGES`.
    """
    window: Window = (0, 0, *size)
    if crop_size is not None:
        window = choose_window(cut_mask, size, crop_size, augmentation.crop_max_class_share, rng)
    options = augmentation.horizontal_flip, augmentation.photometric_distortion
    changes = draw_changes(rng, (window[2], window[3]), *options)
    image, mask = cut_image(window), cut_mask(window)
    if crop_size is not None:
        image, mask = pad_to(image, mask, crop_size, fill)
    return image, mask, changes


def choose_window(
    cut_mask: Callable[[Window], Mask],
    size: tuple[int, int],
    crop_size: Sequence[int],
    max_class_share: float,
    rng: np.random.Generator,
) -> Window:
    """A window of at most `crop_size` (height, width), where one of ten tries finds it with mixed classes.

    A side shorter than the window stays whole; see `pad_to`.
    """
    height, width = min(crop_size[0], size[0]), min(crop_size[1], size[1])
    for _ in range(CROP_TRIES):
        top, left = (int(rng.integers(0, whole - part + 1)) for whole, part in zip(size, (height, width)))
        window = top, left, height, width
        if (height, width) == size or max_class_share >= 1 or largest_class_share(cut_mask(window)) <= max_class_share:
            break
    return window


def largest_class_share(mask: torch.Tensor) -> float:
    """Share of the most frequent class among a mask's valid pixels; 1.0 where no pixel is valid."""
    counts = torch.bincount(mask.as_subclass(torch.Tensor).flatten(), minlength=256)[:IGNORE_INDEX]
    valid = int(counts.sum())
    return int(counts.max()) / valid if valid else 1.0


def pad_to(image: Image, mask: Mask, size: Sequence[int], fill: Sequence[int]) -> tuple[Image, Mask]:
    """Fills up to `size` (height, width) at the right and the bottom: the image with a colour, the mask with 255."""
    border = [0, 0, max(size[1] - mask.shape[1], 0), max(size[0] - mask.shape[0], 0)]  # left, top, right, bottom
    if not any(border):
        return image, mask
    return F.pad(image, border, fill=list(fill)), F.pad(mask, border, fill=IGNORE_INDEX)

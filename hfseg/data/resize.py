"""Images and masks at another size: the whole, or a window of it at a part of the cost."""

import math
from collections.abc import Callable, Sequence

import torch
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F
from torchvision.tv_tensors import Image, Mask

Window = tuple[int, int, int, int]  # top, left, height, width
REACH = 3  # pixels on either side that a filter looks at: Lanczos, the widest


def resize_mask(mask: Mask, size: Sequence[int]) -> Mask:
    """Class ids at another (height, width): each new pixel takes the old one that lies at its centre.

    That is NEAREST_EXACT, whose pixel centres are those of the bilinear image resize. NEAREST, torchvision's default
    for masks, takes the upper left of the pixels under a new one: up to half a new pixel off.
    """
    plain = mask.as_subclass(torch.Tensor)  # a Mask would get NEAREST from older torchvision releases all the same
    return Mask(F.resize(plain[None], list(size), InterpolationMode.NEAREST_EXACT)[0])


class ResizedMask:
    """A mask at another size, of which only what is asked for is made; equal to `resize_mask`.

    Args:
        mask: (H, W) uint8.
        size: (height, width) of the whole.
    """

    def __init__(self, mask: Mask, size: Sequence[int]) -> None:
        self.mask = mask.as_subclass(torch.Tensor).numpy()  # torch's index_select takes four times as long
        self.rows, self.columns = (_centres(old, new).numpy() for old, new in zip(mask.shape, size))

    def __call__(self, window: Window) -> Mask:
        top, left, height, width = window
        rows = self.mask.take(self.rows[top : top + height], axis=0)
        return Mask(torch.from_numpy(rows.take(self.columns[left : left + width], axis=1)))


def _centres(old: int, new: int) -> torch.Tensor:
    """(new,) int64: for each pixel of a resized side the old one at its centre, as torch finds it."""
    ramp = torch.arange(old, dtype=torch.float32).view(1, 1, old)
    return torch.nn.functional.interpolate(ramp, size=new, mode="nearest-exact").long().view(new)


def resize_window(
    image: Image, size: Sequence[int], window: Window, resize: Callable[[Image, tuple[int, int]], Image]
) -> Image:
    """A window of an image at another size, equal to resizing all of it and cutting the window out, bit for bit.

    torch resizes uint8 images along the rows first, and rounds before the columns follow: so the rows of the window
    alone are resized to the full width, and then the columns of the window alone to the full height. Where torchvision
    resizes in float32 (a CPU without AVX2), the roundings would be others, and the whole image is resized.

    Args:
        image: (3, H, W) uint8.
        size: (height, width) of the whole.
        window: the part that is wanted.
        resize: (image, (height, width)) -> image, a separable filter with antialiasing.
    """
    top, left, height, width = window
    old_height, old_width = image.shape[-2:]
    if (height, width) == tuple(size) or torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"):
        return F.crop(resize(image, (size[0], size[1])), *window)
    scale = old_height / size[0]
    reach = REACH * max(scale, 1.0) + 1
    first = max(math.floor(top * scale - reach), 0)
    last = min(math.ceil((top + height) * scale + reach), old_height)
    band = F.crop(image, first, 0, last - first, old_width)
    band = F.crop(resize(band, (last - first, size[1])), 0, left, last - first, width)
    column = torch.zeros(old_height, width, 3, dtype=torch.uint8).permute(2, 0, 1)  # what lies outside is not looked at
    column[:, first:last] = band
    return F.crop(resize(Image(column), (size[0], width)), top, 0, height, width)

"""A window of a resized image or mask is what is cut out of the whole, bit for bit."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms.v2 import functional as F
from torchvision.tv_tensors import Image, Mask
from transformers.image_utils import SizeDict

from hfseg.data.processors import build_processor
from hfseg.data.resize import ResizedMask, resize_mask, resize_window

SIDES = st.tuples(st.integers(1, 160), st.integers(1, 160))


@settings(max_examples=200, deadline=None)
@given(
    old=SIDES, new=SIDES, corner=st.tuples(st.floats(0, 1), st.floats(0, 1)), share=st.floats(0, 1), seed=st.integers()
)
@pytest.mark.parametrize("resample", [2, 3])
def test_a_window_is_a_part_of_the_whole(
    old: tuple[int, int],
    new: tuple[int, int],
    corner: tuple[float, float],
    share: float,
    seed: int,
    resample: int,
) -> None:
    generator = torch.Generator().manual_seed(seed % 2**31)
    pixels = torch.randint(0, 256, (*old, 3), generator=generator, dtype=torch.uint8)
    image, mask = Image(pixels.permute(2, 0, 1)), Mask(pixels[..., 0].contiguous())
    height, width = (max(1, int(side * share)) for side in new)
    top, left = (round(x * (side - part)) for x, side, part in zip(corner, new, (height, width)))
    processor = build_processor((8, 8))

    def resize(part: Image, size: tuple[int, int]) -> Image:
        return processor.resize(part, SizeDict(height=size[0], width=size[1]), resample=resample)

    window = (top, left, height, width)
    assert torch.equal(resize_window(image, new, window, resize), F.crop(resize(image, new), *window))
    assert torch.equal(ResizedMask(mask, new)(window), F.crop(resize_mask(mask, new), *window))

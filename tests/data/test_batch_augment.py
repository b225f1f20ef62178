"""Whole batches are mirrored and coloured as single samples were: by torchvision's functions, one after another."""

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as F

from hfseg.data.batch_augment import apply_changes, draw_changes

SIZE = (24, 20)


def draw_batch(num: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (num, 3, *SIZE), generator=generator, dtype=torch.uint8)
    images[0, :, :8] = images[0, :1, :8]  # grey, which has no hue
    images[1] //= 64  # many pixels of equal channels
    return images, torch.randint(0, 4, (num, *SIZE), generator=generator, dtype=torch.uint8)


def draw_all(num: int, sizes: list[tuple[int, int]] | None = None, **options: float) -> np.ndarray:
    given = {"horizontal_flip": 0.5, "photometric_distortion": True} | options
    sizes = sizes or [SIZE]
    return np.array([draw_changes(np.random.default_rng([7, i]), sizes[i % len(sizes)], **given) for i in range(num)])


def change_one(image: torch.Tensor, mask: torch.Tensor, change: np.void) -> tuple[torch.Tensor, torch.Tensor]:
    """What each sample went through on the host before batches were changed as a whole."""
    if change["flip"]:
        image, mask = F.horizontal_flip(image), F.horizontal_flip(mask)
    pixels = image.float() / 255
    if change["brightness"]:
        pixels = (pixels + change["brightness"]).clamp(0, 1)
    if change["contrast_first"]:
        pixels = (pixels * change["contrast"]).clamp(0, 1)
    if change["saturation"] != 1:
        pixels = F.adjust_saturation(pixels, change["saturation"])
    if change["hue"]:
        pixels = F.adjust_hue(pixels, change["hue"])
    if not change["contrast_first"]:
        pixels = (pixels * change["contrast"]).clamp(0, 1)
    return (pixels * 255).round().to(torch.uint8), mask


def check_against_samples(device: str) -> None:
    """Equal but for roundings: torchvision's blending is fused on some machines, and its hue goes another way.

    A colour that lies within 1e-6 of the middle between two levels may come out as the other one.
    """
    (images, masks), changes = draw_batch(200), draw_all(200)
    counts = {name: np.count_nonzero(changes[name]) for name in ("flip", "brightness", "hue", "contrast_first")}
    assert all(70 < count < 130 for count in counts.values()), counts
    new_images, new_masks = (x.cpu() for x in apply_changes(images.to(device), masks.to(device), changes))
    differ = 0
    for i, change in enumerate(changes):
        image, mask = change_one(images[i], masks[i], change)
        assert torch.equal(new_masks[i], mask)
        difference = (new_images[i].int() - image.int()).abs()
        assert difference.max() <= 1, change
        differ += int(difference.sum())
    assert new_images.dtype == torch.uint8 and differ <= 1e-4 * images.numel()


def test_a_batch_equals_its_samples() -> None:
    check_against_samples("cpu")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_batch_on_a_gpu_equals_its_samples() -> None:
    check_against_samples("cuda")


def test_a_batch_of_one_is_part_of_any_batch_bit_for_bit() -> None:
    (images, masks), changes = draw_batch(40), draw_all(40, [SIZE, (17, 20), (24, 11)])
    whole = apply_changes(images, masks, changes)
    for i in range(40):
        one = apply_changes(images[i : i + 1], masks[i : i + 1], changes[i : i + 1])
        assert all(torch.equal(a[0], b[i]) for a, b in zip(one, whole)), i


def test_padding_is_neither_mirrored_nor_coloured() -> None:
    sizes = [SIZE, (24, 13), (9, 20), (5, 7)]
    (images, masks), changes = draw_batch(60), draw_all(60, sizes)
    padding = torch.ones(60, *SIZE, dtype=torch.bool)
    for i in range(60):
        height, width = sizes[i % 4]
        padding[i, :height, :width] = False
    images.transpose(0, 1)[:, padding], masks[padding] = 99, 255
    new_images, new_masks = apply_changes(images, masks, changes)
    assert (new_images.transpose(0, 1)[:, padding] == 99).all() and torch.equal(new_masks == 255, padding)
    for i, (height, width) in enumerate(sizes * 15):
        part = (slice(i, i + 1), ..., slice(height), slice(width))
        changes[i : i + 1]["height"], changes[i : i + 1]["width"] = height, width
        inside = apply_changes(images[part], masks[part], changes[i : i + 1])
        assert torch.equal(new_images[part], inside[0]) and torch.equal(new_masks[part], inside[1])


def test_what_is_given_stays_as_it_is() -> None:
    (images, masks), changes = draw_batch(8), draw_all(8, horizontal_flip=1.0)
    before = images.clone(), masks.clone()
    once, twice = apply_changes(images, masks, changes), apply_changes(images, masks, changes)
    assert torch.equal(images, before[0]) and torch.equal(masks, before[1])
    assert torch.equal(once[0], twice[0]) and not torch.equal(once[0], images)
    nothing = draw_all(8, horizontal_flip=0.0, photometric_distortion=False)
    assert all(torch.equal(a, b) for a, b in zip(apply_changes(images, masks, nothing), before))

"""Splits by their usual names, and what is held out of train where there is no validation."""

import numpy as np

# The names that stand for each split.
SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid", "dev"),
    "test": ("test", "testing"),
}


def draw_held_out(num_images: int, fraction: float, seed: int) -> list[int]:
    """Indices of the images that are held out, sorted: of two or more at least one, and never all of them.

    Args:
        num_images: number of training images.
        fraction: share to hold out, 0 to 1; 0 holds out nothing.
        seed: another seed holds out other images.
    """
    count = min(max(round(fraction * num_images), 1), num_images - 1) if fraction else 0
    return sorted(np.random.default_rng(seed).permutation(num_images)[: max(count, 0)].tolist())

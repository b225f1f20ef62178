"""Near-duplicates by perceptual hash: images that were saved again, resized or mirrored.

The hash is the difference hash (N. Krawetz, 2013) with 512 bits: whether each of 16 x 16 points of the grey image is
darker than its right and than its lower neighbour. Pairs of near hashes are then compared by the correlation of their
(17, 17) grey images, which tells the next frame of a video from the same frame saved again.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MAX_BITS = 64  # of 512
# 1 - correlation up to which two images are one. Measured on CamVid (468 frames of a video, up to 30 a second) and on
# Oxford-IIIT Pet: saved again as JPEG of quality 30 at most 0.0005, resized 0.0006, mirrored 0.0002, a mark laid over
# it 0.018; neighbouring frames of CamVid's validation split 0.0007, the nearest of two splits 0.08. So copies alone
# are told inside a split, and whatever looks alike across splits.
MAX_INSIDE, MAX_ACROSS = 6e-4, 0.02
MIN_CONTRAST = 2.0  # standard deviation of grey; flatter images are compared by their bytes alone
BLOCK = 1024


@dataclass(frozen=True)
class Duplicate:
    """Two images, by their index, that are nearly one; `first` < `second`."""

    first: int
    second: int
    across: bool
    mirrored: bool
    same_bytes: bool
    distance: float  # 1 - correlation


def find_duplicates(
    greys: Sequence[np.ndarray | None], digests: Sequence[bytes], splits: Sequence[str | None]
) -> list[Duplicate]:
    """For each image its nearest in another split, and its nearest in its own (or where one is in none).

    Args:
        greys: (17, 17) uint8 each; None is left out.
        digests: of the files' bytes.
        splits: name or None.

    Returns:
        Each pair once, those across splits first.
    """
    used = [i for i, grey in enumerate(greys) if grey is not None]
    if len(used) < 2:
        return []
    stack = np.stack([grey for grey in greys if grey is not None]).astype(np.float32)
    bits, patterns = compute_hashes(stack), _standardise(stack)
    flipped = stack[:, :, ::-1]
    mirrored_bits, mirrored_patterns = compute_hashes(flipped), _standardise(flipped)
    flat = stack.std((1, 2)) < MIN_CONTRAST
    _, files = np.unique(np.array([digests[i] for i in used]), return_inverse=True)
    names = [splits[i] or "" for i in used]
    _, split_ids = np.unique(np.array(names), return_inverse=True)
    in_split = np.array([bool(name) for name in names])
    found: dict[tuple[int, int], Duplicate] = {}
    for start in range(0, len(used), BLOCK):
        rows = np.arange(start, min(start + BLOCK, len(used)))
        plain = _distances(bits[rows], bits, patterns[rows], patterns)
        mirrored = _distances(mirrored_bits[rows], bits, mirrored_patterns[rows], patterns)
        is_mirrored = mirrored < plain
        distance = np.minimum(plain, mirrored)
        distance[flat[rows][:, None] | flat[None]] = np.inf
        same = files[rows][:, None] == files[None]
        distance[same], is_mirrored[same] = 0, False
        distance[np.arange(len(rows)), rows] = np.inf
        across = (split_ids[rows][:, None] != split_ids[None]) & in_split[rows][:, None] & in_split[None]
        for allowed, limit, is_across in ((across, MAX_ACROSS, True), (~across, MAX_INSIDE, False)):
            masked = np.where(allowed, distance, np.inf)
            nearest = masked.argmin(1)
            for row, other in zip(rows[masked.min(1) <= limit], nearest[masked.min(1) <= limit]):
                i = row - start
                first, second = sorted((used[row], used[other]))
                value = float(distance[i, other])
                found[first, second] = Duplicate(
                    first, second, is_across, bool(is_mirrored[i, other]), bool(same[i, other]), max(value, 0.0)
                )
    return sorted(found.values(), key=lambda pair: (not pair.across, pair.first, pair.second))


def compute_hashes(greys: np.ndarray) -> np.ndarray:
    """(N, 17, 17) to (N, 512) float32 of -1 and 1, so that a product of two gives 512 - 2 x differing bits."""
    right = greys[:, :-1, 1:] > greys[:, :-1, :-1]
    below = greys[:, 1:, :-1] > greys[:, :-1, :-1]
    bits = np.concatenate([part.reshape(len(greys), -1) for part in (right, below)], 1)
    return bits.astype(np.float32) * 2 - 1


def _standardise(greys: np.ndarray) -> np.ndarray:
    """(N, 289) with mean 0 and length 1."""
    flat = greys.reshape(len(greys), -1)
    flat = flat - flat.mean(1, keepdims=True)
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)


def _distances(bits: np.ndarray, all_bits: np.ndarray, patterns: np.ndarray, all_patterns: np.ndarray) -> np.ndarray:
    """1 - correlation where the hashes are near, else inf."""
    differing = (bits.shape[1] - bits @ all_bits.T) / 2
    return np.where(differing <= MAX_BITS, 1 - patterns @ all_patterns.T, np.inf)

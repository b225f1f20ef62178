"""A data set whose images and masks lie ready as uint8 of one size: read by whole batches, at memory speed."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset

from hfseg.data.batch_augment import CHANGES, draw_changes
from hfseg.data.transforms import SegTransform, collate


class CachedDataset(torch.utils.data.Dataset):
    """Rows as `hfseg.data.transforms.prepare` gives them, the random part drawn anew each epoch.

    Args:
        rows: memory-mapped `image` (3 * H * W) and `mask` (H * W) uint8, at the transform's size.
        transform: what is done with them.
        sample_indices: (N,) what seeds the random changes of each sample, together with seed and epoch.
        paths: (N,) of the images, where a batch shall say what it is made of.
    """

    def __init__(
        self,
        rows: Dataset,
        transform: SegTransform,
        sample_indices: np.ndarray,
        paths: pa.ChunkedArray | None = None,
    ) -> None:
        assert transform.size is not None and transform.augmentation.scale_jitter is None
        self.rows, self.transform, self.sample_indices, self.paths = rows, transform, sample_indices, paths
        self.size = transform.size
        self._images = _map_column(rows, "image", (3, *self.size))
        self._masks = _map_column(rows, "mask", self.size)
        self._resident: tuple[torch.Tensor, torch.Tensor] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """For a worker that is spawned: the file is mapped there anew."""
        return {name: self.__dict__[name] for name in ("rows", "transform", "sample_indices", "paths")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def __len__(self) -> int:
        return len(self.sample_indices)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One sample, as a row of `prepare` is."""
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        batch = self.__getitems__([index % len(self)])
        return {name: column[0] for name, column in batch.items()}

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Any]:
        """A whole batch, which `collate` leaves as it is; DataLoader asks for it with the sampler's indices."""
        images, masks = self._select(indices)
        transform, numbers = self.transform, self.sample_indices[list(indices)]
        if transform.crop_size is not None:
            generators = map(transform.generator, numbers)
            batch = collate([transform.vary(*sample) for sample in zip(images, masks, generators)])
            return batch | self._name(indices, numbers)
        batch = {"pixel_values": images, "labels": masks, **self._name(indices, numbers)}
        augmentation = transform.augmentation
        if augmentation.changes_batches:
            options = self.size, augmentation.horizontal_flip, augmentation.photometric_distortion
            batch["changes"] = np.array([draw_changes(transform.generator(n), *options) for n in numbers], CHANGES)
        return batch

    def _name(self, indices: Sequence[int], numbers: np.ndarray) -> dict[str, list[str]]:
        if self.paths is None:
            return {}
        paths = self.paths.take(pa.array(indices, pa.int64())).to_pylist()
        return {"files": [f"{path or 'an image without a path'} ({n})" for path, n in zip(paths, numbers)]}

    def _select(self, indices: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        if self._resident is None:
            return self._images.gather(indices), self._masks.gather(indices)
        images, masks = self._resident
        picked = torch.tensor(indices).to(images.device, non_blocking=True)
        return images[picked], masks[picked]

    # ---- in the memory of a device ----
    @property
    def num_bytes(self) -> int:
        return len(self) * 4 * self.size[0] * self.size[1]

    @property
    def resident(self) -> bool:
        """Whether batches come from a device, and lie there: they are for the process that asked for it."""
        return self._resident is not None

    @property
    def can_be_resident(self) -> bool:
        """A crop is chosen by looking at the mask, for which the host would have to wait."""
        return self.transform.crop_size is None

    def keep_on(self, device: torch.device) -> None:
        """Copies everything to a device, where batches are selected from now on."""
        assert self.can_be_resident
        self._resident = self._images.copy_to(device), self._masks.copy_to(device)


class _Column:
    """Samples of one shape in several blocks of memory: the record batches of an Arrow file."""

    def __init__(self, blocks: list[np.ndarray], shape: tuple[int, ...]) -> None:
        self.blocks, self.shape = blocks, shape
        self.starts = np.cumsum([0, *(len(block) for block in blocks)])

    def gather(self, indices: Sequence[int]) -> torch.Tensor:
        """(B, *shape) uint8, copied."""
        out = np.empty((len(indices), *self.shape), np.uint8)
        blocks = np.searchsorted(self.starts, indices, side="right") - 1
        for row, index, block in zip(out, indices, blocks):
            row[...] = self.blocks[block][index - self.starts[block]]
        return torch.from_numpy(out)

    def copy_to(self, device: torch.device) -> torch.Tensor:
        """(N, *shape) uint8, block by block."""
        out = torch.empty((int(self.starts[-1]), *self.shape), dtype=torch.uint8, device=device)
        for start, block in zip(self.starts, self.blocks):
            out[start : start + len(block)] = torch.from_numpy(np.array(block)).to(device)
        return out


def _map_column(rows: Dataset, name: str, shape: tuple[int, ...]) -> _Column:
    chunks = rows.data.column(name).chunks
    return _Column([chunk.flatten().to_numpy(zero_copy_only=True).reshape(-1, *shape) for chunk in chunks], shape)

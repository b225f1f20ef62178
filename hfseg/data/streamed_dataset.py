"""Parquet shards read as a stream: shuffled by a buffer, each row by one process and one worker only.

Everything follows from (seed, epoch, number of processes and workers), so that a run goes on at any batch by reading
its stream up to there. A row's number, on which its augmentation depends, is that of the row in the whole set.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from torch.utils.data import IterableDataset, get_worker_info

READ_ROWS = 64  # of a shard at a time: encoded pictures are large


@dataclass(frozen=True)
class Shards:
    """A split as it lies in Parquet files.

    Args:
        files: paths or addresses that fsspec opens.
        num_rows: of each file.
        columns: those of the images and of the masks.
        buffer: rows among which the next one is drawn, in each reader; 0 keeps the order of the files.
        revision: commit of the repo that they are from.
    """

    files: tuple[str, ...]
    num_rows: tuple[int, ...]
    columns: tuple[str, str]
    buffer: int = 1000
    revision: str | None = None

    def __len__(self) -> int:
        return sum(self.num_rows)

    @property
    def fingerprint(self) -> str:
        """A digest over the names and lengths of the files."""
        names = [os.path.basename(file) for file in self.files]
        return "files-" + blake2b(repr([*zip(names, self.num_rows)]).encode(), digest_size=8).hexdigest()

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One row, to look at: its shard is read up to it."""
        for shard, count in enumerate(self.num_rows):
            if 0 <= index < count:
                return next(islice(self.read(shard), index, None))
            index -= count
        raise IndexError(index)

    def read(self, shard: int, every: int = 1, first: int = 0) -> Iterator[dict[str, Any]]:
        """The rows of a shard in their order, or each that is number `first` of `every` in the whole set."""
        number, offset = 0, sum(self.num_rows[:shard])
        with fsspec.open(self.files[shard], "rb") as file:
            for rows in pq.ParquetFile(file).iter_batches(READ_ROWS, columns=list(self.columns)):
                picked = [i for i in range(len(rows)) if (offset + number + i) % every == first]
                images, masks = (
                    rows.column(name).take(pa.array(picked, pa.int64())).to_pylist() for name in self.columns
                )
                for i, image, mask in zip(picked, images, masks):
                    yield {"image": _to_source(image), "mask": _to_source(mask), "sample_index": offset + number + i}
                number += len(rows)


class StreamedDataset(IterableDataset):
    """The training split of a stream as samples; `divide` says which of them this process reads.

    Args:
        shards: where the rows lie.
        transform: one row, as columns of length 1, to a sample; see `hfseg.data.transforms.SegTransform`.
        seed: of the order.

    Where the shards can't be dealt out evenly, a reader with more rows than others leaves some for another epoch, whose
    shards are dealt out anew.
    """

    def __init__(self, shards: Shards, transform: Any, *, seed: int = 0) -> None:
        self.shards, self.transform, self.seed, self.buffer = shards, transform, seed, shards.buffer
        self.rank, self.world_size, self.batch_size = 0, 1, 1

    def divide(self, rank: int, world_size: int, batch_size: int) -> None:
        """Which process this is, and how many samples its loader puts into a batch."""
        self.rank, self.world_size, self.batch_size = rank, world_size, batch_size

    def __len__(self) -> int:
        """Samples of this process in an epoch; all processes have equally many, for which some repeat a few rows."""
        return -(-len(self.shards) // self.world_size)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        info = get_worker_info()
        worker, num_workers = (info.id, info.num_workers) if info is not None else (0, 1)
        reader, num_readers = self.rank * num_workers + worker, self.world_size * num_workers
        left = self._samples_of_worker(worker, num_workers)
        while left > 0:  # a reader with fewer rows than others reads some of them again
            before = left
            for row in self._shuffle(self._read(reader, num_readers), reader):
                sample = self.transform({name: [value] for name, value in row.items()})
                yield {name: column[0] for name, column in sample.items()}
                left -= 1
                if left == 0:
                    break
            if left == before:
                reader = 0  # no row is this reader's own: fewer rows than readers

    def _samples_of_worker(self, worker: int, num_workers: int) -> int:
        """DataLoader takes a batch of each worker in turn; only the last one of all is smaller."""
        full, rest = divmod(len(self), self.batch_size)
        samples = self.batch_size * len(range(worker, full, num_workers))
        return samples + rest * (full % num_workers == worker)

    def _read(self, reader: int, num_readers: int) -> Iterator[dict[str, Any]]:
        """The rows of one of all processes' workers: whole shards, or a part of each where there are fewer of them."""
        order = np.arange(len(self.shards.files))
        if self.buffer:
            np.random.default_rng([self.seed, self.epoch]).shuffle(order)
        shared = len(order) < num_readers
        for shard in order if shared else order[reader::num_readers]:
            yield from self.shards.read(int(shard), *((num_readers, reader) if shared else ()))

    def _shuffle(self, rows: Iterator[dict[str, Any]], reader: int) -> Iterator[dict[str, Any]]:
        rng = np.random.default_rng([self.seed, self.epoch, reader])
        waiting: list[dict[str, Any]] = []
        for row in rows:
            if len(waiting) < self.buffer:
                waiting.append(row)
                continue
            if not waiting:
                yield row
                continue
            i = int(rng.integers(len(waiting)))
            waiting[i], row = row, waiting[i]
            yield row
        for i in rng.permutation(len(waiting)):
            yield waiting[int(i)]

    @property
    def epoch(self) -> int:
        return int(getattr(self.transform, "transform", self.transform).epoch)  # of a guarded one


def count_rows(file: str) -> int:
    """From a Parquet file's last bytes alone."""
    with fsspec.open(file, "rb") as opened:
        return int(pq.ParquetFile(opened).metadata.num_rows)


def _to_source(value: Any) -> Any:
    """What `hfseg.images` reads."""
    return {"bytes": value, "path": None} if isinstance(value, bytes) else value

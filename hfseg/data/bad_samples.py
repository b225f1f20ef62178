"""What becomes of a sample that can't be used while a run goes on: the run stops, or goes on without it."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from datasets import Image as ImageFeature
from torch import distributed

from hfseg.data.batch_augment import draw_changes
from hfseg.data.processors import call_processor
from hfseg.data.transforms import SegTransform
from hfseg.errors import InputError
from hfseg.images import describe
from hfseg.labels import IGNORE_INDEX

logger = logging.getLogger(__name__)

MAX_SHARE = 0.01  # of a split that may be left out
SHOWN = 10
ADVICE = "`hfseg check` lists all such files"


class BadSamples:
    """The samples of a run that can't be used, by split; the workers of a process share what they find.

    Args:
        on_bad_sample: `stop` raises the sample's error; `skip` puts a sample in its place that counts nowhere: the
            padding colour, and labels that are all ignored, so that batches keep their shape and order, and it gives
            no loss, no gradient and no score. (Batch norms see it as they see padding.)
        dataset: the splits.
    """

    def __init__(self, on_bad_sample: str, dataset: Mapping[str, Dataset]) -> None:
        self.skip, self.dataset = on_bad_sample == "skip", dict(dataset)
        # Shared memory, which workers write and the main process reads: 1 for a sample that was left out.
        self.flags = {name: torch.zeros(len(part), dtype=torch.uint8).share_memory_() for name, part in dataset.items()}

    def guard(self, transform: SegTransform, split: str) -> Any:
        """The transform for a split, with what is to be done about bad samples."""
        return GuardedTransform(transform, split, self.flags[split], self.skip)

    def usable(self, split: str) -> Any:
        """The rows of a split that have not been left out so far, to look at."""
        return UsableRows(self.dataset[split], self.flags[split]) if self.skip else self.dataset[split]

    def share(self, device: torch.device) -> None:
        """Tells all processes what each has found.

        Raises:
            InputError: more than a hundredth of a split is left out; in all processes alike.
        """
        if not self.skip:
            return
        if distributed.is_available() and distributed.is_initialized():
            for flags in self.flags.values():
                everywhere = flags.to(device)
                distributed.all_reduce(everywhere, distributed.ReduceOp.MAX)
                flags.copy_(everywhere.cpu())
        for split, flags in self.flags.items():
            check_share(split, flags)

    def report(self) -> None:
        """Says how many samples of each split were left out, and which."""
        for split, flags in self.flags.items():
            if not (indices := flags.nonzero().flatten().tolist()):
                continue
            part: Any = self.dataset[split]
            if isinstance(part, Dataset):
                part = part.select_columns("image").cast_column("image", ImageFeature(decode=False))
            names = [describe(part[i]["image"]) for i in indices[:SHOWN]]
            more = ", ..." if len(indices) > SHOWN else ""
            logger.warning(
                f"{len(indices)} of {len(flags)} {split} images were left out: {', '.join(names)}{more}. {ADVICE}."
            )


@contextmanager
def advice() -> Iterator[None]:
    """Errors within also say what can be done about them."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{error} {ADVICE}; on_bad_sample skip goes on without a few.") from error


class GuardedTransform:
    """A SegTransform whose errors stop the run with advice, or leave the sample out; see `BadSamples`."""

    def __init__(self, transform: SegTransform, split: str, flags: torch.Tensor, skip: bool) -> None:
        self.transform, self.split, self.flags, self.skip = transform, split, flags, skip

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.flags.share_memory_()  # a worker's is shared already, a copy's is not

    def __call__(self, batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        """As `SegTransform.__call__`, also for the errors."""
        if not self.skip:
            with advice():
                return self.transform(batch)
        rows = [{name: [column[i]] for name, column in batch.items()} for i in range(len(batch["sample_index"]))]
        samples = [self._read(row) for row in rows]
        return {name: [sample[name][0] for sample in samples] for name in samples[0]} if samples else {}

    def read_resized(self, image_source: Any, mask_source: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """As `SegTransform.read_resized`, also for the errors; nothing is left out."""
        with advice():
            return self.transform.read_resized(image_source, mask_source)

    def _read(self, row: dict[str, list[Any]]) -> dict[str, list[Any]]:
        try:
            return self.transform(row)
        except InputError as error:
            index = int(row["sample_index"][0])
            if not self.flags[index]:
                self.flags[index] = 1
                logger.warning(f"{self.split}: left out: {error}")
                check_share(self.split, self.flags, str(error))
            names = {"files": [f"{describe(row['image'][0])} ({index})"]} if self.transform.train else {}
            return self._placeholder() | names

    def _placeholder(self) -> dict[str, list[Any]]:
        height, width = self.transform.crop_size or self.transform.size or (64, 64)
        color = torch.tensor(self.transform.fill, dtype=torch.uint8)
        image = color[:, None, None].repeat(1, height, width)
        if not self.transform.plain:
            image = call_processor(self.transform.processor, image, "a sample left out")
        labels = torch.full(image.shape[-2:], IGNORE_INDEX, dtype=torch.uint8)
        columns: dict[str, list[Any]] = {"pixel_values": [image], "labels": [labels]}
        if self.transform.plain and self.transform.augmentation.changes_batches:
            columns["changes"] = [draw_changes(np.random.default_rng(0), (height, width), 0.0, False)]  # none
        return columns


class UsableRows:
    """Rows of a data set without those that are left out, as known at each access."""

    def __init__(self, dataset: Dataset, flags: torch.Tensor) -> None:
        self.dataset, self.flags = dataset, flags

    def __len__(self) -> int:
        return int((self.flags == 0).sum())

    def __getitem__(self, i: int) -> dict[str, Any]:
        return self.dataset[int((self.flags == 0).nonzero()[i])]


def check_share(split: str, flags: torch.Tensor, last: str = "") -> None:
    """Raises InputError where more than `MAX_SHARE` of a split is left out."""
    count = int(flags.sum())
    if count > MAX_SHARE * len(flags):
        example = f" The last: {last}" if last else ""
        raise InputError(
            f"{count} of {len(flags)} {split} images can't be used, more than the {MAX_SHARE:.0%} that on_bad_sample "
            f"skip leaves out. {ADVICE}.{example}"
        )

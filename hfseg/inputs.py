"""How batches reach the device: from files by worker processes, from a cache, or from the device's own memory."""

import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import datasets
import psutil
import torch
from transformers import PreTrainedModel, Trainer

from hfseg.data.cached_dataset import CachedDataset
from hfseg.data.streamed_dataset import StreamedDataset
from hfseg.data.transforms import SegTransform, finish_batch
from hfseg.errors import InputError
from hfseg.models.trial import trains_on_one_image

logger = logging.getLogger(__name__)

MOST_WORKERS = 8
IMAGES_PER_WORKER = 64  # with fewer, starting a worker costs more than it saves
MOST_PREFETCH = 4
SHARED_MEMORY = "/dev/shm"  # noqa: S108  looked at, nothing is written there


class InputTrainer(Trainer):
    """A Trainer that chooses how each of its data sets is read, and finishes its batches on the device."""

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Moves a batch to the device, where uint8 images are mirrored, coloured and normalised."""
        batch = finish_batch(super()._prepare_inputs(inputs), self.processing_class)
        if getattr(self.args, "channels_last", False):
            batch["pixel_values"] = batch["pixel_values"].contiguous(memory_format=torch.channels_last)
        return batch

    def _get_dataloader(self, dataset: Any, description: str, batch_size: int, *args: Any, **kwargs: Any) -> Any:
        if isinstance(dataset, CachedDataset):
            self._keep_resident(dataset)
        plan = plan_loading(dataset, batch_size, description == "Training", self.args)
        if isinstance(dataset, StreamedDataset):
            dataset.divide(self.args.process_index, self.args.world_size, batch_size)
        drop_last = description == "Training" and self._drops_last(dataset, batch_size)
        with _settings(self.args, {**vars(plan), "drop_last": drop_last}):
            if isinstance(dataset, StreamedDataset):
                with _not_divided_again(self.accelerator):
                    return super()._get_dataloader(dataset, description, batch_size, *args, **kwargs)
            return super()._get_dataloader(dataset, description, batch_size, *args, **kwargs)

    def _drops_last(self, dataset: Any, batch_size: int) -> bool:
        """Whether a smaller last batch is left out: as the user says, or if it has one image and the model can't.

        Raises:
            InputError: every batch has, or that one can't be left out.
        """
        is_stream = isinstance(dataset, StreamedDataset)
        # Of several processes each gets whole batches: accelerate fills the last ones from the beginning.
        last_is_one = len(dataset) % batch_size == 1 and (is_stream or self.args.world_size == 1)
        if batch_size > 1 and (not last_is_one or self.args.dataloader_drop_last):
            return self.args.dataloader_drop_last
        size = _input_size(dataset) or tuple(dataset[0]["pixel_values"].shape[-2:])
        if trains_on_one_image(cast(PreTrainedModel, self.model), size):
            return self.args.dataloader_drop_last
        what = f"{type(self.model).__name__} can't learn from a batch of one image"
        if batch_size == 1 or len(dataset) == 1:
            raise InputError(
                f"per_device_train_batch_size is {batch_size} for {len(dataset)} images: {what}, since its head takes "
                "the mean of each. Give it 2 or more of both."
            )
        if is_stream:
            larger = next(size for size in range(batch_size + 1, 2 * batch_size + 2) if len(dataset) % size != 1)
            raise InputError(
                f"{what}, and {len(dataset)} images of a stream end with one in batches of {batch_size}: give "
                f"--per_device_train_batch_size {larger}."
            )
        logger.warning(f"{what}: the last one of each epoch, of {len(dataset)} images, is left out.")
        return True

    def _keep_resident(self, dataset: CachedDataset) -> None:
        """Copies a cached data set to the device where it takes less than its share of the memory there."""
        fraction, device = getattr(self.args, "resident_fraction", 0.0), self.args.device
        if dataset.resident or not dataset.can_be_resident or fraction == 0 or device.type != "cuda":
            return
        free, total = torch.cuda.mem_get_info(device)
        placed = [part for part in (self.train_dataset, self.eval_dataset) if isinstance(part, CachedDataset)]
        taken = sum(part.num_bytes for part in placed if part.resident)
        if taken + dataset.num_bytes <= fraction * total and 2 * dataset.num_bytes <= free:
            dataset.keep_on(device)
            logger.info(f"{len(dataset)} images stay on the device: {dataset.num_bytes / 1e6:,.0f} MB")


@dataclass(frozen=True)
class Loading:
    """What DataLoader is told: `transformers.TrainingArguments` has the same settings, as dataloader_*."""

    num_workers: int
    prefetch_factor: int | None
    pin_memory: bool
    persistent_workers: bool


def plan_loading(dataset: Any, batch_size: int, is_training: bool, args: Any) -> Loading:
    """Workers, prefetch and pinning for one data set, by the cores and the memory that there are.

    Worker processes pay where files are read: one for each core of this process, while what they hold ready stays
    within a quarter of the free memory and half of the shared memory. What the user gave comes first, but a data set
    on the device is read by this process, whose memory it is.

    Args:
        dataset: any; only a `datasets.Dataset` and a stream are taken to read files.
        batch_size: images of one batch of this process.
        is_training: the workers of training stay from epoch to epoch.
        args: `SegTrainingArguments`, or stock ones, whose number of workers is always the user's.
    """
    pin = args.dataloader_pin_memory and args.device.type != "cpu"
    if isinstance(dataset, CachedDataset) and dataset.resident:
        return Loading(0, None, False, False)
    prefetch = args.dataloader_prefetch_factor
    if not getattr(args, "chooses_workers", False):
        workers = args.dataloader_num_workers
        stay = args.dataloader_persistent_workers and is_training  # transformers mixes up evaluation sets that stay
        return Loading(workers, prefetch, pin, stay and workers > 0)
    if not isinstance(dataset, datasets.Dataset | StreamedDataset):
        return Loading(0, None, pin, False)
    cores = count_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", args.world_size))
    workers = min(cores, MOST_WORKERS, len(dataset) // IMAGES_PER_WORKER)
    batches = free_bytes() // (batch_size * _sample_bytes(dataset))  # that can be held ready
    workers = min(workers, batches) if cores > 1 else 0
    if workers == 0:
        return Loading(0, None, pin, False)
    return Loading(workers, prefetch or min(MOST_PREFETCH, batches // workers), pin, is_training)


def count_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_bytes() -> int:
    """Memory that batches may wait in."""
    free = psutil.virtual_memory().available // 4
    if os.path.isdir(SHARED_MEMORY):  # where workers put them; 64 MiB in a container that nobody asked
        free = min(free, shutil.disk_usage(SHARED_MEMORY).free // 2)
    return free


def _sample_bytes(dataset: datasets.Dataset | StreamedDataset) -> int:
    """Of an image and its mask, from above where its size can't be known."""
    size = _input_size(dataset)
    if size is None:
        return 16 * 1024 * 1024  # float32, or a size for each image
    masks = 16 if _transform(dataset).resolution == "native" else 1  # four times as high and wide as the input
    return (3 + masks) * size[0] * size[1]


def _input_size(dataset: Any) -> tuple[int, int] | None:
    """(height, width) that the model is fed, where all images have the same and a transform of ours knows it."""
    transform = _transform(dataset)
    if not isinstance(transform, SegTransform) or transform.size is None:
        return None
    height, width = transform.crop_size or transform.size
    return height, width


def _transform(dataset: Any) -> Any:
    if isinstance(dataset, datasets.Dataset):
        transform = dataset.format["format_kwargs"].get("transform")
    else:
        transform = getattr(dataset, "transform", None)
    return getattr(transform, "transform", transform)  # of a guarded one


@contextmanager
def _not_divided_again(accelerator: Any) -> Iterator[None]:
    """Accelerate would deal out the samples of an iterable among the processes, which a stream has done itself."""
    prepare = accelerator.prepare
    accelerator.prepare = lambda loader: loader
    try:
        yield
    finally:
        accelerator.prepare = prepare


@contextmanager
def _settings(args: Any, settings: dict[str, Any]) -> Iterator[None]:
    """Trainer reads the settings of a DataLoader from its arguments: these hold for one of them."""
    names = [f"dataloader_{name}" for name in settings]
    before = {name: getattr(args, name) for name in names}
    try:
        for name, value in zip(names, settings.values()):
            setattr(args, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(args, name, value)

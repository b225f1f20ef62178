"""From image and mask files to what a model is fed: read, resize, augment, batch, normalise.

The image processor that is saved with a model is the one place that says how an image is resized and normalised. The
same steps run here, bit for bit as the processor does them on a CPU, but in two places: where files are read, images
are resized and stay uint8; where a batch is used, it is mirrored, coloured and normalised (`finish_batch`). On a CPU
the processes that read files mirror and colour too, since no device could do it beside them (`collate_for`).
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from datasets import Dataset
from datasets import Image as ImageFeature
from torchvision.transforms.v2 import functional as F
from torchvision.tv_tensors import Image, Mask
from transformers.image_utils import SizeDict

from hfseg.data.augment import Augmentation, crop_and_draw
from hfseg.data.batch_augment import CHANGES, apply_changes
from hfseg.data.processors import (
    ImageProcessor,
    build_processor,
    call_processor,
    check_processor,
    is_plain,
    normalize,
    pad_color,
)
from hfseg.data.resize import ResizedMask, Window, resize_mask, resize_window
from hfseg.errors import InputError
from hfseg.images import check_pair, describe, read_image, read_mask, read_size
from hfseg.labels import Labels

__all__ = [
    "SegTransform",
    "build_processor",
    "class_pixels",
    "collate",
    "collate_for",
    "finish_batch",
    "is_plain",
    "normalize",
    "prepare",
]


class SegTransform:
    """Turns rows of a data set into what a model is fed; set on a data set by `prepare`.

    Evaluation, and training without augmentation, feed exactly what the processor gives. Random numbers depend on
    (seed, epoch, sample index) only: not on the workers, the batches or the number of processes.

    Args:
        labels: read the masks.
        processor: resizes images; the rest of what it does follows in `normalize`. A processor that is not plain (see
            `is_plain`) is called itself, one image at a time, and the samples are float32 then.
        train: whether `augmentation` applies.
        augmentation: its scales are relative to the processor's size, so that things are as large in evaluation as
            they are in training on average. With a crop, the model is fed the crop's size in training.
        seed: of the augmentation, 0 or more.
        reduced_jpeg: in training, a JPEG is decoded at a part of its size where that is still as large as what is fed;
            see `hfseg.images.read_image`.
        resolution: size of the labels. input: that of the pixel values; native: the mask file's own.

    Raises:
        InputError: a processor that cuts or pads; a crop or scale jitter with a processor that is not plain; an
            unknown resolution; a negative seed.
    """

    def __init__(
        self,
        labels: Labels,
        processor: ImageProcessor,
        *,
        train: bool = False,
        augmentation: Augmentation | None = None,
        seed: int = 0,
        resolution: Literal["input", "native"] = "input",
        reduced_jpeg: bool = False,
    ) -> None:
        if resolution not in ("input", "native"):
            raise InputError(f"resolution is {resolution!r}; allowed are 'input' and 'native'.")
        if seed < 0:
            raise InputError(f"seed is {seed}; give 0 or more.")
        self.labels, self.processor, self.seed, self.resolution = labels, processor, seed, resolution
        self.augmentation = (augmentation if train else None) or Augmentation()
        assert resolution == "input" or not self.augmentation.changes_size, "native masks are for evaluation"
        self.plain, self.train, self.reduced_jpeg = is_plain(processor), train, train and reduced_jpeg
        check_processor(processor, self.augmentation.changes_size)
        self.size = (processor.size["height"], processor.size["width"]) if self.plain else None
        self.crop_size = self.augmentation.crop_size or (self.size if self.augmentation.scale_jitter else None)
        self.fill = pad_color(processor) if self.plain else [0, 0, 0]
        # Shared memory: workers that live through many epochs see the number change.
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()

    @property
    def epoch(self) -> int:
        """From 0, as `set_epoch` has it."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Another epoch draws other random numbers; running DataLoader workers see it as well."""
        self._epoch.fill_(epoch)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._epoch.share_memory_()  # a worker's is shared already, a copy's is not

    def __call__(self, batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        """Columns to columns.

        Args:
            batch: `image` and `mask` as `datasets` gives them, encoded or PIL, and `sample_index`.

        Returns:
            `pixel_values`, each (3, h, w) uint8, or float32 where the processor is not plain; `labels`, each (H, W)
            uint8, class id or 255; where training mirrors or colours, `changes`, each () `CHANGES`, which
            `finish_batch` does; in training `files`, each image's path and index.

        Raises:
            InputError: a file that can't be read, sizes that differ, mask values that belong to no class.
        """
        samples = [self._sample(*row) for row in zip(batch["image"], batch["mask"], batch["sample_index"])]
        columns = {name: [sample[name] for sample in samples] for name in samples[0]}
        if self.train:  # named where a step goes wrong
            columns["files"] = [f"{describe(i)} ({n})" for i, n in zip(batch["image"], batch["sample_index"])]
        return columns

    def _sample(self, image_source: Any, mask_source: Any, sample_index: int) -> dict[str, Any]:
        rng = self.generator(sample_index)
        if self.size is None:
            return self._process(self.vary(*self._read(image_source, mask_source), rng), describe(image_source))
        size = self._draw_size(rng)
        image, mask = self._read(image_source, mask_source, size if self.reduced_jpeg else None)
        if self.crop_size is None:
            return self.vary(*self._resize(image, mask, size), rng)
        resized_mask = ResizedMask(mask, size)
        return self._vary(lambda w: resize_window(image, size, w, self._resize_image), resized_mask, size, rng)

    def _process(self, sample: dict[str, Any], source: str) -> dict[str, Any]:
        """A sample through a processor that is not plain: what `finish_batch` does otherwise happens before it."""
        batch = finish_batch(collate([sample]))
        pixel_values = call_processor(self.processor, batch["pixel_values"][0], source)
        mask = Mask(batch["labels"][0])
        if self.resolution == "input":
            mask = resize_mask(mask, pixel_values.shape[-2:])
        return {"pixel_values": pixel_values, "labels": mask.as_subclass(torch.Tensor)}

    def generator(self, sample_index: int) -> np.random.Generator:
        """Draws what happens to one sample in this epoch."""
        return np.random.default_rng([self.seed, self.epoch, sample_index])

    def _draw_size(self, rng: np.random.Generator) -> tuple[int, int]:
        assert self.size is not None
        if self.augmentation.scale_jitter is None:
            return self.size
        smallest, largest = self.augmentation.scale_jitter
        factor = rng.uniform(smallest, largest)
        height, width = (max(round(side * factor), 1) for side in self.size)
        return height, width

    def read_resized(self, image_source: Any, mask_source: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """The part of a sample in which nothing is random: (3, h, w) uint8 at the processor's size, and its mask."""
        assert self.size is not None
        image, mask = self._resize(*self._read(image_source, mask_source), self.size)
        return image.as_subclass(torch.Tensor), mask.as_subclass(torch.Tensor)

    def vary(self, image: torch.Tensor, mask: torch.Tensor, rng: np.random.Generator) -> dict[str, Any]:
        """The random part that follows: a sample as `__call__` gives it, of a resized image and its mask."""
        size = (mask.shape[0], mask.shape[1])
        if self.crop_size is None:  # a native mask has a size of its own, and everything stays whole
            return self._vary(lambda _: image, lambda _: mask, size, rng)
        return self._vary(lambda w: F.crop(Image(image), *w), lambda w: F.crop(Mask(mask), *w), size, rng)

    def _vary(
        self,
        cut_image: Callable[[Window], Any],
        cut_mask: Callable[[Window], Any],
        size: tuple[int, int],
        rng: np.random.Generator,
    ) -> dict[str, Any]:
        image, mask, changes = crop_and_draw(
            cut_image, cut_mask, size, self.augmentation, rng, self.crop_size, self.fill
        )
        sample: dict[str, Any] = {"pixel_values": image.as_subclass(torch.Tensor)}
        sample["labels"] = mask.as_subclass(torch.Tensor)
        if self.augmentation.changes_batches:
            sample["changes"] = changes
        return sample

    def _read(self, image_source: Any, mask_source: Any, at_least: tuple[int, int] | None = None) -> tuple[Image, Mask]:
        pixels, raw = read_image(image_source, at_least), read_mask(mask_source)
        check_pair(pixels.shape[:2] if at_least is None else read_size(image_source), raw, mask_source)
        ids = self.labels.encode(raw, source=describe(mask_source))
        return Image(torch.from_numpy(pixels).permute(2, 0, 1)), Mask(torch.from_numpy(ids))

    def _resize(self, image: Image, mask: Mask, size: tuple[int, int]) -> tuple[Image, Mask]:
        mask = resize_mask(mask, size) if self.resolution == "input" else mask
        return self._resize_image(image, size), mask

    def _resize_image(self, image: Image, size: tuple[int, int]) -> Image:
        size_dict = SizeDict(height=size[0], width=size[1])
        return self.processor.resize(image, size_dict, resample=self.processor.resample)


def prepare(dataset: Dataset, transform: SegTransform) -> Dataset:
    """A data set whose rows are what a model is fed; the one given stays as it is.

    Args:
        dataset: with columns `image` and `mask`. Its order numbers the samples, unless it has a `sample_index` column.
        transform: applied as rows are read.
    """
    if "sample_index" not in dataset.column_names:
        dataset = dataset.add_column("sample_index", np.arange(len(dataset)))
    dataset = select_sources(dataset, "sample_index")
    dataset.set_transform(transform)
    return dataset


def select_sources(dataset: Dataset, *others: str) -> Dataset:
    """`image`, `mask` and other columns alone; pictures undecoded: hfseg.images decodes them, and names bad files."""
    dataset = dataset.select_columns(["image", "mask", *others])
    for name in ("image", "mask"):
        dataset = dataset.cast_column(name, ImageFeature(decode=False))
    return dataset


def collate(samples: Sequence[dict[str, Any]] | dict[str, Any]) -> dict[str, Any]:
    """Samples to a batch; a batch that a data set has made itself stays as it is.

    Returns:
        `pixel_values` (B, 3, H, W); `labels` (B, H, W) uint8, or a list of (H, W) where their sizes differ; and
        `changes` (B,) `CHANGES` (numpy, which stays on the host) and `files`, where the samples have them.

    Raises:
        InputError: images of different sizes.
    """
    if isinstance(samples, dict):
        return samples
    images, labels = ([sample[name] for sample in samples] for name in ("pixel_values", "labels"))
    if len(sizes := sorted({tuple(image.shape[-2:]) for image in images})) > 1:
        raise InputError(
            f"Images of one batch must have one size, but here are {' and '.join(f'{h} x {w}' for h, w in sizes[:3])}: "
            "the image processor does not bring them to one. Set image_size, or use a batch size of 1."
        )
    one_size = len({mask.shape for mask in labels}) == 1
    batch: dict[str, Any] = {"pixel_values": torch.stack(images), "labels": torch.stack(labels) if one_size else labels}
    if "changes" in samples[0]:
        batch["changes"] = np.array([sample["changes"] for sample in samples], CHANGES)
    if "files" in samples[0]:
        batch["files"] = [sample["files"] for sample in samples]
    return batch


def collate_for(device: torch.device) -> Callable[[Any], dict[str, Any]]:
    """How batches for a device are put together: by `collate`, and for a CPU mirrored and coloured at once.

    Worker processes share that work then; a GPU does it faster than they.
    """
    return _collate_and_change if device.type == "cpu" else collate


def _collate_and_change(samples: Any) -> dict[str, Any]:
    return finish_batch(collate(samples))


def finish_batch(batch: dict[str, Any], processor: ImageProcessor | None = None) -> dict[str, Any]:
    """What is done to a whole batch on the device where it is: mirror images, colours, normalising.

    Args:
        batch: as `collate` gives it; it stays as it is.
        processor: normalises uint8 images; unset: they stay uint8.
    """
    batch = dict(batch)
    if (changes := batch.pop("changes", None)) is not None:
        batch["pixel_values"], batch["labels"] = apply_changes(batch["pixel_values"], batch["labels"], changes)
    if processor is not None and batch["pixel_values"].dtype == torch.uint8:
        batch["pixel_values"] = normalize(batch["pixel_values"], processor)
    return batch


def class_pixels(dataset: Iterable[dict[str, torch.Tensor]], num_labels: int) -> torch.Tensor:
    """(C,) int64: the pixels of each class in a data set as `prepare` gives it."""
    counts = torch.zeros(256, dtype=torch.int64)
    for sample in dataset:
        counts += torch.bincount(sample["labels"].flatten(), minlength=256)
    return counts[:num_labels]

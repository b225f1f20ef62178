"""From image and mask files to what a model is fed: read, resize, augment, batch, normalise.

The image processor that is saved with a model is the one place that says how an image is resized and normalised. The
same steps run here, bit for bit as the processor does them on a CPU, but in two places: where files are read, images
are resized and stay uint8; where a batch is used, it is normalised (`normalize`).
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Any, Literal

import numpy as np
import torch
from datasets import Dataset
from datasets import Image as ImageFeature
from torchvision.tv_tensors import Image, Mask
from transformers import BaseImageProcessor, BeitImageProcessor, SegformerImageProcessor, ViTImageProcessor
from transformers.image_utils import SizeDict

from hfseg.data.augment import Augmentation, augment, resize_mask
from hfseg.errors import InputError
from hfseg.images import check_pair, describe, read_image, read_mask
from hfseg.labels import Labels

ImageProcessor = Any  # BaseImageProcessor, which does not declare the settings that its subclasses have

# These resize and normalise, and do nothing else unless a setting says so.
PLAIN_PROCESSORS = (SegformerImageProcessor, BeitImageProcessor, ViTImageProcessor)


def build_processor(
    image_size: Sequence[int],
    mean: Sequence[float] = (0.485, 0.456, 0.406),
    std: Sequence[float] = (0.229, 0.224, 0.225),
) -> BaseImageProcessor:
    """The image processor that training uses and the bundle keeps.

    Args:
        image_size: (height, width) in pixels that every image is resized to, bilinear.
        mean: of the red, green and blue channel, for pixels between 0 and 1; unset: ImageNet's.
        std: the same.
    """
    return SegformerImageProcessor(
        size={"height": int(image_size[0]), "width": int(image_size[1])},
        image_mean=list(mean),
        image_std=list(std),
        do_convert_rgb=True,  # else grey, palette and RGBA pictures fail or come out wrong
        do_reduce_labels=False,  # Labels says what raw mask values mean
    )


def is_plain(processor: ImageProcessor) -> bool:
    """Whether a processor only resizes to one height and width and normalises, so that the two can be done apart."""
    return (
        type(processor) in PLAIN_PROCESSORS
        and bool(processor.do_resize)
        and set(dict(processor.size)) == {"height", "width"}
        and not getattr(processor, "do_center_crop", None)
        and not getattr(processor, "do_pad", None)
    )


def normalize(pixel_values: torch.Tensor, processor: ImageProcessor) -> torch.Tensor:
    """Rescales and normalises resized images as the processor does, on the device where they are.

    Args:
        pixel_values: (B, 3, H, W) or (3, H, W) uint8.
        processor: one for which `is_plain` holds.

    Returns:
        The same shape, float32; on a CPU equal to the processor's own result bit for bit.
    """
    assert is_plain(processor) and pixel_values.dtype == torch.uint8
    factor = processor.rescale_factor if processor.do_rescale else None
    if not processor.do_normalize:
        return pixel_values.float() if factor is None else pixel_values * factor
    mean, std = _pixel_mean_std(tuple(processor.image_mean), tuple(processor.image_std), factor, pixel_values.device)
    return pixel_values.float().sub_(mean).div_(std)


@lru_cache(maxsize=32)  # kept on the device: a copy at each step would make the host wait for it
def _pixel_mean_std(
    mean: tuple[float, ...], std: tuple[float, ...], factor: float | None, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and std of uint8 pixels, each (3, 1, 1) float32."""
    scale = 1.0 if factor is None else 1.0 / factor
    return tuple((torch.tensor(v, device=device) * scale).view(-1, 1, 1) for v in (mean, std))  # type: ignore


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
        resolution: size of the labels. input: that of the pixel values; native: the mask file's own.
        cache_bytes: memory in which each process keeps samples that were read and resized, for later epochs.

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
        cache_bytes: int = 512 * 2**20,
    ) -> None:
        if resolution not in ("input", "native"):
            raise InputError(f"resolution is {resolution!r}; allowed are 'input' and 'native'.")
        if seed < 0:
            raise InputError(f"seed is {seed}; give 0 or more.")
        self.labels, self.processor, self.seed, self.resolution = labels, processor, seed, resolution
        self.augmentation = (augmentation if train else None) or Augmentation()
        assert resolution == "input" or not self.augmentation.changes_size, "native masks are for evaluation"
        self.plain, self.train = is_plain(processor), train
        _check_processor(processor, self.plain, self.augmentation)
        self.size = (processor.size["height"], processor.size["width"]) if self.plain else None
        self.crop_size = self.augmentation.crop_size or (self.size if self.augmentation.scale_jitter else None)
        self.fill = pad_color(processor) if self.plain else [0, 0, 0]
        self.cache_bytes = self._free_bytes = cache_bytes
        self._cache: dict[Any, tuple[Image, Mask]] = {}
        # Shared memory: workers that live through many epochs see the number change.
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Another epoch draws other random numbers; running DataLoader workers see it as well."""
        self._epoch.fill_(epoch)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_cache": {}, "_free_bytes": self.cache_bytes}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._epoch.share_memory_()  # a worker's is shared already, a copy's is not

    def __call__(self, batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        """Columns to columns.

        Args:
            batch: `image` and `mask` as `datasets` gives them, encoded or PIL, and `sample_index`.

        Returns:
            `pixel_values`, each (3, h, w) uint8, or float32 where the processor is not plain; `labels`, each (H, W)
            uint8, class id or 255; in training `files`, each image's path and index.

        Raises:
            InputError: a file that can't be read, sizes that differ, mask values that belong to no class.
        """
        samples = [self._sample(*row) for row in zip(batch["image"], batch["mask"], batch["sample_index"])]
        columns: dict[str, list[Any]] = {"pixel_values": [i for i, _ in samples], "labels": [m for _, m in samples]}
        if self.train:  # named where a step goes wrong
            columns["files"] = [f"{describe(i)} ({n})" for i, n in zip(batch["image"], batch["sample_index"])]
        return columns

    def _sample(self, image_source: Any, mask_source: Any, sample_index: int) -> tuple[torch.Tensor, torch.Tensor]:
        rng = np.random.default_rng([self.seed, int(self._epoch), sample_index])
        if self.augmentation.scale_jitter is None:
            image, mask = self._resized(image_source, mask_source)
        else:
            assert self.size is not None
            smallest, largest = self.augmentation.scale_jitter
            factor = rng.uniform(smallest, largest)
            height, width = (max(round(side * factor), 1) for side in self.size)
            image, mask = self._resize(*self._read(image_source, mask_source), (height, width))
        image, mask = augment(image, mask, self.augmentation, rng, self.crop_size, self.fill)
        pixel_values = image.as_subclass(torch.Tensor)
        if not self.plain:
            pixel_values = call_processor(self.processor, pixel_values, describe(image_source))
            if self.resolution == "input":
                mask = resize_mask(mask, pixel_values.shape[-2:])
        return pixel_values, mask.as_subclass(torch.Tensor)

    def _resized(self, image_source: Any, mask_source: Any) -> tuple[Image, Mask]:
        """A pair at the processor's size, from memory where it is there; at its own, if the processor isn't plain."""
        if self.size is None:
            return self._read(image_source, mask_source)
        key = _identity(image_source), _identity(mask_source)
        if key in self._cache:
            image, mask = self._cache[key]
        else:
            image, mask = self._resize(*self._read(image_source, mask_source), self.size)
            num_bytes = image.numel() + mask.numel()
            if None not in key and num_bytes <= self._free_bytes:
                self._cache[key] = image, mask
                self._free_bytes -= num_bytes
        return image.clone(), mask.clone()

    def _read(self, image_source: Any, mask_source: Any) -> tuple[Image, Mask]:
        pixels, raw = read_image(image_source), read_mask(mask_source)
        check_pair(pixels, raw, mask_source)
        ids = self.labels.encode(raw, source=describe(mask_source))
        return Image(torch.from_numpy(pixels).permute(2, 0, 1)), Mask(torch.from_numpy(ids))

    def _resize(self, image: Image, mask: Mask, size: tuple[int, int]) -> tuple[Image, Mask]:
        size_dict = SizeDict(height=size[0], width=size[1])
        image = self.processor.resize(image, size_dict, resample=self.processor.resample)
        return image, resize_mask(mask, size) if self.resolution == "input" else mask


def prepare(dataset: Dataset, transform: SegTransform) -> Dataset:
    """A data set whose rows are what a model is fed; the one given stays as it is.

    Args:
        dataset: with columns `image` and `mask`. Its order numbers the samples, unless it has a `sample_index` column.
        transform: applied as rows are read.
    """
    if "sample_index" not in dataset.column_names:
        dataset = dataset.add_column("sample_index", np.arange(len(dataset)))
    dataset = dataset.select_columns(["image", "mask", "sample_index"])
    for name in ("image", "mask"):
        dataset = dataset.cast_column(name, ImageFeature(decode=False))  # hfseg.images decodes, and names bad files
    dataset.set_transform(transform)
    return dataset


def collate(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Samples to a batch.

    Returns:
        `pixel_values` (B, 3, H, W); `labels` (B, H, W) uint8, or a list of (H, W) where their sizes differ; `files`,
        where the samples have names.

    Raises:
        InputError: images of different sizes.
    """
    images, labels = ([sample[name] for sample in samples] for name in ("pixel_values", "labels"))
    if len(sizes := sorted({tuple(image.shape[-2:]) for image in images})) > 1:
        raise InputError(
            f"Images of one batch must have one size, but here are {' and '.join(f'{h} x {w}' for h, w in sizes[:3])}: "
            "the image processor does not bring them to one. Set image_size, or use a batch size of 1."
        )
    one_size = len({mask.shape for mask in labels}) == 1
    files = {"files": [sample["files"] for sample in samples]} if "files" in samples[0] else {}
    return {"pixel_values": torch.stack(images), "labels": torch.stack(labels) if one_size else labels, **files}


def class_pixels(dataset: Iterable[dict[str, torch.Tensor]], num_labels: int) -> torch.Tensor:
    """(C,) int64: the pixels of each class in a data set as `prepare` gives it."""
    counts = torch.zeros(256, dtype=torch.int64)
    for sample in dataset:
        counts += torch.bincount(sample["labels"].flatten(), minlength=256)
    return counts[:num_labels]


def pad_color(processor: ImageProcessor) -> list[int]:
    """The RGB colour in 0..255 that is nearest to 0 after normalising."""
    if not processor.do_normalize:
        return [0, 0, 0]
    scale = 1 / processor.rescale_factor if processor.do_rescale else 1
    return [min(max(round(value * scale), 0), 255) for value in processor.image_mean]


def _check_processor(processor: ImageProcessor, plain: bool, augmentation: Augmentation) -> None:
    name = type(processor).__name__
    for option in ("do_center_crop", "do_pad"):
        if getattr(processor, option, None):
            raise InputError(
                f"The image processor ({name}) has {option}, and masks would not line up with predictions. "
                f"Set {option} to false in its preprocessor_config.json, or set image_size."
            )
    if augmentation.changes_size and not plain:
        raise InputError(
            "crop_size and scale_jitter need an image processor that resizes to a height and a width, which this "
            f"{name} does not. Leave them out, or set image_size."
        )


def call_processor(processor: ImageProcessor, image: torch.Tensor, source: str) -> torch.Tensor:
    """(3, H, W) uint8 to (3, h, w) float32 by the processor itself."""
    pixel_values = processor(images=[image], input_data_format="channels_first", return_tensors="pt")["pixel_values"]
    if pixel_values.ndim != 4 or pixel_values.shape[:2] != (1, 3):
        raise InputError(
            f"{source}: the image processor {type(processor).__name__} gives {tuple(pixel_values.shape)}, where "
            "(1, 3, height, width) is needed. Set image_size."
        )
    return pixel_values[0].float()


def _identity(source: Any) -> Any:
    """What tells one picture from another: its path, or a digest of its bytes; None where neither is at hand."""
    if not isinstance(source, dict):
        return None
    return blake2b(source["bytes"]).digest() if source.get("bytes") is not None else source.get("path")

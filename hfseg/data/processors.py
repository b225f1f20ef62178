"""The image processor that is saved with a model: the one place that says how an image is resized and normalised."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from transformers import BaseImageProcessor, BeitImageProcessor, SegformerImageProcessor, ViTImageProcessor

from hfseg.errors import InputError

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
    if pixel_values.device.type == "cpu":
        # By numpy, with the same roundings: torch's threads would spin beside the processes that read files.
        pixels = pixel_values.numpy().astype(np.float32)
        pixels -= mean.numpy()
        pixels /= std.numpy()
        return torch.from_numpy(pixels)
    return pixel_values.float().sub_(mean).div_(std)


@lru_cache(maxsize=32)  # kept on the device: a copy at each step would make the host wait for it
def _pixel_mean_std(
    mean: tuple[float, ...], std: tuple[float, ...], factor: float | None, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and std of uint8 pixels, each (3, 1, 1) float32."""
    scale = 1.0 if factor is None else 1.0 / factor
    return tuple((torch.tensor(v, device=device) * scale).view(-1, 1, 1) for v in (mean, std))  # type: ignore


def pad_color(processor: ImageProcessor) -> list[int]:
    """The RGB colour in 0..255 that is nearest to 0 after normalising."""
    if not processor.do_normalize:
        return [0, 0, 0]
    scale = 1 / processor.rescale_factor if processor.do_rescale else 1
    return [min(max(round(value * scale), 0), 255) for value in processor.image_mean]


def check_processor(processor: ImageProcessor, changes_size: bool) -> None:
    """Refuses a processor that cuts or pads, or, where training changes the size, one that is not plain."""
    name = type(processor).__name__
    for option in ("do_center_crop", "do_pad"):
        if getattr(processor, option, None):
            raise InputError(
                f"The image processor ({name}) has {option}, and masks would not line up with predictions. "
                f"Set {option} to false in its preprocessor_config.json, or set image_size."
            )
    if changes_size and not is_plain(processor):
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

"""What a recipe says of its data."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from hfseg.errors import InputError
from hfseg.strict_json import parse_json

LONGEST_SIDE = 16384  # of what a model is fed, in pixels: more is a slip of the finger


def option(help: str, default: Any = None) -> Any:
    """A dataclass field whose help text is the option's one description."""
    return field(default=default, metadata={"help": help})


@dataclass
class DataArguments:
    """What is learned from."""

    dataset: str = option("pets, cityscapes, folder, synthetic, or a data set on the Hub: user/name.", "folder")
    data_dir: str | None = option("Folder that holds the data set; unset: it is downloaded where that is possible.")
    image_size: list[int] | None = option(
        "Input size of the model: height and width in pixels, or one number for a square. Unset: 512."
    )
    validation_fraction: float | None = option(
        "Share of the training images held out for validation where none are given; unset: 0.1."
    )
    split_seed: int | None = option("Seed of that split and of max_*_samples, apart from `seed`; unset: 0.")
    max_train_samples: int | None = option("Train on this many images, drawn at random with split_seed.")
    max_eval_samples: int | None = option("Validate and test on this many images, drawn at random with split_seed.")
    num_images: int | None = option("synthetic: number of training images to draw.")
    classes: list[str] | None = option("folder, Hub: class names in the order of their ids.")
    colors: str | None = option("folder, Hub: JSON table of RGB masks, class name -> [r, g, b].")
    ignore_values: list[int] | None = option("folder, Hub: raw mask values that are ignored.")
    label_map: str | None = option("folder, Hub: JSON table, raw mask value -> class id or name.")
    reduce_zero_label: bool | None = option("folder, Hub: raw value 0 is ignored and the others count from 1 (ADE20K).")
    image_glob: str | None = option("folder: where images lie, as 'images/{split}/*.jpg'.")
    mask_glob: str | None = option("folder: where an image's mask lies, as 'masks/{split}/{stem}.png'.")
    image_column: str | None = option("Hub: column that holds the images; unset: by its name.")
    mask_column: str | None = option("Hub: column that holds the masks; unset: by its name.")
    dataset_config: str | None = option("Hub: configuration of the data set, where it has several.")
    dataset_revision: str | None = option("Hub: branch, tag or commit of the data set; unset: main.")
    label_files: Literal["labelIds", "labelTrainIds"] | None = option(
        "cityscapes: label files as downloaded, or those with train ids; unset: labelIds."
    )
    boundary: Literal["class", "ignore"] | None = option("pets: the border is a class of its own, or ignored.")
    binary: bool | None = option("pets: two classes, the border counted as pet.")
    streaming: bool | None = option(
        "Parquet on the Hub, or in data_dir with dataset folder: read the training images as a stream; none are kept."
    )
    stream_buffer: int | None = option(
        "streaming: each reader draws the next image out of so many; unset: 1000; 0: the order of the files."
    )
    on_bad_sample: Literal["stop", "skip"] = option(
        "A sample that can't be used: stop, or skip (go on without it; more than 1 % of a split stops).", "stop"
    )
    cache: Literal["none", "resized"] | None = option(
        "resized: read and resize images once, into files of HF_DATASETS_CACHE; none: each time. Unset: resized, where "
        "that takes at most 1 GiB and a tenth of the free disk."
    )
    reduced_jpeg: bool = option(
        "Decode training JPEGs at 1/2, 1/4 or 1/8 of their size, where that is no smaller than the input: faster for "
        "large photographs that are not cached; pixels differ a little from the image processor's.",
        False,
    )
    scale_jitter: list[float] | None = option("Augmentation: random scale between these two factors, as 0.5 2.0.")
    crop_size: list[int] | None = option("Augmentation: random crop of this height and width (or one number).")
    crop_max_class_share: float = option(
        "No class covers more of a crop than this, where ten tries can avoid it.", 0.75
    )
    horizontal_flip: float = option("Augmentation: probability of a mirror image.", 0.0)
    photometric_distortion: bool = option("Augmentation: random brightness, contrast, saturation and hue.", False)

    def __post_init__(self) -> None:
        self.image_size = _height_width("image_size", self.image_size)
        self.crop_size = _height_width("crop_size", self.crop_size)
        self.label_map = _json_table("label_map", self.label_map)
        self.colors = _json_table("colors", self.colors)
        if self.scale_jitter is not None and (len(self.scale_jitter) != 2 or not min(self.scale_jitter) > 0):
            raise InputError(f"scale_jitter is {self.scale_jitter}; give two factors above 0, as 0.5 2.0.")
        for name in ("validation_fraction", "horizontal_flip", "crop_max_class_share"):
            if (value := getattr(self, name)) is not None and not 0 <= value <= 1:
                raise InputError(f"{name} is {value}; it must lie between 0 and 1.")
        for name in ("max_train_samples", "max_eval_samples", "num_images"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise InputError(f"{name} is {value}; give a number of images above 0, or leave it out.")

    def loader_options(self) -> dict[str, Any]:
        """The options that `hfseg.data.load` hands to the data set's loader."""
        names = [
            *("data_dir", "validation_fraction", "split_seed", "num_images", "classes", "colors", "ignore_values"),
            *("label_map", "reduce_zero_label", "image_glob", "mask_glob", "boundary", "binary"),
            *("image_column", "mask_column", "dataset_config", "dataset_revision", "label_files", "on_bad_sample"),
            *("streaming", "stream_buffer"),
        ]
        return {name: getattr(self, name) for name in names}


def _height_width(name: str, value: Sequence[int] | None) -> Any:
    if value is None:
        return None
    if len(value) not in (1, 2) or min(value) < 1 or max(value) > LONGEST_SIDE:
        raise InputError(
            f"{name} is {list(value)}; give [height, width] or one number, in pixels, {LONGEST_SIDE} at most."
        )
    return (value[0], value[-1])


def _json_table(name: str, value: str | None) -> Any:
    if value is None:
        return None
    table = parse_json(value, name)
    if not isinstance(table, dict):
        raise InputError(f'{name} is {value!r}; give a JSON object, as {{"7": 0, "8": 255}}.')
    return table

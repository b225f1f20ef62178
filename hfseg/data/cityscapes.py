"""Cityscapes: street scenes, 19 classes, from the official folders `leftImg8bit/` and `gtFine/`."""

import logging
import os
from pathlib import Path

from datasets import Dataset, DatasetDict, Image

from hfseg.errors import InputError
from hfseg.labels import IGNORE_INDEX, Labels

logger = logging.getLogger(__name__)

# Name, colour and raw id of the 19 classes that are trained and evaluated; every other raw id (0 to 33, and -1 for
# licence plates, 255 in an 8-bit file) is ignored. Source: cityscapesScripts, labels.py, which the data set publishes.
CLASSES = (
    ("road", (128, 64, 128), 7),
    ("sidewalk", (244, 35, 232), 8),
    ("building", (70, 70, 70), 11),
    ("wall", (102, 102, 156), 12),
    ("fence", (190, 153, 153), 13),
    ("pole", (153, 153, 153), 17),
    ("traffic light", (250, 170, 30), 19),
    ("traffic sign", (220, 220, 0), 20),
    ("vegetation", (107, 142, 35), 21),
    ("terrain", (152, 251, 152), 22),
    ("sky", (70, 130, 180), 23),
    ("person", (220, 20, 60), 24),
    ("rider", (255, 0, 0), 25),
    ("car", (0, 0, 142), 26),
    ("truck", (0, 0, 70), 27),
    ("bus", (0, 60, 100), 28),
    ("train", (0, 80, 100), 31),
    ("motorcycle", (0, 0, 230), 32),
    ("bicycle", (119, 11, 32), 33),
)
NUM_RAW_IDS = 34
SPLITS = {"train": "train", "validation": "val"}
IMAGE_END, MASK_END = "_leftImg8bit.png", "_gtFine_{}.png"
WHERE = (
    "Register and accept the licence at www.cityscapes-dataset.com, unpack leftImg8bit_trainvaltest.zip and "
    "gtFine_trainvaltest.zip into one folder, and give it as data_dir."
)


def load(
    data_dir: str | os.PathLike[str] | None = None, *, label_files: str = "labelIds"
) -> tuple[DatasetDict, Labels]:
    """Reads the official layout. The official test split has no public labels: measure on validation.

    Args:
        data_dir: the folder with `leftImg8bit/` and `gtFine/`.
        label_files: `labelIds` (34 raw ids, as downloaded) or `labelTrainIds` (made by cityscapesScripts).

    Returns:
        train and validation with `image` and `mask`, and the 19 classes with the official colours.

    Raises:
        InputError: no data_dir, a folder missing, or an image without its label file or the reverse.
    """
    root, labels = find_root(data_dir, label_files), build_labels(label_files)
    logger.info("cityscapes: the test images have no public labels; validation is what can be measured here")
    return DatasetDict({name: _load_split(root, split, label_files) for name, split in SPLITS.items()}), labels


def find_root(data_dir: str | os.PathLike[str] | None, label_files: str) -> Path:
    """The folder with `leftImg8bit/` and `gtFine/`; see `load`."""
    if data_dir is None:
        raise InputError(f"cityscapes can't be downloaded without an account. {WHERE}")
    if label_files not in ("labelIds", "labelTrainIds"):
        raise InputError(f"label_files is {label_files!r}; allowed are labelIds and labelTrainIds.")
    root = Path(data_dir).expanduser().absolute()
    if not root.is_dir():
        raise InputError(f"data_dir {data_dir} is no folder. {WHERE}")
    for folder in ("leftImg8bit", "gtFine"):
        if not (root / folder).is_dir():
            raise InputError(f"data_dir {root} has no folder {folder}/. {WHERE}")
    return root


def build_labels(label_files: str) -> Labels:
    """What the values of a kind of label file mean."""
    ids = None
    if label_files == "labelIds":
        ids = dict.fromkeys([*range(NUM_RAW_IDS), IGNORE_INDEX], IGNORE_INDEX)
        ids |= {raw: class_id for class_id, (_, _, raw) in enumerate(CLASSES)}
    return Labels([name for name, _, _ in CLASSES], palette=[color for _, color, _ in CLASSES], ids=ids)


def _load_split(root: Path, split: str, label_files: str) -> Dataset:
    image_end, mask_end = IMAGE_END, MASK_END.format(label_files)
    images = {p.name.removesuffix(image_end): p for p in (root / "leftImg8bit" / split).glob(f"*/*{image_end}")}
    masks = {p.name.removesuffix(mask_end): p for p in (root / "gtFine" / split).glob(f"*/*{mask_end}")}
    if not images:
        raise InputError(f"{root / 'leftImg8bit' / split} holds no <city>/*{image_end}. {WHERE}")
    other = "labelTrainIds" if label_files == "labelIds" else "labelIds"
    if not masks and next((root / "gtFine" / split).glob(f"*/*{MASK_END.format(other)}"), None) is not None:
        raise InputError(f"{root / 'gtFine' / split} holds {other} files alone: give --label_files {other}.")
    for found, others, what in ((images, masks, "label file"), (masks, images, "image")):
        if lacking := sorted(found.keys() - others.keys()):
            more = f" (and {len(lacking) - 1} more)" if len(lacking) > 1 else ""
            raise InputError(f"{found[lacking[0]]}{more} has no {what} *{mask_end if what != 'image' else image_end}.")
    names = sorted(images)
    columns = {"image": [str(images[n]) for n in names], "mask": [str(masks[n]) for n in names]}
    return Dataset.from_dict(columns).cast_column("image", Image()).cast_column("mask", Image())

"""A user's own pairs: `images/<split>/` and `masks/<split>/`, matched by name, and a file that names the classes."""

import glob
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict, Image

from hfseg.data.classes import check_some_masks, read_labels
from hfseg.data.splits import SPLITS, draw_held_out
from hfseg.errors import InputError
from hfseg.images import IMAGE_SUFFIXES
from hfseg.labels import Labels

logger = logging.getLogger(__name__)

IMAGE_GLOB, MASK_GLOB = "images/{split}/*", "masks/{split}/{stem}.*"
LAYOUT = "images/<split>/ and masks/<split>/ with <split> train, validation or test, or image_glob and mask_glob"


def load(
    data_dir: str | os.PathLike[str] | None = None,
    *,
    classes: Sequence[str] | None = None,
    colors: Mapping[str, Any] | None = None,
    ignore_values: Sequence[int] | None = None,
    label_map: Mapping[str | int, int | str] | None = None,
    reduce_zero_label: bool = False,
    image_glob: str | None = None,
    mask_glob: str | None = None,
    validation_fraction: float = 0.1,
    split_seed: int = 0,
) -> tuple[DatasetDict, Labels]:
    """Pairs the files of a folder, and reads a few masks; the others are checked as samples are read.

    Splits are named train (training), validation (val, valid, dev) and test (testing); not all of them need be there.

    Args:
        data_dir: the folder.
        classes, colors, ignore_values, label_map, reduce_zero_label: see `hfseg.data.classes.read_labels`.
        image_glob: where images lie below data_dir. `{split}` stands for a split's name, `*` for anything but a
            slash; without `{split}`, all images are train. Default: images/{split}/*
        mask_glob: where masks lie. With `{stem}`, the mask of an image is the one that has the image's name without
            its suffix in this place. Without, its `*` stand for the same, in order, as those of `image_glob`:
            "img/{split}/*/*_rgb.png" and "gt/{split}/*/*_ids.png". Default: masks/{split}/{stem}.*
        validation_fraction: share of train that is held out where there is no validation split, 0 to 1.
        split_seed: another seed holds out other images.

    Returns:
        The splits there are with `image` and `mask`, in the order of the names, and the labels.

    Raises:
        InputError: no such folder, no classes, a split without images, images without mask or masks without image,
            two files of one name, a mask that can't be used.
    """
    if not 0 <= validation_fraction <= 1:
        raise InputError(f"validation_fraction is {validation_fraction}; it must lie between 0 and 1.")
    root, image_glob, mask_glob = find_root(data_dir, image_glob, mask_glob)
    labels = read_labels(
        root,
        classes=classes,
        colors=colors,
        ignore_values=ignore_values,
        label_map=label_map,
        reduce_zero_label=reduce_zero_label,
    )
    pairs = list_pairs(root, image_glob, mask_glob)
    if "train" in pairs and "validation" not in pairs:
        pairs = hold_out(pairs, validation_fraction, split_seed)
    for split_pairs in pairs.values():
        check_some_masks([mask for _, mask in split_pairs], labels)
    dataset = DatasetDict()
    for split, split_pairs in pairs.items():
        columns = {"image": [image for image, _ in split_pairs], "mask": [mask for _, mask in split_pairs]}
        dataset[split] = Dataset.from_dict(columns).cast_column("image", Image()).cast_column("mask", Image())
    return dataset, labels


def find_root(
    data_dir: str | os.PathLike[str] | None, image_glob: str | None, mask_glob: str | None
) -> tuple[Path, str, str]:
    """The folder and both templates, checked; see `load`."""
    if data_dir is None:
        raise InputError(f"The data set folder needs data_dir: a folder with {LAYOUT}.")
    if (image_glob is None) != (mask_glob is None):
        raise InputError("image_glob and mask_glob belong together: give both or neither.")
    root = Path(data_dir).expanduser().absolute()
    if not root.is_dir():
        raise InputError(f"data_dir {data_dir} is no folder. Give one with {LAYOUT}.")
    image_glob, mask_glob = image_glob or IMAGE_GLOB, mask_glob or MASK_GLOB
    _check_templates(image_glob, mask_glob)
    return root, image_glob, mask_glob


def list_pairs(root: Path, image_glob: str, mask_glob: str) -> dict[str, list[tuple[str, str]]]:
    """Split -> (image path, mask path), sorted; the templates are explained in `load`."""
    by_stem = "{stem}" in mask_glob
    splits = SPLITS if "{split}" in image_glob else {"train": ("",)}
    pairs = {}
    used: set[str] = set()
    every_mask: set[str] = set()
    for split, aliases in splits.items():
        images = _list_split(root, image_glob, aliases, by_stem)
        masks = _list_split(root, mask_glob, aliases if "{split}" in mask_glob else ("",), by_stem)
        every_mask |= set(masks.values())
        used |= {masks[key] for key in images if key in masks}
        if not images:
            _check_empty(root, image_glob, aliases)
            continue
        missing = [images[key] for key in sorted(images) if key not in masks]
        if missing:
            where = ", ".join(dict.fromkeys(mask_glob.replace("{split}", alias) for alias in aliases))
            raise InputError(f"Images without a mask: {_name_some(missing, root)}. Masks are looked for in {where}.")
        pairs[split] = [(images[key], masks[key]) for key in sorted(images)]
    if not pairs:
        folders = sorted(entry.name for entry in root.iterdir() if entry.is_dir())
        raise InputError(
            f"{root} holds no images in {image_glob}; its folders are {folders}. Needed: {LAYOUT}; pictures end with "
            f"{', '.join(IMAGE_SUFFIXES)}."
        )
    if lonely := sorted(every_mask - used):
        raise InputError(
            f"Masks without an image: {_name_some(lonely, root)}. Images are looked for in {image_glob}. Add the "
            "images, or remove the masks."
        )
    return pairs


def _check_templates(image_glob: str, mask_glob: str) -> None:
    for name, template in (("image_glob", image_glob), ("mask_glob", mask_glob)):
        if "**" in template or set("?[]") & set(template):
            raise InputError(f"{name} is {template!r}; only *, {{split}} and {{stem}} have a meaning, and ** has none.")
        if os.path.isabs(template) or ".." in template.split("/"):
            raise InputError(f"{name} is {template!r}; give it relative to data_dir, and without '..'.")
    if "{stem}" in image_glob or mask_glob.count("{stem}") > 1:
        raise InputError("{stem} stands once, in mask_glob, for the image's name without its suffix.")
    if "{stem}" not in mask_glob and image_glob.count("*") != mask_glob.count("*"):
        raise InputError(
            f"image_glob {image_glob!r} and mask_glob {mask_glob!r} must have the same number of *, since they stand "
            "for the same; or write {stem} in mask_glob."
        )
    if "{split}" in mask_glob and "{split}" not in image_glob:
        raise InputError("mask_glob has {split}, but image_glob has not. Write it in both.")


def _list_split(root: Path, template: str, aliases: Sequence[str], by_stem: bool) -> dict[tuple[str, ...], str]:
    """What pairs an image with its mask -> path, under all folder names of a split."""
    files: dict[tuple[str, ...], str] = {}
    for key, path in match_files(root, template, aliases, by_stem):
        if key in files:
            raise InputError(f"{files[key]} and {path} have the same name: which is meant? Remove or rename one.")
        files[key] = path
    return files


def match_files(
    root: Path, template: str, aliases: Sequence[str], by_stem: bool
) -> Iterator[tuple[tuple[str, ...], str]]:
    """(what pairs an image with its mask, path) of each picture under the folder names of a split."""
    for alias in aliases:
        pattern = template.replace("{split}", alias)
        # (.*) would run over slashes; {stem} is the one named group.
        regex = re.escape(pattern).replace(r"\*", "([^/]*)").replace(r"\{stem\}", "(?P<stem>[^/]*)")
        for found in glob.iglob(pattern.replace("{stem}", "*"), root_dir=root):
            found = found.replace(os.sep, "/")
            stem, suffix = os.path.splitext(found.rpartition("/")[2])
            match = re.fullmatch(regex, found)
            if suffix.lower() in IMAGE_SUFFIXES and match is not None:
                yield (match.groupdict().get("stem", stem),) if by_stem else match.groups(), str(root / found)


def _check_empty(root: Path, image_glob: str, aliases: Sequence[str]) -> None:
    """A split's folder that is there and holds no image is a mistake; no folder, no split."""
    for alias in aliases:
        parts = image_glob.replace("{split}", alias).split("/")
        fixed = parts[: next((i for i, part in enumerate(parts) if "*" in part), -1)]
        if alias in fixed and (root / Path(*fixed)).is_dir():
            raise InputError(
                f"{root / Path(*fixed)} holds no images; pictures end with {', '.join(IMAGE_SUFFIXES)}. Add some, or "
                "remove the folder."
            )


def hold_out(pairs: dict[str, list[tuple[str, str]]], fraction: float, seed: int) -> dict[str, list[tuple[str, str]]]:
    """Moves a share of train into a validation split."""
    train = pairs["train"]
    held_out = draw_held_out(len(train), fraction, seed)
    if not held_out:
        return pairs
    logger.info(f"folder: no validation split; {len(held_out)} of {len(train)} training images are held out for it")
    kept = set(range(len(train))) - set(held_out)
    parts = {"train": [train[i] for i in sorted(kept)], "validation": [train[i] for i in held_out]}
    return parts | {split: part for split, part in pairs.items() if split != "train"}


def _name_some(paths: Sequence[str], root: Path) -> str:
    names = ", ".join(os.path.relpath(path, root) for path in paths[:3])
    return f"{names}, ... ({len(paths)} in all)" if len(paths) > 3 else names

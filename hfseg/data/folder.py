"""A user's own pairs: `images/<split>/` and `masks/<split>/`, matched by name, and a file that names the classes."""

import glob
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, DatasetDict, Features, Image

from hfseg.data.classes import check_some_masks, read_labels
from hfseg.data.splits import SPLITS, draw_held_out
from hfseg.errors import InputError
from hfseg.images import IMAGE_SUFFIXES
from hfseg.labels import Labels

logger = logging.getLogger(__name__)

IMAGE_GLOB, MASK_GLOB = "images/{split}/*", "masks/{split}/{stem}.*"
FEATURES = Features({"image": Image(), "mask": Image()})
CHUNK = 10_000
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
    on_bad_sample: str = "stop",
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
        on_bad_sample: see `hfseg.data.classes.check_some_masks`.

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
        pairs = _hold_out(pairs, validation_fraction, split_seed)
    dataset = DatasetDict()
    for split, table in pairs.items():
        columns = {name: pc.binary_join_element_wise(f"{root}{os.sep}", table[name], "") for name in ("image", "mask")}
        dataset[split] = Dataset.from_dict(columns, features=FEATURES)
        check_some_masks(dataset[split].cast_column("mask", Image(decode=False))["mask"], labels, on_bad_sample)
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


def list_pairs(root: Path, image_glob: str, mask_glob: str) -> dict[str, pa.Table]:
    """Split -> `image` and `mask`, paths below `root`, sorted by name; the templates are explained in `load`.

    The paths stay in Arrow's memory, where one takes as many bytes as it has letters: 200,000 pairs fit into 30 MB.
    """
    by_stem = "{stem}" in mask_glob
    splits = SPLITS if "{split}" in image_glob else {"train": ("",)}
    pairs = {}
    lonely: pa.ChunkedArray | None = None
    for split, aliases in splits.items():
        images = _list_split(root, image_glob, aliases, by_stem)
        masks = _list_split(root, mask_glob, aliases if "{split}" in mask_glob else ("",), by_stem)
        unused = masks.filter(pc.invert(pc.is_in(masks["key"], images["key"].combine_chunks())))["path"]
        if lonely is None or "{split}" in mask_glob:
            lonely = unused if lonely is None else pa.chunked_array(lonely.chunks + unused.chunks, pa.string())
        else:  # one folder of masks for all splits: those that none of them uses
            lonely = lonely.filter(pc.is_in(lonely, unused.combine_chunks()))
        if not len(images):
            _check_empty(root, image_glob, aliases)
            continue
        position = pc.index_in(images["key"], masks["key"].combine_chunks())
        if position.null_count:
            missing = images.filter(pc.is_null(position))["path"]
            where = ", ".join(dict.fromkeys(mask_glob.replace("{split}", alias) for alias in aliases))
            raise InputError(f"Images without a mask: {_name_some(missing)}. Masks are looked for in {where}.")
        pairs[split] = pa.table({"image": images["path"], "mask": masks["path"].take(position)})
    if not pairs:
        folders = sorted(entry.name for entry in root.iterdir() if entry.is_dir())
        raise InputError(
            f"{root} holds no images in {image_glob}; its folders are {folders}. Needed: {LAYOUT}; pictures end with "
            f"{', '.join(IMAGE_SUFFIXES)}."
        )
    if lonely is not None and len(lonely):
        raise InputError(
            f"Masks without an image: {_name_some(pc.take(lonely, pc.sort_indices(lonely)))}. Images are looked for in "
            f"{image_glob}. Add the images, or remove the masks."
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


def _list_split(root: Path, template: str, aliases: Sequence[str], by_stem: bool) -> pa.Table:
    """As `match_files`, whose keys must differ."""
    files = match_files(root, template, aliases, by_stem)
    if len(pc.unique(files["key"])) < len(files):
        keys = files["key"].to_pylist()
        i = next(i for i in range(1, len(keys)) if keys[i] == keys[i - 1])
        first, second = (root / str(files["path"][k]) for k in (i - 1, i))
        raise InputError(f"{first} and {second} have the same name: which is meant? Remove or rename one.")
    return files


def match_files(root: Path, template: str, aliases: Sequence[str], by_stem: bool) -> pa.Table:
    """`key`, which pairs an image with its mask, and `path`, under all folder names of a split; sorted by key."""
    suffix = rf"(?i)\.({'|'.join(s[1:] for s in IMAGE_SUFFIXES)})$"
    tables = []
    for alias in aliases:
        pattern = template.replace("{split}", alias)
        found = glob.iglob(pattern.replace("{stem}", "*"), root_dir=root)
        paths = _to_arrow(path.replace(os.sep, "/") for path in found)
        paths = paths.filter(pc.match_substring_regex(paths, suffix))
        if by_stem and "{stem}" not in pattern:
            regex = r"(?P<part0>[^/]*)\.[^./]*$"  # the name without its suffix
        elif by_stem:
            regex = "^" + re.escape(pattern).replace(r"\*", "[^/]*").replace(r"\{stem\}", "(?P<part0>[^/]*)") + "$"
        else:
            texts = re.escape(pattern).split(r"\*")
            parts = [f"(?P<part{i}>[^/]*){text}" for i, text in enumerate(texts[1:])]
            regex = f"^{texts[0]}{''.join(parts)}$"
        groups = pc.extract_regex(paths, regex).combine_chunks()
        names = [groups.type.field(i).name for i in range(groups.type.num_fields)]
        keys = pc.binary_join_element_wise(*(pc.struct_field(groups, name) for name in names), "/")
        tables.append(pa.table({"key": keys, "path": paths}).drop_null())
    return pa.concat_tables(tables).sort_by("key")


def _to_arrow(paths: Iterator[str]) -> pa.ChunkedArray:
    """Paths in Arrow's memory; only `CHUNK` of them at a time in Python's, which takes twice as much."""
    chunks = []
    try:
        while chunk := list(islice(paths, CHUNK)):
            chunks.append(pa.array(chunk, pa.string()))
    except UnicodeEncodeError as error:
        raise InputError(f"The file name {error.object!r} is not UTF-8. Rename the file.") from None
    return pa.chunked_array(chunks, pa.string())


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


def _hold_out(pairs: dict[str, pa.Table], fraction: float, seed: int) -> dict[str, pa.Table]:
    train = pairs["train"]
    held_out = draw_held_out(len(train), fraction, seed)
    if not held_out:
        return pairs
    logger.info(f"folder: no validation split; {len(held_out)} of {len(train)} training images are held out for it")
    kept = np.setdiff1d(np.arange(len(train)), held_out)
    parts = {"train": train.take(pa.array(kept)), "validation": train.take(pa.array(held_out))}
    return parts | {split: part for split, part in pairs.items() if split != "train"}


def _name_some(paths: pa.ChunkedArray) -> str:
    names = ", ".join(map(str, paths[:3].to_pylist()))
    return f"{names}, ... ({len(paths)} in all)" if len(paths) > 3 else names

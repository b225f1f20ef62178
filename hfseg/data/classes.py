"""What a data set says about its classes: classes.txt, id2label.json, colors.json, and the recipe's options."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hfseg.errors import InputError, near_names
from hfseg.images import describe, read_mask
from hfseg.labels import IGNORE_INDEX, Color, Labels
from hfseg.strict_json import parse_json

logger = logging.getLogger(__name__)

FILES = ("classes.txt", "id2label.json", "colors.json")
IGNORE = "ignore"  # in tables, the name of pixels that belong to no class
NUM_CHECKED_MASKS = 8
# What raw value 0 is called where it is no class: a list of names that begins so has not lost it yet.
ZERO_NAMES = ("background", "other", "others", "unlabeled", "unlabelled", "unknown", "void", "none", IGNORE)


def read_labels(
    root: Path | None,
    *,
    classes: Sequence[str] | None = None,
    colors: Mapping[str, Any] | None = None,
    ignore_values: Sequence[int] | None = None,
    label_map: Mapping[str | int, int | str] | None = None,
    reduce_zero_label: bool = False,
) -> Labels:
    """The labels of a folder; options go before files.

    Args:
        root: the folder, or None; may hold classes.txt (one name a line, in the order of the ids), id2label.json
            ({"0": name, ...}) and colors.json (as `colors`).
        classes: class names in the order of their ids.
        colors: for RGB masks, class name -> [r, g, b] or a list of several; the name "ignore" stands for ignored
            pixels. Without another source, its names are the classes. When every class has one, predictions are drawn
            in these colours.
        ignore_values: raw mask values that are ignored, besides 255.
        label_map: raw mask value -> class id, class name or "ignore"; the values that it leaves out are not allowed.
        reduce_zero_label: raw value 0 is ignored, and 1 is the first class; 255 stays ignored.

    Raises:
        InputError: no class names, two files that disagree, or a table that fits neither.
    """
    if colors is None and root is not None and (root / "colors.json").is_file():
        colors = _read_json(root / "colors.json")
    names = list(classes) if classes is not None else read_names(root, colors)
    if reduce_zero_label and names and names[0].lower() in ZERO_NAMES:
        logger.warning(
            f"reduce_zero_label ignores raw value 0, so that raw value 1 is {names[0]!r}, the first of {len(names)} "
            "classes. If that is the name of value 0, leave it out of the classes."
        )
    table, palette = _read_colors(colors or {}, names)
    ids = _build_ids(names, ignore_values or (), label_map, reduce_zero_label)
    return Labels(names, palette=palette, ids=ids, colors=table or None)


def read_names(root: Path | None, colors: Mapping[str, Any] | None) -> list[str]:
    """Class names from the folder's files."""
    found = {}
    if root is not None and (root / "classes.txt").is_file():
        found["classes.txt"] = _read_classes_txt(root / "classes.txt")
    if root is not None and (root / "id2label.json").is_file():
        found["id2label.json"] = _read_id2label(root / "id2label.json")
    if len(found) == 2 and found["classes.txt"] != found["id2label.json"]:
        raise InputError(f"classes.txt and id2label.json in {root} name different classes. Keep one of them.")
    if found:
        return next(iter(found.values()))
    if colors:
        return [name for name in colors if name != IGNORE]
    raise InputError(
        f"{root} has no classes.txt (one class name a line, in the order of the ids) and no id2label.json. Write one, "
        "or give classes."
    )


def _read_classes_txt(path: Path) -> list[str]:
    names = [line.strip() for line in _read_text(path).strip().splitlines()]
    if not all(names):
        raise InputError(f"{path} has an empty line, {names.index('') + 1}: a line's number is a class id. Remove it.")
    if not names:
        raise InputError(f"{path} is empty; write one class name a line, in the order of the ids.")
    return names


def _read_id2label(path: Path) -> list[str]:
    table = _read_json(path)
    ids = [str(i) for i in range(len(table))]
    if not table or set(table) != set(ids) or not all(isinstance(name, str) for name in table.values()):
        raise InputError(
            f'{path} must map the class ids 0, 1, 2, ... to names, as {{"0": "road", "1": "car"}}; its keys are '
            f"{sorted(table)[:8]}. Other raw values go into label_map."
        )
    return [table[i] for i in ids]


def _read_colors(colors: Mapping[str, Any], names: Sequence[str]) -> tuple[dict[Color, int], list[Color]]:
    """Colour -> class id, and the palette where every class has a colour."""
    table: dict[Color, int] = {}
    first: dict[int, Color] = {}
    for name, value in colors.items():
        class_id = _to_class_id(name, names, "colors")
        several = isinstance(value, Sequence) and len(value) > 0 and isinstance(value[0], Sequence)
        for color in value if several else [value]:
            if not (isinstance(color, Sequence) and len(color) == 3 and all(_is_byte(v) for v in color)):
                raise InputError(f"colors has {name}: {color!r}; give [r, g, b] with numbers from 0 to 255.")
            key = (color[0], color[1], color[2])
            if table.get(key, class_id) != class_id:
                raise InputError(f"colors gives {list(key)} to two classes, {name} among them. Each needs its own.")
            table[key] = class_id
            first.setdefault(class_id, key)
    complete = bool(names) and all(i in first for i in range(len(names)))
    return table, [first[i] for i in range(len(names))] if complete else []


def _build_ids(
    names: Sequence[str],
    ignore_values: Sequence[int],
    label_map: Mapping[str | int, int | str] | None,
    reduce_zero_label: bool,
) -> dict[int, int] | None:
    if label_map is not None and reduce_zero_label:
        raise InputError("label_map and reduce_zero_label exclude each other: write the shift into label_map.")
    if label_map is None and not reduce_zero_label and not ignore_values:
        return None
    if label_map is not None:
        ids = {_to_raw_value(raw): _to_class_id(value, names, "label_map") for raw, value in label_map.items()}
        ids.setdefault(IGNORE_INDEX, IGNORE_INDEX)
    elif reduce_zero_label:
        ids = {0: IGNORE_INDEX} | {i + 1: i for i in range(len(names))} | {IGNORE_INDEX: IGNORE_INDEX}
    else:
        ids = {i: i for i in range(len(names))} | {IGNORE_INDEX: IGNORE_INDEX}
    return ids | {_to_raw_value(raw): IGNORE_INDEX for raw in ignore_values}


def _to_raw_value(value: Any) -> int:
    try:
        return int(value)
    except (TypeError, ValueError):
        raise InputError(f"{value!r} in label_map or ignore_values is no mask value; give an integer.") from None


def _to_class_id(value: Any, names: Sequence[str], option: str) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if value in names:
        return list(names).index(value)
    if value == IGNORE:
        return IGNORE_INDEX
    near = near_names(str(value), [*names, IGNORE])
    raise InputError(f"{option} names {value!r}, but the classes are {', '.join(names)}, and {IGNORE!r}.{near}")


def check_some_masks(masks: Sequence[Any], labels: Labels, on_bad_sample: str = "stop") -> None:
    """Reads a few masks, so that a wrong table shows before a model is built.

    Args:
        masks: sources as `hfseg.images.read_mask` takes them; those between are not looked at.
        labels: read them.
        on_bad_sample: skip tolerates bad masks among them, unless they are the most: then the table is wrong.

    Raises:
        InputError: a mask that can't be read, or holds a value that belongs to no class.
    """
    values: set[int] = set()
    num_bad = 0
    picks = np.linspace(0, len(masks) - 1, min(NUM_CHECKED_MASKS, len(masks))).astype(int)
    for i in picks:
        source = masks[int(i)]
        try:
            raw = read_mask(source)
            labels.encode(raw, describe(source))
        except InputError as error:
            num_bad += 1
            if on_bad_sample == "stop" or 2 * num_bad > len(picks):
                raise InputError(f"{error} `hfseg check` lists all such files.") from error
            continue
        values |= set(np.unique(raw).tolist()) if raw.ndim == 2 else {-1}
    if values == {0, IGNORE_INDEX} and labels.ids is None and labels.num_labels > 1:
        logger.warning(
            f"{describe(masks[0])} and the others that were looked at hold 0 and 255 alone, and 255 is ignored. If it "
            f'means {labels.names[1]}, give label_map {{"0": 0, "255": 1}}.'
        )


def _is_byte(value: Any) -> bool:
    return isinstance(value, int) and 0 <= value <= 255


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")  # Windows editors put a mark in front
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text: {error}. Save it as UTF-8.") from error


def _read_json(path: Path) -> dict[str, Any]:
    table = parse_json(_read_text(path), path)
    if not isinstance(table, dict):
        raise InputError(f"{path} must hold a JSON object, but holds a {type(table).__name__}.")
    return table

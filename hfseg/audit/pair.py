"""One pair read from disk: what is wrong with it, and the numbers that the whole set is judged by.

Worker processes import this: no torch here, so that they start in a moment.
"""

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image

from hfseg.audit.sample import Issue, Sample
from hfseg.errors import InputError
from hfseg.images import UNREADABLE, describe, explain, open_image, read_image, read_mask
from hfseg.labels import IGNORE_INDEX, Labels

JPEG = (".jpg", ".jpeg", ".jpe", ".jfif")
SUFFIXES = {
    "JPEG": JPEG,
    "MPO": JPEG,
    "PNG": (".png",),
    "GIF": (".gif",),
    "BMP": (".bmp",),
    "DIB": (".bmp",),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
}
GREY_SIDE = 17  # gives 16 x 16 differences each way
# In real label maps, hardly any edge pixel lies between its neighbours' values; bilinear resizing puts many there. Of
# 356 masks of CamVid and Oxford-IIIT Pet at most 0.02 of the edge pixels; resized by 0.5 or 1.5, at least 0.25.
SOFT_SHARE, SOFT_PIXELS = 0.1, 8


@dataclass
class Finding:
    """What one pair shows.

    Args:
        issues: of its files.
        size: (height, width) of the image as it is trained, upright.
        pixels: (C + 1,) int64, the mask's pixels of each class, and last the ignored ones.
        raw_values: raw mask value or colour outside the classes -> pixels.
        grey: (17, 17) uint8, the image made small, which its perceptual hash comes from.
        digest: of the image file's bytes.
    """

    issues: list[Issue] = field(default_factory=list)
    size: tuple[int, int] | None = None
    pixels: np.ndarray | None = None
    raw_values: dict[str, int] = field(default_factory=dict)
    grey: np.ndarray | None = None
    digest: bytes = b""


def examine_all(samples: Sequence[Sample], labels: Labels) -> list[Finding]:
    """`examine` of each; what Pillow only warns of (odd EXIF tags) is no finding."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [examine(sample, labels) for sample in samples]


def examine(sample: Sample, labels: Labels) -> Finding:
    """Reads a pair's files whole."""
    found = Finding()
    image_turn = _examine_image(sample, found) if sample.image is not None else 1
    if sample.mask is not None:
        _examine_mask(sample, labels, found, image_turn)
    return found


# ---- the image ----
def _examine_image(sample: Sample, found: Finding) -> int:
    """Fills the image's part in, and returns its EXIF orientation."""
    turn, source, name = 1, sample.image, sample.name
    try:
        found.digest = _digest(source)
        with open_image(source) as image:
            _check_format(image, source, name, found)
            turn = _read_turn(image)
            height, width = image.height, image.width
            _check_channels(image, name, found)
            found.grey = _to_grey(image)
        found.size = (width, height) if turn in (5, 6, 7, 8) else (height, width)
    except (InputError, *UNREADABLE) as error:
        found.issues.append(_to_issue(source, name, error))
    return turn


def _check_format(image: Image.Image, source: Any, name: str, found: Finding) -> None:
    path = source.get("path") if isinstance(source, dict) else source
    suffix = Path(path or name).suffix.lower()
    allowed = SUFFIXES.get(image.format or "", ())
    if suffix and allowed and suffix not in allowed:
        found.issues.append(Issue(name, "wrong_extension", f"a {image.format} named {suffix}"))


def _check_channels(image: Image.Image, name: str, found: Finding) -> None:
    mode = image.mode
    deep = any(";16" in str(tile[3]) for tile in getattr(image, "tile", ()))
    if mode in ("I", "F") or mode.startswith("I;16") or deep:
        found.issues.append(Issue(name, "16_bit", f"mode {mode}" if not deep else f"mode {mode}, 16 bits in the file"))
    if mode == "CMYK":
        found.issues.append(Issue(name, "cmyk", "mode CMYK"))
    if mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        alpha = np.asarray(image.convert("RGBA"))[..., 3]
        hidden = float((alpha < 255).mean())
        share = f"{hidden:.1%} of the pixels are transparent" if hidden else "opaque everywhere"
        found.issues.append(Issue(name, "alpha", f"mode {mode}: {share}"))


def _to_grey(image: Image.Image) -> np.ndarray:
    """(17, 17) uint8; a JPEG is decoded at an eighth or so of its size, which still reads the file to its end."""
    width, height = image.size
    if image.mode in ("I", "F", "LAB", "HSV") or image.mode.startswith("I;16"):
        image = Image.fromarray(read_image(image))
    else:
        image.draft("L", (64, 64))
        if image.mode in ("RGB", "L") and (factor := min(image.size) // 128) > 1:
            image = image.reduce(factor)  # much faster than the filter below, of which 17 pixels are left
    scale = round(width / image.width) or 1
    box = (0.0, 0.0, min(width / scale, image.width), min(height / scale, image.height))  # without the padded edge
    small = image if image.mode == "L" else image.convert("RGB").convert("L")
    return np.asarray(small.resize((GREY_SIDE, GREY_SIDE), Image.Resampling.LANCZOS, box=box))


# ---- the mask ----
def _examine_mask(sample: Sample, labels: Labels, found: Finding, image_turn: int) -> None:
    source, name = sample.mask, sample.mask_name
    mode = ""
    try:
        with open_image(source) as image:
            mode, file_format = image.mode, image.format
            _check_format(image, source, name, found)
            turn = _read_turn(image)
            stored_size = image.size
            raw = read_mask(image)
    except (InputError, *UNREADABLE) as error:
        issue = _to_issue(source, name, error)
        kind = {"CMYK": "cmyk", "RGBA": "alpha", "LA": "alpha", "PA": "alpha"}.get(mode)
        refused = isinstance(error, InputError) and kind is not None
        found.issues.append(Issue(name, kind, issue.detail) if refused and kind else issue)
        return
    if file_format in ("JPEG", "MPO") or file_format == "WEBP" and _is_lossy_webp(source):
        found.issues.append(Issue(name, "lossy_mask", f"a {file_format}"))
    _check_sizes(sample, found, raw.shape[:2], stored_size, image_turn, turn)
    _count_classes(sample, labels, raw, found)
    soft = compute_softness(raw)
    if soft is not None:
        found.issues.append(
            Issue(name, "anti_aliased", f"{soft:.0%} of the pixels at edges lie between both sides' values")
        )


def _check_sizes(
    sample: Sample, found: Finding, size: Any, stored_size: tuple[int, int], image_turn: int, mask_turn: int
) -> None:
    if found.size is None:
        return
    turned = f"EXIF orientation {image_turn}"
    if image_turn != mask_turn and mask_turn == 1:
        swapped = image_turn in (5, 6, 7, 8)
        if swapped and size != found.size and size == found.size[::-1]:
            found.issues.append(Issue(sample.name, "exif_rotation", f"{turned}; the mask has the size before it"))
            return
        if size == found.size and not (swapped and size[0] != size[1]):
            found.issues.append(Issue(sample.name, "exif_rotation", f"{turned}; the sizes don't tell the mask's"))
    if size != found.size:
        found.issues.append(
            Issue(sample.mask_name, "size_differs", f"mask {_shown(size)}, image {_shown(found.size)} (height x width)")
        )


def _count_classes(sample: Sample, labels: Labels, raw: np.ndarray, found: Finding) -> None:
    """Pixels of each class, and what belongs to none."""
    name = sample.mask_name
    pixels = np.zeros(labels.num_labels + 1, np.int64)
    if raw.ndim == 3 and not labels.colors:
        found.issues.append(Issue(name, "values_outside_classes", "an RGB picture, and there is no colour table"))
        return
    for value, count in _count_values(raw):
        class_id = _to_class(value, raw.ndim == 3, labels)
        if class_id == -1:
            found.raw_values[_shown_value(value, raw.ndim == 3)] = count
        else:
            pixels[labels.num_labels if class_id == IGNORE_INDEX else class_id] += count
    found.pixels = pixels
    if found.raw_values:
        shown = [f"{value} ({count} pixels)" for value, count in list(found.raw_values.items())[:8]]
        more = f", ... {len(found.raw_values)} values in all" if len(found.raw_values) > 8 else ""
        found.issues.append(Issue(name, "values_outside_classes", ", ".join(shown) + more))
    elif sample.labelled:
        (seen,) = np.nonzero(pixels[:-1])
        if len(seen) == 0:
            found.issues.append(Issue(name, "all_ignored", f"{int(pixels[-1])} pixels"))
        elif len(seen) == 1 and labels.num_labels > 1:
            ignored = f", {pixels[-1] / pixels.sum():.0%} ignored" if pixels[-1] else ""
            found.issues.append(Issue(name, "single_class", f"{labels.names[seen[0]]} alone{ignored}"))


def _count_values(raw: np.ndarray) -> list[tuple[int, int]]:
    """(raw value, or a colour as one number; pixels)"""
    if raw.ndim == 3:
        raw = raw.astype(np.int32) @ np.array([65536, 256, 1], np.int32)
    if raw.dtype == np.uint8:  # ten times as fast as bincount
        return [(value, count) for value, count in enumerate(Image.fromarray(raw).histogram()) if count]
    if raw.dtype == np.uint16:
        counts = np.bincount(raw.ravel())
        return [(int(value), int(counts[value])) for value in np.flatnonzero(counts)]
    return [(int(value), int(count)) for value, count in zip(*np.unique(raw, return_counts=True))]


def _to_class(value: int, is_color: bool, labels: Labels) -> int:
    if is_color:
        return (labels.colors or {}).get((value >> 16, value >> 8 & 255, value & 255), -1)
    return int(labels.lookup[value]) if 0 <= value < len(labels.lookup) else -1


def compute_softness(raw: np.ndarray) -> float | None:
    """Share of edge pixels whose value lies strictly between those of both neighbours; None where that is usual.

    Args:
        raw: (H, W) or (H, W, 3) raw values. Every fourth row and column is looked at.
    """
    soft = edges = 0
    wider = np.int16 if raw.dtype == np.uint8 else np.int64
    for lines in (raw[::4], np.swapaxes(raw[:, ::4], 0, 1)):
        lines = np.ascontiguousarray(lines).astype(wider)
        before, middle, after = (lines[:, i : lines.shape[1] - 2 + i] for i in range(3))
        low, high = np.minimum(before, after), np.maximum(before, after)
        wide, between = high - low >= 2, (low <= middle) & (middle <= high)
        differs, other = (middle != before), (middle != after)
        if raw.ndim == 3:
            wide, differs, other = (part.any(-1) for part in (wide, differs, other))
            between = between.all(-1)
        edges += int(wide.sum())
        soft += int((wide & between & differs & other).sum())
    return soft / edges if soft >= SOFT_PIXELS and soft / edges > SOFT_SHARE else None


def _read_turn(image: Image.Image) -> int:
    """EXIF orientation: 1 upright, 5 to 8 turned by a quarter; others than 1 to 8 mean nothing."""
    turn = image.getexif().get(ExifTags.Base.Orientation, 1)
    return turn if turn in range(1, 9) else 1


# ---- words ----
def _to_issue(source: Any, name: str, error: BaseException) -> Issue:
    text = str(error) if isinstance(error, InputError) else explain(source, error)
    text = text.removeprefix(describe(source)).lstrip(": ")  # the file is named in a column of its own
    kinds = {"0 bytes": "empty", "truncated": "truncated", "pixels that are read": "too_large"}
    return Issue(name, next((kind for words, kind in kinds.items() if words in text.lower()), "unreadable"), text)


def _shown(size: Sequence[int]) -> str:
    return f"{size[0]} x {size[1]}"


def _shown_value(value: int, is_color: bool) -> str:
    return f"[{value >> 16}, {value >> 8 & 255}, {value & 255}]" if is_color else str(value)


def _digest(source: Any) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    if isinstance(source, dict) and source.get("bytes") is not None:
        digest.update(source["bytes"])
        return digest.digest()
    with open(source["path"] if isinstance(source, dict) else source, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.digest()


def _is_lossy_webp(source: Any) -> bool:
    if isinstance(source, dict) and source.get("bytes") is not None:
        head = source["bytes"][:4096]
    else:
        with open(source["path"] if isinstance(source, dict) else source, "rb") as file:
            head = file.read(4096)
    return b"VP8 " in head

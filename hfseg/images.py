"""Pixels from and to files: pictures and masks."""

import io
import os
import struct
import zlib
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from hfseg.errors import InputError
from hfseg.files import save_png

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp")

# What is decoded, whatever a file's name says: Pillow would hand others, such as EPS, to programs of the machine.
FORMATS = ("BMP", "DIB", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")

# What Pillow raises for a file that is no image, damaged, cut short, or absurdly large.
UNREADABLE = (
    *(OSError, SyntaxError, ValueError, EOFError, IndexError, OverflowError),
    *(struct.error, zlib.error, Image.DecompressionBombError),
)


def open_image(source: Any) -> Image.Image:
    """Opens a file without decoding it: its format, mode and size are known then.

    Args:
        source: a path, bytes, a file object, or what `datasets` gives undecoded.

    Raises:
        InputError: more pixels than `PIL.Image.MAX_IMAGE_PIXELS` (89 million), where Pillow only warns: a small file
            may claim any size, and would fill the memory.
        UNREADABLE: no picture of a known format.
    """
    image = Image.open(_to_file(source), formats=FORMATS)
    if Image.MAX_IMAGE_PIXELS is not None and image.width * image.height > Image.MAX_IMAGE_PIXELS:
        image.close()
        raise InputError(
            f"{describe(source)} has {image.width} x {image.height} pixels, more than the {Image.MAX_IMAGE_PIXELS} "
            "pixels that are read. Replace it, or cut it into tiles."
        )
    return image


def describe(source: Any) -> str:
    """A name for messages: the file's path where there is one."""
    if isinstance(source, dict):
        return str(source.get("path") or "an image without a path")
    if isinstance(source, str | os.PathLike):
        return str(source)
    name = getattr(source, "filename", "") or getattr(source, "name", "")
    return str(name or f"an image given as {type(source).__name__}")


def read_image(source: Any, at_least: Sequence[int] | None = None) -> np.ndarray:
    """Reads a picture as a viewer shows it: upright by its EXIF orientation, in RGB.

    Equal to `transformers.image_utils.load_image` for pictures of 8 bits a channel (alpha is dropped, the first frame
    of an animation is read). Pictures of 16 bits are scaled to 8, which Pillow would clip; floats from 0..1, 0..255
    or 0..65535, by their largest value.

    Args:
        source: a path, bytes, a file object, a PIL image, an (H, W) or (H, W, 1|3|4) uint8 or (H, W) uint16 array,
            or what `datasets` gives undecoded: {"bytes", "path"}.
        at_least: (height, width): a JPEG file is decoded at 1/8, 1/4 or 1/2 of its size, in a part of the time, where
            that is no smaller and both sides can be divided so (else it would be shifted against its mask).

    Returns:
        (H, W, 3) uint8.

    Raises:
        InputError: no file, no image, or a damaged one; names the file.
    """
    image = _decode(source, "an image", at_least)
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        grey = _scale_to_uint8(np.asarray(image), image.mode == "F", source)
        return np.repeat(grey[..., None], 3, axis=2)
    try:
        return np.array(image if image.mode == "RGB" else image.convert("RGB"))
    except ValueError as error:  # LAB and the like
        raise InputError(f"{describe(source)} can't be read as an image: {error}. Save it as RGB.") from error


def read_mask(source: Any) -> np.ndarray:
    """Reads the raw values of a mask; `Labels.encode` turns them into class ids.

    Args:
        source: as for `read_image`; arrays may have any integer type or bool.

    Returns:
        (H, W) uint8, uint16 or int32: grey values, palette indices, or 0 and 1 of a bilevel file; or (H, W, 3) uint8
        colours of an RGB file. An alpha channel is dropped when it is opaque everywhere. Upright by EXIF.

    Raises:
        InputError: as `read_image`; also transparent pixels, fractions, and modes that are no mask (CMYK, ...).
    """
    if isinstance(source, np.ndarray):
        return _check_mask_array(source)
    image = _decode(source, "a mask")
    values = np.array(image)
    if image.mode in ("LA", "PA", "RGBA"):
        if (values[..., -1] != 255).any():
            raise InputError(
                f"{describe(source)}: the mask has transparent pixels, which belong to no class. Save it without alpha."
            )
        values = values[..., :3] if image.mode == "RGBA" else values[..., 0]
    elif image.mode == "1":
        values = values.astype(np.uint8)
    elif image.mode.startswith("I;16"):
        values = values.astype(np.uint16)
    elif image.mode == "F":
        values = _to_integers(values, source)
    elif image.mode not in ("L", "P", "I", "RGB"):
        raise InputError(
            f"{describe(source)}: a mask can't be a {image.mode} picture; allowed are class ids (grey or palette) and "
            "RGB colours. Save it as PNG."
        )
    return np.ascontiguousarray(values)


def check_pair(size: tuple[int, ...], mask: np.ndarray, source: Any, image_source: Any = None) -> None:
    """An image and its mask must have one size.

    Args:
        size: (H, W) of the image.
        mask: (H, W) or (H, W, 3).
        source: the mask's file, named in the message.
        image_source: the image's file; its EXIF orientation may explain the difference.

    Raises:
        InputError: the sizes differ; names the file and both sizes as (height, width).
    """
    mask_size = mask.shape[:2]
    if size == mask_size:
        return
    advice = "Save the mask at the image's own size."
    if size == mask_size[::-1]:
        turned = "is turned by its EXIF orientation" if _is_turned(image_source) else "may be turned by its EXIF tag"
        advice = f"The image {turned} and its mask is not: turn the mask the same way, or save the image without EXIF."
    raise InputError(f"{describe(source)}: the mask is {mask_size}, its image {size} (height, width). {advice}")


def save_mask(pred: np.ndarray, palette: Sequence[Sequence[int]], path: str | Path) -> None:
    """Writes class ids as a palette PNG whose indices are the ids: whole, or not at all.

    Args:
        pred: (H, W) integers in 0..255. Values without a colour (255, ignored) are black.
        palette: one RGB colour a class, 256 at most.
        path: overwritten when it exists.
    """
    assert pred.ndim == 2 and len(palette) <= 256 and pred.min(initial=0) >= 0 and pred.max(initial=0) <= 255
    image = Image.fromarray(pred.astype(np.uint8)).convert("P")
    # All 256 entries: with fewer, Pillow stores 1, 2 or 4 bits a pixel and cuts larger values off.
    table = np.zeros((256, 3), np.uint8)
    table[: len(palette)] = np.reshape(palette, (-1, 3))
    image.putpalette(table.tobytes())
    save_png(path, image)


def read_size(source: Any) -> tuple[int, int]:
    """(height, width) of a picture upright, from the file's head alone."""
    if isinstance(source, np.ndarray):
        return source.shape[0], source.shape[1]
    try:
        with nullcontext(source) if isinstance(source, Image.Image) else open_image(source) as image:
            return image.size if _swaps_sides(image) else (image.height, image.width)
    except UNREADABLE as error:
        raise InputError(f"{describe(source)} can't be read as an image: {explain(source, error)}.") from error


def _decode(source: Any, what: str, at_least: Sequence[int] | None = None) -> Image.Image:
    """Opens and decodes, upright."""
    try:
        if isinstance(source, Image.Image):
            return _turn_upright(source)
        if isinstance(source, np.ndarray):
            return Image.fromarray(_check_image_array(source))
        with open_image(source) as image:
            if at_least is not None and image.format == "JPEG":
                _shrink(image, at_least[::-1] if not _swaps_sides(image) else at_least)
            return _turn_upright(image)
    except InputError:
        raise
    except UNREADABLE as error:
        problem = f"{describe(source)} can't be read as {what}: {explain(source, error)}"
        raise InputError(f"{problem}. Replace it, or leave it out.") from error


def _shrink(image: Image.Image, at_least: Sequence[int]) -> None:
    """Has a JPEG decoded at a part of its size; `at_least` is (width, height) as stored."""
    for part in (8, 4, 2):
        if all(side % part == 0 and side // part >= least for side, least in zip(image.size, at_least)):
            image.draft(image.mode, (image.width // part, image.height // part))
            return


def _to_file(source: Any) -> Any:
    if isinstance(source, dict):
        if source.get("bytes") is None and not source.get("path"):
            raise InputError(f"An image given as {source} has neither bytes nor a path.")
        source = source["bytes"] if source.get("bytes") is not None else source["path"]
    return io.BytesIO(source) if isinstance(source, bytes | bytearray) else source


def _turn_upright(image: Image.Image) -> Image.Image:
    image.load()
    if image.getexif().get(ExifTags.Base.Orientation, 1) == 1:
        return image  # exif_transpose would copy it
    return ImageOps.exif_transpose(image)


def _is_turned(source: Any) -> bool:
    """Whether the EXIF orientation of an image file swaps its height and width."""
    if source is None or isinstance(source, np.ndarray | Image.Image):
        return False
    with open_image(source) as image:
        return _swaps_sides(image)


def _swaps_sides(image: Image.Image) -> bool:
    return image.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)


def explain(source: Any, error: BaseException) -> str:
    """Why one of `UNREADABLE` came, in words."""
    file = source.get("bytes") or source.get("path") if isinstance(source, dict) else source
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, IsADirectoryError):
        return "it is a folder"
    if isinstance(file, str | os.PathLike) and os.path.isfile(file) and os.path.getsize(file) == 0 or file == b"":
        return "it is empty (0 bytes)"
    if isinstance(error, UnidentifiedImageError):
        return "it is no picture of a known format"
    if isinstance(error, Image.DecompressionBombError):
        return f"it has more than the {Image.MAX_IMAGE_PIXELS} pixels that are read"
    return " ".join(str(error).split()) or type(error).__name__


def _scale_to_uint8(values: np.ndarray, is_float: bool, source: Any) -> np.ndarray:
    low, high = float(values.min(initial=0)), float(values.max(initial=0))
    top = next((top for top in (1, 255, 65535) if high <= top), 65535) if is_float else 65535
    if not (low >= 0 and high <= top):  # also false for NaN
        raise InputError(
            f"{describe(source)} holds values from {low:g} to {high:g}; a picture of mode F or I lies within 0 and "
            "65535. Save it with 8 or 16 bits a channel."
        )
    return (values.astype(np.float32) * (255 / top)).round().astype(np.uint8)


def _to_integers(values: np.ndarray, source: Any) -> np.ndarray:
    integers = np.nan_to_num(values).clip(-(2**31), 2**31 - 256).astype(np.int32)
    if (integers != values).any():
        raise InputError(f"{describe(source)}: the mask holds fractions; class ids are integers. Save it as PNG.")
    return integers


def _check_image_array(array: np.ndarray) -> np.ndarray:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    grey = array.ndim == 2 and array.dtype in (np.uint8, np.uint16, np.bool_)
    if not grey and not (array.ndim == 3 and array.shape[2] in (3, 4) and array.dtype == np.uint8):
        raise InputError(
            f"An image given as an array of shape {array.shape}, {array.dtype}, can't be read; give (height, width, 3) "
            "or (height, width) uint8."
        )
    return array


def _check_mask_array(array: np.ndarray) -> np.ndarray:
    if array.ndim == 2 and array.dtype.kind in "iub":
        return array.astype(np.uint8) if array.dtype == np.bool_ else array
    if array.ndim == 3 and array.shape[2] == 3 and array.dtype == np.uint8:
        return array
    raise InputError(
        f"A mask given as an array of shape {array.shape}, {array.dtype}, can't be read; give (height, width) "
        "integers, or (height, width, 3) uint8 colours."
    )

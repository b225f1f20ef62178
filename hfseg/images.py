"""Pixels from and to files: pictures, masks, overlays."""

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from hfseg.errors import InputError


def describe(source: Any) -> str:
    if isinstance(source, dict):
        return str(source.get("path") or "an image without a path")
    if isinstance(source, str | os.PathLike):
        return str(source)
    return str(getattr(source, "filename", "") or f"an image given as {type(source).__name__}")


def _open(source: Any) -> Image.Image:
    if isinstance(source, Image.Image):
        return source
    if isinstance(source, np.ndarray):
        return Image.fromarray(source)
    if isinstance(source, dict):
        source = io.BytesIO(source["bytes"]) if source.get("bytes") is not None else source["path"]
    elif isinstance(source, bytes):
        source = io.BytesIO(source)
    return Image.open(source)


def read_image(source: Any) -> np.ndarray:
    try:
        image = ImageOps.exif_transpose(_open(source))
        return np.array(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(f"{describe(source)} can't be read as an image: {error}") from error


def read_mask(source: Any) -> np.ndarray:
    try:
        return np.array(_open(source))
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(f"{describe(source)} can't be read as a mask: {error}") from error


def check_pair(image: np.ndarray, mask: np.ndarray, source: Any) -> None:
    if image.shape[:2] != mask.shape[:2]:
        raise InputError(f"{describe(source)}: image {image.shape[:2]}, mask {mask.shape[:2]}")


def save_mask(pred: np.ndarray, palette: Sequence[Sequence[int]], path: str | Path) -> None:
    image = Image.fromarray(pred.astype(np.uint8))
    image.putpalette([v for color in palette for v in color])
    image.save(path)


def overlay(image: np.ndarray, pred: np.ndarray, palette: Sequence[Sequence[int]], alpha: float = 0.5) -> np.ndarray:
    colors = np.asarray(palette, np.float32)[pred]
    return (image * (1 - alpha) + colors * alpha).round().astype(np.uint8)

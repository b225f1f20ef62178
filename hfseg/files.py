"""Files that are there whole or not at all, also after a power cut: written aside, flushed to disk, renamed."""

import io
import os
from pathlib import Path
from typing import Any

from PIL import Image


def write_whole(path: str | Path, content: bytes | str) -> None:
    """Writes a file, or replaces it, whole or not at all.

    Args:
        path: its folder is there.
        content: a str is written as UTF-8.

    Raises:
        OSError: it can't be written; an older file is then as it was, and nothing half-written stays.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name[:100]}.{os.getpid()}.tmp")  # a name has 255 bytes at most
    try:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        flush(temporary)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    flush(path.parent)


def save_figure(path: str | Path, figure: Any) -> None:
    """Writes a matplotlib figure whole or not at all, in the format of the path's suffix."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format=Path(path).suffix[1:])
    write_whole(path, buffer.getvalue())


def save_png(path: str | Path, image: Image.Image) -> None:
    """Writes a picture as PNG whole or not at all."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    write_whole(path, buffer.getvalue())


def flush(path: str | Path) -> None:
    """Brings a file, or the names in a folder, to disk: a rename may survive a power cut that the content does not."""
    if os.path.isdir(path) and not hasattr(os, "O_DIRECTORY"):  # a folder can't be flushed on Windows
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

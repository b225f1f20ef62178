"""Tar archives unpacked as if they came from an enemy: nothing outside the folder, no links, no bombs."""

import shutil
import tarfile
import zlib
from pathlib import Path, PurePosixPath

from hfseg.errors import InputError

MAX_FILES = 200_000
MAX_BYTES = 8 * 2**30  # unpacked
DAMAGED = (tarfile.TarError, EOFError, zlib.error, OSError, ValueError, OverflowError)


def unpack_tar(
    archive: str | Path, folder: str | Path, *, max_files: int = MAX_FILES, max_bytes: int = MAX_BYTES
) -> Path:
    """Unpacks a tar archive, compressed or not, into a new folder: whole, or not at all.

    Args:
        archive: the file.
        folder: takes the place of one that is there.
        max_files: entries that are allowed.
        max_bytes: of all files once unpacked, by what their headers say: nothing larger is ever written.

    Returns:
        The folder.

    Raises:
        InputError: an entry that would land outside the folder, that is neither a file nor a folder (a link, a
            device), more than is allowed, or a damaged archive.
    """
    folder = Path(folder)
    new = folder.with_name(f"{folder.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    try:
        with tarfile.open(archive) as tar:
            _write_members(tar, new, str(archive), max_files, max_bytes)
    except InputError:
        shutil.rmtree(new, ignore_errors=True)
        raise
    except DAMAGED as error:
        shutil.rmtree(new, ignore_errors=True)
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{archive} can't be unpacked: {reason}. Delete it, and fetch it again.") from error
    shutil.rmtree(folder, ignore_errors=True)
    return new.rename(folder)


def _write_members(tar: tarfile.TarFile, folder: Path, source: str, max_files: int, max_bytes: int) -> None:
    total = 0
    for count, member in enumerate(tar, 1):  # one header at a time: a bomb is refused before it is read
        total += max(member.size, 0)
        name = PurePosixPath(member.name)
        if not (member.isfile() or member.isdir()):
            raise InputError(f"{source} holds {member.name!r}, a link or device. Only files and folders are unpacked.")
        if name.is_absolute() or ".." in name.parts or set(member.name) & {"\\", ":", "\0"}:
            raise InputError(f"{source} holds {member.name!r}, which would land outside its folder. Don't use it.")
        if count > max_files or total > max_bytes:
            raise InputError(
                f"{source} holds more than {max_files} files or {max_bytes} bytes, which is more than this data set "
                "has. Don't use it."
            )
        target = folder / name
        if member.isdir():
            target.mkdir(parents=True, exist_ok=True)
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        content = tar.extractfile(member)
        assert content is not None, "a file has content"
        with content, target.open("wb") as file:
            shutil.copyfileobj(content, file)

"""Archives of an enemy: nothing is written outside, nothing stays of a refused one."""

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from hfseg.data.archives import unpack_tar
from hfseg.errors import InputError


def entry(name: str, content: bytes = b"x", **fields: object) -> tuple[tarfile.TarInfo, io.BytesIO]:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in fields.items():
        setattr(info, key, value)
    return info, io.BytesIO(content)


def pack(path: Path, *entries: tuple[tarfile.TarInfo, io.BytesIO], mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as archive:
        for info, content in entries:
            archive.addfile(info, content if info.isfile() else None)
    return path


def bomb(path: Path) -> Path:
    """A header that promises 10 TB, and nothing behind it."""
    info = tarfile.TarInfo("bomb")
    info.size = 10 * 2**40
    path.write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(10240))
    return path


def cut(path: Path) -> Path:
    import os

    pack(path, entry("a", os.urandom(50_000)))
    path.write_bytes(path.read_bytes()[:20_000])
    return path


HOSTILE: dict[str, tuple[Callable[[Path], Path], str]] = {
    "a path above": (lambda p: pack(p, entry("good"), entry("../evil")), "outside its folder"),
    "a path above, hidden": (lambda p: pack(p, entry("a/b/../../../evil")), "outside its folder"),
    "an absolute path": (lambda p: pack(p, entry("/tmp/hfseg_evil")), "outside its folder"),
    "a path of Windows": (lambda p: pack(p, entry("C:\\evil")), "outside its folder"),
    "a symbolic link": (
        lambda p: pack(p, entry("link", b"", type=tarfile.SYMTYPE, linkname="/etc"), entry("link/evil")),
        "a link or device",
    ),
    "a hard link": (lambda p: pack(p, entry("link", b"", type=tarfile.LNKTYPE, linkname="/etc/passwd")), "a link"),
    "a device": (lambda p: pack(p, entry("null", b"", type=tarfile.CHRTYPE)), "a link or device"),
    "a pipe": (lambda p: pack(p, entry("pipe", b"", type=tarfile.FIFOTYPE)), "a link or device"),
    "a bomb": (bomb, "more than"),
    "too many files": (lambda p: pack(p, *(entry(f"{i}") for i in range(60))), "more than 50 files"),
    "a file as a folder": (lambda p: pack(p, entry("a"), entry("a/b")), "can't be unpacked"),
    "a cut archive": (cut, "can't be unpacked"),
    "no archive": (lambda p: (p.write_bytes(b"<html>404</html>"), p)[1], "can't be unpacked"),
    "an empty file": (lambda p: (p.write_bytes(b""), p)[1], "can't be unpacked"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archives_are_refused_whole(name: str, tmp_path: Path) -> None:
    make, words = HOSTILE[name]
    archive = make(tmp_path / "archive.tar.gz")
    with pytest.raises(InputError, match=words) as error:
        unpack_tar(archive, tmp_path / "out" / "folder", max_files=50, max_bytes=10**6)
    assert "\n" not in str(error.value)
    assert list((tmp_path / "out").iterdir()) == [] and not (tmp_path / "evil").exists()
    assert not Path("/tmp/hfseg_evil").exists()


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
def test_good_archives_are_unpacked_in_the_place_of_an_older_folder(mode: str, tmp_path: Path) -> None:
    folder = entry("images", b"", type=tarfile.DIRTYPE)
    archive = pack(tmp_path / "archive", folder, entry("images/a.jpg", b"abc"), entry("./b/c.txt"), mode=mode)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").touch()
    unpack_tar(archive, tmp_path / "out")
    files = {str(p.relative_to(tmp_path / "out")): p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()}
    assert files == {"images/a.jpg": b"abc", "b/c.txt": b"x"}

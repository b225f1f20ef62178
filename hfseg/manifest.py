"""The last file of a checkpoint: which files belong to it, how long they are, and their checksums.

A checkpoint takes its name only when all its files are on disk, and a file that was damaged or cut off later, by a
power cut or a copy that broke, does not fit its entry any more.
"""

import json
import zipfile
import zlib
from pathlib import Path
from typing import Any

from hfseg.files import flush, write_whole

MANIFEST = "checkpoint.json"
# Never read when a run goes on, and not pushed to the Hub.
LEFT_OUT = (MANIFEST, "training_args.bin")


def write_manifest(folder: Path, about: dict[str, Any]) -> None:
    """Flushes every file of a checkpoint to disk and lists it; the manifest is the last to be written.

    Args:
        folder: a checkpoint with all its files in it.
        about: what else is known of it, as JSON values.
    """
    files = {}
    for path in sorted(folder.rglob("*")):
        flush(path)
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name not in LEFT_OUT:
            files[name] = {"bytes": path.stat().st_size, "crc32": _checksum(path)}
    write_whole(folder / MANIFEST, json.dumps({**about, "files": files}, indent=2, allow_nan=False) + "\n")


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest; empty where there is none, as in checkpoints of transformers' own Trainer."""
    try:
        return json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}


def find_damage(folder: Path, *, contents: bool = True) -> str | None:
    """Why a checkpoint can't be resumed from, in a few words; None where nothing is wrong.

    Args:
        folder: checkpoint-<step>.
        contents: compare checksums; otherwise lengths alone, which takes no time.
    """
    if not folder.is_dir():
        return "there is no such folder"
    try:
        state = json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
        if not isinstance(state, dict):
            return "trainer_state.json is no JSON object"
        files = read_manifest(folder).get("files")
    except FileNotFoundError:
        return "there is no trainer_state.json, which is written last"
    except (OSError, ValueError, AttributeError):
        return "its JSON files can't be read"
    if not isinstance(files, dict):
        return _find_torn_file(folder)
    for name, entry in files.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if (size := path.stat().st_size) != entry["bytes"]:
            return f"{name} has {size} of {entry['bytes']} bytes"
        if contents and _checksum(path) != entry["crc32"]:
            return f"{name} is damaged (another checksum)"
    return None


def _checksum(path: Path) -> int:
    """CRC-32: fast, and made for accidents, which is what is looked for."""
    value = 0
    with path.open("rb") as file:
        while block := file.read(2**20):
            value = zlib.crc32(block, value)
    return value


def _find_torn_file(folder: Path) -> str | None:
    """Without a manifest: files whose own format says that their end is missing."""
    for path in sorted(folder.iterdir()):
        if path.suffix in (".pt", ".pth") and not zipfile.is_zipfile(path):
            return f"{path.name} is cut off"
        if path.suffix == ".safetensors" and not _is_whole_safetensors(path):
            return f"{path.name} is cut off"
    return None


def _is_whole_safetensors(path: Path) -> bool:
    """Eight bytes that give the header's length, the header in JSON, the tensors up to the end of the last one."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > path.stat().st_size - 8:
            return False
        try:
            header = json.loads(file.read(length))
        except ValueError:
            return False
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    return path.stat().st_size == 8 + length + max(ends, default=0)

"""The best bundle: one folder with all that a stranger needs to use, judge and repeat a model.

model.safetensors  config.json  preprocessor_config.json   what from_pretrained reads
recipe.json        the merged recipe; `hfseg train best/recipe.json` runs it again
metrics.json       the validation metrics and the step they belong to
README.md          the model card
"""

import json
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation, BaseImageProcessor, PreTrainedModel
from transformers.utils import cached_file

import hfseg.models  # noqa: F401  registers this package's own model classes
from hfseg.errors import InputError
from hfseg.labels import Labels, class_names


@dataclass
class Bundle:
    """A model as it was kept, in eval mode on the CPU."""

    model: PreTrainedModel
    processor: BaseImageProcessor
    recipe: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)

    @property
    def labels(self) -> Labels:
        """Class names and palette from the model's config."""
        config = self.model.config
        return Labels(class_names(config), palette=[tuple(color) for color in getattr(config, "palette", None) or ()])


def write_bundle(
    folder: str | Path,
    model: PreTrainedModel,
    processor: BaseImageProcessor,
    recipe: dict[str, Any],
    metrics: dict[str, Any],
    card: str,
) -> None:
    """Writes a bundle in the place of an older one, whole or not at all.

    Everything goes into a folder beside it, is flushed to disk, and takes the name in the end. A crash between the two
    renames leaves the old bundle under its set-aside name, from which `recover_bundle` brings it back.
    """
    folder = Path(folder)
    new, old = _set_aside(folder)
    recover_bundle(folder)
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    try:
        model.save_pretrained(new)
        processor.save_pretrained(new)
        for name, value in (("recipe.json", recipe), ("metrics.json", metrics)):
            (new / name).write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        (new / "README.md").write_text(card, encoding="utf-8")
        mask = os.umask(0)
        os.umask(mask)
        for path in new.iterdir():
            path.chmod(0o666 & ~mask)  # safetensors writes files that only their owner may read
            _flush(path)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    if hasattr(os, "O_DIRECTORY"):  # a folder can't be flushed on Windows
        _flush(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def recover_bundle(folder: str | Path) -> None:
    """Brings back a bundle whose replacement was cut off between two renames, and clears what is left over."""
    folder = Path(folder)
    new, old = _set_aside(folder)
    if old.is_dir() and not folder.exists():
        old.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
    shutil.rmtree(new, ignore_errors=True)


def read_bundle(source: str | Path, *, revision: str | None = None) -> Bundle:
    """Reads a bundle, or any semantic segmentation checkpoint that transformers can load.

    Args:
        source: a folder or a Hub id.
        revision: branch, tag or commit of a Hub id.

    Raises:
        InputError: nothing there, or no model with an image processor.
    """
    if Path(source).is_dir() and not (Path(source) / "config.json").is_file():
        hint = " Its best model lies in best/." if (Path(source) / "best" / "config.json").is_file() else ""
        raise InputError(f"{source} holds no model (no config.json).{hint}")
    try:
        model = AutoModelForSemanticSegmentation.from_pretrained(source, revision=revision, dtype=torch.float32)
        processor = AutoImageProcessor.from_pretrained(source, revision=revision)
    except (OSError, ValueError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{source} can't be loaded as a segmentation model: {reason}") from error
    return Bundle(model.eval(), processor, *(_read_json(source, n, revision) for n in ("recipe.json", "metrics.json")))


def read_metrics(folder: str | Path) -> dict[str, Any]:
    """metrics.json of a local bundle, empty where there is none."""
    path = Path(folder) / "metrics.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _read_json(source: str | Path, name: str, revision: str | None) -> dict[str, Any]:
    path = cached_file(
        str(source),
        name,
        revision=revision,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return json.loads(Path(path).read_text(encoding="utf-8")) if path else {}


def _set_aside(folder: Path) -> tuple[Path, Path]:
    return folder.with_name(f".{folder.name}.new"), folder.with_name(f".{folder.name}.old")


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""The best bundle: one folder with all that a stranger needs to use, judge and repeat a model.

model.safetensors  config.json  preprocessor_config.json   what from_pretrained reads
recipe.json        the merged recipe; `hfseg train best/recipe.json` runs it again
metrics.json       the validation metrics and the step they belong to
test_metrics.json  those of the test split, once training is over
README.md          the model card, with predictions.png, curves.png and example.jpg
"""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import HTTPError
from huggingface_hub.utils import validate_repo_id
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation, BaseImageProcessor, PreTrainedModel
from transformers.utils import cached_file

import hfseg.models  # noqa: F401  registers this package's own model classes
from hfseg.errors import InputError
from hfseg.files import flush, write_whole
from hfseg.hub_errors import describe_hub_error
from hfseg.labels import Labels, class_names
from hfseg.models.state_dicts import UNLOADABLE
from hfseg.strict_json import parse_json

SAFE_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
PICKLED_WEIGHTS = ("pytorch_model.bin", "pytorch_model.bin.index.json")


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
    files: Mapping[str, bytes] | None = None,
    weights: dict[str, Any] | None = None,
) -> None:
    """Writes a bundle in the place of an older one, whole or not at all; `weights` where the model holds but a part.

    Everything goes into a folder beside it, is flushed to disk, and takes the name in the end. A crash between the two
    renames leaves the old bundle under its set-aside name, from which `recover_bundle` brings it back.
    """
    folder = Path(folder)
    new, old = _set_aside(folder)
    recover_bundle(folder)
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    try:
        model.save_pretrained(new, state_dict=weights)
        processor.save_pretrained(new)
        for name, value in (("recipe.json", recipe), ("metrics.json", metrics)):
            (new / name).write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        (new / "README.md").write_text(card, encoding="utf-8")
        for name, content in (files or {}).items():
            (new / name).write_bytes(content)
        mask = os.umask(0)
        os.umask(mask)
        for path in new.iterdir():
            path.chmod(0o666 & ~mask)  # safetensors writes files that only their owner may read
            flush(path)
        flush(new)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    flush(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def add_files(folder: str | Path, files: Mapping[str, bytes]) -> None:
    """Writes files into a bundle, or replaces them, each whole or not at all."""
    for name, content in files.items():
        write_whole(Path(folder) / name, content)


def recover_bundle(folder: str | Path) -> None:
    """Brings back a bundle whose replacement was cut off between two renames, and clears what is left over."""
    folder = Path(folder)
    new, old = _set_aside(folder)
    if old.is_dir() and not folder.exists():
        old.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
    shutil.rmtree(new, ignore_errors=True)


def read_bundle(
    source: str | Path, *, revision: str | None = None, token: str | None = None, trust_remote_code: bool = False
) -> Bundle:
    """Reads a bundle, or any semantic segmentation checkpoint that transformers can load.

    Args:
        source: a folder or a Hub id.
        revision: branch, tag or commit of a Hub id.
        token: for private and gated repos; unset: that of the usual login, or HF_TOKEN.
        trust_remote_code: let a checkpoint bring code of its own; those that hfseg trained need none.

    Raises:
        InputError: nothing there, no right to read it, only pickled weights, or no model with an image processor.
    """
    if Path(source).is_dir() and not (Path(source) / "config.json").is_file():
        hint = " Its best model lies in best/." if (Path(source) / "best" / "config.json").is_file() else ""
        raise InputError(f"{source} holds no model (no config.json).{hint}")
    options: dict[str, Any] = {"revision": revision, "token": token, "trust_remote_code": trust_remote_code}
    try:
        if not Path(source).is_dir():
            validate_repo_id(str(source))
        refuse_pickles(source, revision, token)
        model = AutoModelForSemanticSegmentation.from_pretrained(
            source, dtype=torch.float32, use_safetensors=True, **options
        )
        processor = AutoImageProcessor.from_pretrained(source, **options)
    except InputError:
        raise
    except (*UNLOADABLE, HTTPError) as error:
        reason = describe_hub_error(error, str(source), revision) if not Path(source).is_dir() else None
        if reason is None:
            reason = f"{source} can't be loaded as a segmentation model: {' '.join(str(error).split())}"
        elif not isinstance(error, HTTPError) and str(source).count("/") != 1:
            reason = f"There is no folder {source}. {reason}"
        raise InputError(reason) from error
    texts = (_read_json(source, name, revision, token) for name in ("recipe.json", "metrics.json"))
    return Bundle(model.eval(), processor, *texts)


def refuse_pickles(source: str | Path, revision: str | None = None, token: str | None = None) -> None:
    """Pickled weights can run code when they are read; a model that has no others is not loaded.

    Raises:
        InputError: there are pickled weights, and no safetensors.
    """
    if any(_find(source, name, revision, token) for name in SAFE_WEIGHTS):
        return
    found = [name for name in PICKLED_WEIGHTS if _find(source, name, revision, token)]
    if found:
        raise InputError(
            f"{source} holds only pickled weights ({found[0]}), which can run code when they are read. Convert them "
            "to safetensors (https://huggingface.co/docs/safetensors/convert-weights), or give another model."
        )


def read_metrics(folder: str | Path) -> dict[str, Any]:
    """metrics.json of a local bundle, empty where there is none."""
    path = Path(folder) / "metrics.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _read_json(source: str | Path, name: str, revision: str | None, token: str | None) -> dict[str, Any]:
    path = _find(source, name, revision, token)
    if path is None:
        return {}
    table = parse_json(Path(path).read_text(encoding="utf-8", errors="replace"), f"{source}: {name}")
    if not isinstance(table, dict):
        raise InputError(f"{source}: {name} holds a {type(table).__name__}, not a JSON object. Remove it.")
    return table


def _find(source: str | Path, name: str, revision: str | None, token: str | None) -> str | None:
    """A file's local path, fetched where need be; None where there is no such file, or no Hub."""
    return cached_file(
        str(source),
        name,
        revision=revision,
        token=token,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )


def _set_aside(folder: Path) -> tuple[Path, Path]:
    return folder.with_name(f".{folder.name}.new"), folder.with_name(f".{folder.name}.old")

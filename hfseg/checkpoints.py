"""Weights back from disk, all of them; and which checkpoint a run goes on from.

transformers saves some models in their original key format and Trainer loads that file without the conversion, so that
most tensors stay as they are (8 of 124 of a SegFormer are restored, with a log warning). Here a model comes back
through its own `from_pretrained`, and whatever is missing stops the run.
"""

import json
import logging
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import PreTrainedModel

from hfseg.errors import InputError
from hfseg.files import flush, write_whole
from hfseg.manifest import find_damage, write_manifest
from hfseg.sharded import load_weights
from hfseg.strict_json import parse_json

logger = logging.getLogger(__name__)

STAGING = ".saving"  # in output_dir: a checkpoint that is being written
# What a run writes into its output_dir; `overwrite` deletes these and nothing else.
RUN_FILES = (
    STAGING,
    *("best", "run.json", "trainer_state.json", "test_metrics.json"),
    *("predictions.png", "curves.png", "train.log"),
)


def reload_weights(model: PreTrainedModel, folder: str | Path) -> None:
    """Loads every tensor of `model` from a folder written by `save_pretrained`, in place.

    Args:
        model: keeps its device, dtype and requires_grad flags.
        folder: a checkpoint or bundle of the same architecture.

    Raises:
        InputError: the folder can't be read, or a tensor is missing, left over or of another shape.
    """
    try:
        result: Any = type(model).from_pretrained(folder, output_loading_info=True, dtype=torch.float32)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise InputError(f"The weights in {folder} can't be read: {str(error).splitlines()[0]}") from error
    loaded, info = result
    wrong = {
        k: sorted(map(str, info[k])) for k in ("missing_keys", "unexpected_keys", "mismatched_keys") if info.get(k)
    }
    if wrong:
        raise InputError(f"The weights in {folder} don't fit a {type(model).__name__}: {wrong}")
    load_weights(model, loaded.state_dict())


def unwrap(model: Any) -> Any:
    """The model inside DistributedDataParallel and torch.compile wrappers."""
    from accelerate.utils import extract_model_from_parallel

    return extract_model_from_parallel(model, keep_torch_compile=False)


def find_checkpoint(output_dir: str | Path, resume: str | None) -> str | None:
    """The checkpoint to go on from.

    Args:
        output_dir: the run's folder.
        resume: None or "false" (start afresh), "auto" (the newest whole one in output_dir, afresh where there is
            none), or a folder.

    Raises:
        InputError: a folder that is no checkpoint.
    """
    if resume is None or resume.lower() in ("false", "none"):
        return None
    if resume.lower() in ("auto", "true"):
        return next((str(folder) for folder in list_checkpoints(output_dir) if is_whole(folder, say=True)), None)
    if damage := find_damage(Path(resume)):
        raise InputError(
            f"{resume} is no checkpoint to resume from ({damage}): give a checkpoint-<step> folder, or auto."
        )
    return resume


def check_same_run(output_dir: str | Path, recipe: dict[str, Any]) -> None:
    """A run that goes on has the data set, the size and the optimiser's settings that its best model was made with.

    Raises:
        InputError: one of them is another; the model's card would tell of what was not so.
    """
    file = Path(output_dir) / "best" / "recipe.json"
    if not file.is_file():
        return
    earlier = parse_json(file.read_text(encoding="utf-8"), file)
    # The weights of another model would not fit; the optimiser's settings come back with the checkpoint.
    for key in ("dataset", "image_size", "learning_rate", "weight_decay"):
        old, new = earlier.get(key), recipe.get(key)
        # 64 and 64 x 64 are one size.
        one, other = ([value] * 2 if isinstance(value, int) else value for value in (old, new))
        if old is not None and new is not None and one != other:
            raise InputError(
                f"The run in {output_dir} has {key} {old}, but {new} was given. Leave it as it was to go on with that "
                "run, or give another output_dir."
            )


def list_checkpoints(output_dir: str | Path) -> list[Path]:
    """The checkpoints of a run, whole or not, from the last step to the first.

    `checkpoint-8.old` is one that was to be replaced when the run died between two renames.
    """
    found = [path for path in Path(output_dir).glob("checkpoint-*") if re.fullmatch(r"-\d+(\.old)?", path.name[10:])]
    return sorted(found, key=lambda path: (step_of(path), path.suffix == ""), reverse=True)


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removesuffix(".old").rpartition("-")[2])


def is_whole(checkpoint: Path, *, contents: bool = True, say: bool = False) -> bool:
    """Whether every file of a checkpoint is there as it was written (see `hfseg.manifest`).

    Args:
        checkpoint: its folder.
        contents: compare checksums, too.
        say: warn where it is not whole.
    """
    damage = find_damage(checkpoint, contents=contents)
    if damage and say:
        logger.warning(f"{checkpoint} is passed over: {damage}.")
    return damage is None


def publish_checkpoint(new: Path, folder: Path, about: dict[str, Any]) -> None:
    """Gives a checkpoint that was written aside its name, once it is on disk to the last byte.

    Args:
        new: where it was written, on the same disk.
        folder: checkpoint-<step>; one of this name that is there already gives way to it.
        about: see `write_manifest`.
    """
    write_manifest(new, about)
    old = folder.with_name(f"{folder.name}.old")
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
    new.rename(folder)
    flush(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def delete_older(newest: Path, limit: int | None, best: str | Path | None = None) -> None:
    """Keeps `limit` whole checkpoints: the one just written, `best`, and those before it; broken ones go.

    Args:
        newest: the one just written; others of later steps are of a run that was given up, and go first.
        limit: None or 0 keeps all.
        best: never deleted.
    """
    if not limit or limit < 0:
        return
    others = [path for path in list_checkpoints(newest.parent) if path != newest]
    others.sort(key=lambda path: step_of(path) <= step_of(newest), reverse=True)
    kept = {newest, *([Path(best)] if best and is_whole(Path(best), contents=False) else [])}
    for path in others:
        if path in kept:
            continue
        if len(kept) < limit and is_whole(path, contents=False):
            kept.add(path)
        else:
            shutil.rmtree(path, ignore_errors=True)


def prepare_output_dir(output_dir: str | Path, *, overwrite: bool, resume: bool) -> None:
    """Refuses a used output_dir, or clears the earlier run in it.

    Raises:
        InputError: an earlier run lies there and neither `overwrite` nor `resume` is set, or the path is a file.
    """
    folder = Path(output_dir)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"output_dir {folder} is a file; give a folder.")
    used = [p for name in (*RUN_FILES, "checkpoint-*") for p in sorted(folder.glob(name))]
    if not used or resume:
        return
    if not overwrite:
        raise InputError(
            f"output_dir {folder} holds an earlier run ({used[0].name}): give another --output_dir, or go on with "
            "--resume_from_checkpoint auto, or delete it with --overwrite true."
        )
    for path in used:
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def write_json(path: str | Path, value: object) -> None:
    """Writes JSON whole or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(value, indent=2, allow_nan=False) + "\n")

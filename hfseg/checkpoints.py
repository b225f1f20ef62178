"""Weights back from disk, all of them; and which checkpoint a run goes on from.

transformers saves some models in their original key format and Trainer loads that file without the conversion, so that
most tensors stay as they are (8 of 124 of a SegFormer are restored, with a log warning). Here a model comes back
through its own `from_pretrained`, and whatever is missing stops the run.
"""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import PreTrainedModel

from hfseg.errors import InputError
from hfseg.sharded import load_weights

logger = logging.getLogger(__name__)

# What a run writes into its output_dir; `overwrite` deletes these and nothing else.
RUN_FILES = (
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
        found = sorted(Path(output_dir).glob("checkpoint-*"), key=_step)
        return next((str(folder) for folder in reversed(found) if is_whole(folder)), None)
    if not is_whole(Path(resume)):
        raise InputError(f"{resume} is no checkpoint to resume from: give a checkpoint-<step> folder, or auto.")
    return resume


def _step(checkpoint: Path) -> int:
    number = checkpoint.name.rpartition("-")[2]
    return int(number) if number.isdigit() else -1


def is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint was written to its end: Trainer writes its files in place, and trainer_state.json last."""
    try:
        state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(state, dict)


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
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    temporary.replace(path)

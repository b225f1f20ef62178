"""run.json: what a finished training was, beyond its curves and its scores. It is written last, and marks the end."""

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch
import transformers

import hfseg
from hfseg.checkpoints import unwrap, write_json
from hfseg.models.encoder import find_encoder

RUN_FILE = "run.json"


def write_run_facts(
    output_dir: str | Path, trainer: Any, recipe: dict[str, Any], sizes: dict[str, int], test: dict[str, Any]
) -> None:
    """Writes OUTPUT_DIR/run.json whole.

    Args:
        output_dir: the run's folder.
        trainer: after training, with its log.
        recipe: the merged recipe.
        sizes: images of each split.
        test: split, resolution and scores of the best model.
    """
    model, args = unwrap(trainer.model), trainer.args
    timed = [entry for entry in trainer.state.log_history if "train_seconds" in entry]
    speeds = sorted(entry["images_per_second"] for entry in timed if "images_per_second" in entry)
    facts = {
        "recipe": recipe,
        "split_sizes": sizes,
        "epochs": trainer.state.epoch,
        "steps": trainer.state.global_step,
        "parameters": sum(p.numel() for p in model.parameters()),
        "trained_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "encoder_parameters": sum(p.numel() for p in find_encoder(model).parameters()),
        "train_seconds": timed[-1]["train_seconds"] if timed else None,
        "images_per_second": speeds[len(speeds) // 2] if speeds else None,  # the median resists a busy machine
        "peak_memory_mb": timed[-1].get("peak_memory_mb") if timed else None,
        "peak_memory_of": "tensors on the device" if args.device.type == "cuda" else "the process",
        "hardware": describe_machine(args.device, args.world_size),
        "versions": {"hfseg": hfseg.__version__, "torch": torch.__version__, "transformers": transformers.__version__},
        "commit": read_commit(),
        "test": test,
    }
    write_json(Path(output_dir) / RUN_FILE, facts)


def describe_machine(device: torch.device, num_processes: int = 1) -> str:
    """Devices on which a run went, as one line."""
    if device.type == "cuda":
        return f"{num_processes} x {torch.cuda.get_device_name(device)}"
    if device.type == "cpu":
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        return f"{cores} CPU cores ({platform.machine()})" + (f", {num_processes} processes" * (num_processes > 1))
    return f"{num_processes} x {device.type}"


def read_commit() -> str | None:
    """The commit of the checkout that this package runs from, with + where files differ; None: no checkout."""
    here = Path(__file__).parent

    def git(*words: str) -> str | None:
        try:
            # Fixed words, no shell; which git is the user's own choice.
            command = ["git", "-C", str(here), *words]
            result = subprocess.run(command, capture_output=True, text=True, timeout=10)  # noqa: S603
        except (OSError, subprocess.TimeoutExpired):
            return None
        return result.stdout.strip() if result.returncode == 0 else None

    if git("ls-files", "--error-unmatch", Path(__file__).name) is None:
        return None  # installed in a folder that happens to lie in some other checkout
    commit = git("rev-parse", "--short=10", "HEAD")
    return commit and commit + "+" * bool(git("status", "--porcelain", "--untracked-files=no", "--", str(here)))

"""One job of a study: what its folder says of it, and the process that trains it."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hfseg.checkpoints import RUN_FILES, write_json
from hfseg.errors import InputError
from hfseg.study.plan import Job
from hfseg.workers import die_with_parent

RECIPE, MARKER, CONSOLE = "recipe.json", "finished.json", "console.log"
SIGNALS = (-signal.SIGINT, 128 + signal.SIGINT, -signal.SIGTERM, 128 + signal.SIGTERM)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object, empty where there is none or a broken one."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def is_finished(job: Job) -> bool:
    """Whether the marker, written whole at the very end, says so of this recipe."""
    return read_json(job.folder / MARKER).get("hash") == job.hash()


def check_folder(job: Job) -> None:
    """A run's folder must be new, or belong to this very recipe.

    Raises:
        InputError: it holds a run of another recipe, or one that no study made.
    """
    there = read_json(job.folder / RECIPE)
    if not there:
        used = [name for name in (*RUN_FILES, MARKER) if (job.folder / name).exists()]
        if used:
            raise InputError(
                f"{job.folder} holds a run that no study made ({used[0]}). Give another --output_dir, or delete it."
            )
        return
    if there.get("_hash") == job.hash():
        return
    recipe = job.recipe()
    hidden = {"_hash", *(["weights"] if job.weights is not None else [])}  # that path holds the study's own folder
    keys = [k for k in sorted({*there, *recipe} - hidden) if there.get(k) != recipe.get(k)]
    reason = f"{keys[0]} is {there.get(keys[0])!r} there and {recipe.get(keys[0])!r} here" if keys else ""
    raise InputError(
        f"{job.folder} holds a run of another recipe ({reason or 'the run its weights come from has changed'}). Give "
        "another --output_dir, or delete that folder."
    )


def start(job: Job, launcher: Sequence[str] = (), lock: int | None = None) -> subprocess.Popen[bytes]:
    """Starts `hfseg train` on the job's recipe, from its newest whole checkpoint where there is one.

    Its output goes to console.log. On Linux it ends when this process does, however that ends, and holds the study's
    lock until then: two processes never write into one folder.
    """
    job.folder.mkdir(parents=True, exist_ok=True)
    write_json(job.folder / RECIPE, job.recipe())
    command = [sys.executable, "-m", "hfseg.cli", "train", str(job.folder / RECIPE)]
    command += ["--output_dir", str(job.folder), "--resume_from_checkpoint", "auto", *launcher]
    if job.run.recipe.get("report_to") and not job.run.recipe.get("run_name"):
        command += ["--run_name", f"{job.run.name}-seed{job.seed}"]
    with open(job.folder / CONSOLE, "ab") as console:
        return subprocess.Popen(  # noqa: S603  our own command, no shell
            command,
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=subprocess.STDOUT,
            preexec_fn=die_with_parent(os.getpid()),
            pass_fds=() if lock is None else (lock,),
        )


def finish(job: Job) -> dict[str, Any]:
    """Marks a job as finished, and deletes the checkpoints that it could have been resumed from."""
    facts = read_json(job.folder / "run.json")
    test = facts.get("test", {})
    marker = {"hash": job.hash(), "run": job.run.name, "seed": job.seed, "test_mean_iou": test.get("mean_iou")}
    write_json(job.folder / MARKER, marker | {"train_seconds": facts.get("train_seconds")})
    for checkpoint in job.folder.glob("checkpoint-*"):
        shutil.rmtree(checkpoint, ignore_errors=True)
    return marker


def read_failure(job: Job, code: int) -> str:
    """Why a job failed, in one line, from the end of its output."""
    try:
        lines = (job.folder / CONSOLE).read_text(encoding="utf-8", errors="replace").replace("\r", "\n").splitlines()
    except OSError:
        lines = []
    told = [line.removeprefix("hfseg: error: ") for line in lines if line.startswith("hfseg: error: ")]
    if code == 2 and told:
        return told[-1]
    if code < 0:
        return f"ended by signal {signal.Signals(-code).name}; its output is in {job.folder / CONSOLE}"
    last = next((line.strip() for line in reversed(lines) if line.strip()), "no output")
    return f"exit code {code}: {last[:200]} (all of it in {job.folder / CONSOLE})"


def read_progress(job: Job) -> dict[str, Any]:
    """How far a job is, from its log: epoch, seconds so far, newest and best validation mIoU."""
    log = read_json(job.folder / "trainer_state.json").get("log_history", [])
    scores = [entry["eval_mean_iou"] for entry in log if "eval_mean_iou" in entry]
    timed = [entry for entry in log if "train_seconds" in entry]
    return {
        "epoch": timed[-1].get("epoch", 0.0) if timed else 0.0,
        "seconds": timed[-1]["train_seconds"] if timed else 0.0,
        "best": max(scores, default=None),
    }

"""Kills a short run at random moments and compares what it ends with, bit for bit, with a run that nothing broke off.

python benchmarks/faults.py [--kills 50] [--in_saves 20] [--seed 0] [--output_dir runs/faults] [--results results]

Each trial trains the run of tests/small_run.py (augmentation on, 2 DataLoader workers, dropout, a checkpoint at every
third step) in a process of its own, sends it SIGKILL at a random moment, starts it again with
`--resume_from_checkpoint auto`, and lets it end. `--in_saves` of the kills wait for a checkpoint that is being written:
then the half-written folder is there after the kill, and is seen to be passed over. Every process is a fork of this
one, which has imported the libraries: nothing of a run is shared, and fifty of them take minutes, not hours.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported
ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import torch  # noqa: E402
from small_run import list_differences, read_run, write_recipe  # noqa: E402

import hfseg.train  # noqa: E402
from hfseg.checkpoints import STAGING, find_checkpoint, is_whole  # noqa: E402
from hfseg.logs import show_errors  # noqa: E402
from hfseg.run_facts import describe_machine, read_commit  # noqa: E402

FORK = multiprocessing.get_context("fork")


def train(recipe: Path, folder: Path, log: Path) -> None:
    """The child: what `hfseg train` does in one process."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.setsid()  # its workers die with it
    argv = [str(recipe), "--output_dir", str(folder), "--resume_from_checkpoint", "auto"]
    os._exit(show_errors(hfseg.train.main, argv))


def start(recipe: Path, folder: Path) -> Any:
    process = FORK.Process(target=train, args=(recipe, folder, folder.with_suffix(".log")))
    process.start()
    return process


def finish(recipe: Path, folder: Path) -> float:
    """Trains to the end; the seconds it took."""
    begun = time.monotonic()
    process = start(recipe, folder)
    process.join()
    if process.exitcode != 0:
        raise SystemExit(f"{folder} ended with {process.exitcode}: see {folder.with_suffix('.log')}")
    return time.monotonic() - begun


def kill(process: Any) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL) if os.getpgid(process.pid) == process.pid else process.kill()
    process.join()


def is_saving(folder: Path) -> bool:
    """Whether a checkpoint has begun and is not whole yet."""
    try:
        started = next((folder / STAGING).glob("checkpoint-*"), None)
        return started is not None and any(started.iterdir()) and not (started / "checkpoint.json").exists()
    except FileNotFoundError:  # it has just been renamed
        return False


def kill_at(process: Any, folder: Path, seconds: float, in_save: int, moment: float) -> None:
    """Sends SIGKILL after so many seconds, or `moment` seconds into the in_save-th save."""
    begun, saves, was_saving = time.monotonic(), 0, False
    while process.is_alive():
        if not in_save:
            time.sleep(max(seconds - (time.monotonic() - begun), 0))
            break
        saving = is_saving(folder)
        saves += saving and not was_saving
        was_saving = saving
        if saves >= in_save:
            time.sleep(moment)
            break
        time.sleep(0.0005)
    kill(process)


def run_trial(recipe: Path, whole: dict[str, Any], folder: Path, rng: random.Random, seconds: float, save: bool) -> Any:
    """One kill, one resume, one comparison."""
    at, moment = rng.uniform(0, seconds), rng.uniform(0, 0.02)
    process = start(recipe, folder)
    kill_at(process, folder, at, rng.randint(1, 5) if save else 0, moment)
    staged = list((folder / STAGING).glob("checkpoint-*"))
    half = [path for path in staged if not is_whole(path)]
    seen = f"{len(list(half[0].iterdir()))} files" if half else ""
    newest = find_checkpoint(folder, "auto")
    refused = bool(half) and (newest is None or Path(newest).parent == folder)
    finish(recipe, folder)
    differences = list_differences(whole, read_run(folder))
    return {
        "aimed at": "a save" if save else f"{at:.1f} s",
        "half-written": seen,
        "refused": refused,
        "resumed from": Path(newest).name if newest else "the start",
        "equal": not differences,
        "differences": differences[:3],
    }


def describe(trials: list[dict[str, Any]], about: dict[str, str]) -> str:
    """The table as Markdown."""
    equal, half = sum(t["equal"] for t in trials), sum(t["refused"] for t in trials)
    lines = ["# SIGKILL at random moments", ""]
    lines += [
        f"{equal} of {len(trials)} killed runs resumed and ended bit-equal to the run that nothing broke off: weights, "
        "best weights, optimiser, schedule, random numbers, log and best metrics. "
        f"{half} were killed in a save: the half-written checkpoint was there and was refused.",
        "",
    ]
    lines += [f"- {key}: {value}" for key, value in about.items()]
    lines += ["", "| | killed at | half-written checkpoint | resumed from | bit-equal |", "|---|---|---|---|---|"]
    for number, trial in enumerate(trials, 1):
        seen = f"{trial['half-written']}, refused" if trial["refused"] else trial["half-written"]
        cells = (trial["aimed at"], seen, trial["resumed from"], "yes" if trial["equal"] else trial["differences"])
        lines.append(f"| {number} | {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--in_saves", type=int, default=20, help="kills that wait for a save")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output_dir", type=Path, default=ROOT / "runs" / "faults")
    parser.add_argument("--results", type=Path, help="folder for faults.md")
    args = parser.parse_args()
    torch.set_num_threads(1)
    shutil.rmtree(args.output_dir, ignore_errors=True)
    args.output_dir.mkdir(parents=True)
    recipe = write_recipe(args.output_dir)
    begun = time.monotonic()
    seconds = finish(recipe, args.output_dir / "whole")
    whole = read_run(args.output_dir / "whole")
    rng = random.Random(args.seed)
    trials: list[dict[str, Any]] = []
    for number in range(args.kills):
        folder = args.output_dir / f"kill{number:02d}"
        trial = run_trial(recipe, whole, folder, rng, seconds, number < args.in_saves)
        trials.append(trial)
        print(json.dumps({"kill": number + 1, **trial}), flush=True)
        if trial["equal"]:
            shutil.rmtree(folder)
    options = f"--kills {args.kills} --in_saves {args.in_saves} --seed {args.seed}"
    about = {
        "command": f"`python benchmarks/faults.py {options} --results results`",
        "commit": read_commit() or "",
        "hardware": describe_machine(torch.device("cpu")) + ", one thread a process",
        "time": f"{(time.monotonic() - begun) / 60:.1f} min; an unbroken run {seconds:.1f} s",
    }
    text = describe(trials, about)
    print(text)
    if args.results is not None:
        (args.results / "faults.md").write_text(text, encoding="utf-8")
    return 0 if all(trial["equal"] for trial in trials) else 1


if __name__ == "__main__":
    sys.exit(main())

"""Trains every run of a study, one after the other: `hfseg study STUDY.json --output_dir OUT [--only RUN ...]`."""

import contextlib
import os
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil

from hfseg.args import split_options
from hfseg.checkpoints import write_json
from hfseg.errors import InputError, near_names
from hfseg.launch import plan_launch, split_launcher_options
from hfseg.logs import show_errors, start_log
from hfseg.study.jobs import SIGNALS, check_folder, finish, is_finished, read_failure, read_json, start
from hfseg.study.plan import Job, RunPlan, build_jobs, read_study
from hfseg.study.progress import BLOCKED, FAILED, FINISHED, RUNNING, Board

STUDY_FILE = "study.json"  # what the report knows of the study
REDRAW = 2.0  # seconds
PATIENCE = 60.0  # seconds in which the run of a study that was killed has to end
USAGE = """usage: hfseg study STUDY.json --output_dir OUT [--only RUN ...] [--seeds N ...] [--[RUN.]key value ...]

Trains every run of the study in a process of its own, OUT/<run>/seed<k>, and writes OUT/report/index.html. Started
again, it leaves finished runs alone and goes on with a broken one from its last checkpoint.

  --output_dir OUT        folder of the study
  --only RUN ...          these runs alone, with those that they take their weights from
  --seeds N ...           these seeds in place of the file's
  --key value             an option of `hfseg train`, for every run
  --RUN.key value         the same for one run, or for several: --'fcn_*.num_train_epochs' 10
  --num_processes N, --config_file FILE   how accelerate starts each run"""


def main(argv: Sequence[str] | None = None) -> int:
    # ---- command line -> jobs ----
    argv = list(sys.argv[1:] if argv is None else argv)
    if "--help" in argv or "-h" in argv:
        print(USAGE)
        return 0
    if not argv or argv[0].startswith("--"):
        raise InputError("Which study? Give its file first: hfseg study recipes/studies/smoke.json --output_dir OUT.")
    launcher, rest = split_launcher_options(argv[1:])
    plan_launch(launcher)
    options = split_options(rest)
    output_dir = _one(options.pop("output_dir", [str(Path("runs") / Path(argv[0]).stem)]), "output_dir")
    only, seeds = options.pop("only", None), _seeds(options.pop("seeds", None))
    runs = read_study(argv[0], options, seeds)
    jobs = select_jobs(build_jobs(runs, output_dir), only)
    if Path(output_dir).is_file():
        raise InputError(f"output_dir {output_dir} is a file; give a folder.")
    check_record(Path(output_dir))
    for job in jobs:
        check_folder(job)

    # ---- jobs -> finished runs ----
    with locked(output_dir) as lock:
        record = StudyRecord(Path(output_dir), argv, runs)
        ended_well = run_jobs(jobs, record, [f"--{key}={value}" for key, value in launcher.items()], lock)

    # ---- report ----
    from hfseg.report import write_report

    start_log()
    try:
        print(f"\nreport  {write_report([Path(output_dir)], Path(output_dir) / 'report')}")
    except InputError:
        if ended_well:
            raise
        print("\nno report: not one run has trained")
    return 0 if ended_well else 1


def run_jobs(jobs: Sequence[Job], record: "StudyRecord", launcher: Sequence[str], lock: int | None = None) -> bool:
    """Runs what is not finished yet; a failed job does not stop those that don't need it. False: some failed."""
    board = Board(jobs)
    for job in jobs:
        if is_finished(job):
            board.set(job, FINISHED)
    board.show()
    for job in jobs:
        if board.states[job.name] == FINISHED:
            record.update(board)
            continue
        if missing := [other for other in job.after if board.states[other.name] != FINISHED]:
            board.set(job, BLOCKED, f"needs {missing[0].name}, which did not finish")
            record.update(board)
            continue
        board.set(job, RUNNING)
        record.update(board)
        board.show(job)
        code = train(job, board, launcher, lock)
        if code == 0:
            finish(job)
            board.set(job, FINISHED)
        elif code in SIGNALS:
            raise KeyboardInterrupt
        else:
            board.set(job, FAILED, read_failure(job, code))
        record.update(board)
        board.show(job)
    board.show()
    return all(state == FINISHED for state in board.states.values())


def train(job: Job, board: Board, launcher: Sequence[str], lock: int | None = None) -> int:
    """Trains one job to its end, and keeps the table current meanwhile."""
    process = start(job, launcher, lock)
    drawn = time.monotonic()
    try:
        while process.poll() is None:
            time.sleep(0.1)
            if board.live and time.monotonic() - drawn > REDRAW:
                board.show()
                drawn = time.monotonic()
    except BaseException:
        process.terminate()
        process.wait()
        raise
    return process.returncode


def check_record(folder: Path) -> None:
    """OUT/study.json is written anew, so that it may only be an earlier record.

    Raises:
        InputError: it is something else, such as the study's own file.
    """
    path = folder / STUDY_FILE
    if path.exists() and not {"command", "jobs"} <= {*read_json(path)}:
        raise InputError(
            f"{path} is no record of a study, and the record would take its place. Give another --output_dir, or move "
            "that file."
        )


class StudyRecord:
    """OUT/study.json: every run with its recipe, its state and why it was not run; written anew at each change."""

    def __init__(self, folder: Path, argv: Sequence[str], runs: Sequence[RunPlan]) -> None:
        self.path = folder / STUDY_FILE
        before = {(row["run"], row["seed"]): row for row in read_json(self.path).get("jobs", [])}
        self.runs, self.command = runs, "hfseg study " + shlex.join(argv)
        self.jobs: dict[tuple[str, int], dict[str, Any]] = {}
        for run in runs:
            seeds = [*run.seeds, *(s for name, s in before if name == run.name and s not in run.seeds)]
            for seed in seeds:
                row = {"run": run.name, "seed": seed, "state": BLOCKED, "reason": "left out by --only or --seeds"}
                self.jobs[run.name, seed] = before.get((run.name, seed), row)

    def update(self, board: Board) -> None:
        for job in board.jobs:
            state, reason = board.states[job.name], board.reasons.get(job.name, "")
            self.jobs[job.run.name, job.seed] = {
                "run": job.run.name,
                "seed": job.seed,
                "state": state,
                "reason": reason,
            }
        runs = [
            {"name": r.name, "recipe": r.recipe, "changed": r.changed, "weights_from": r.weights_from}
            for r in self.runs
        ]
        write_json(self.path, {"command": self.command, "runs": runs, "jobs": list(self.jobs.values())})


def select_jobs(jobs: Sequence[Job], only: Sequence[str] | None) -> list[Job]:
    """The jobs of the runs in `only`, with those that they need.

    Raises:
        InputError: there is no such run.
    """
    if only is None:
        return list(jobs)
    names = list(dict.fromkeys(job.run.name for job in jobs))
    for name in only:
        if name not in names:
            raise InputError(
                f"There is no run {name!r} in the study; there are {', '.join(names)}.{near_names(name, names)}"
            )
    wanted: set[int] = set()

    def want(job: Job) -> None:
        wanted.add(id(job))
        for other in job.after:
            want(other)

    for job in jobs:
        if job.run.name in only:
            want(job)
    return [job for job in jobs if id(job) in wanted]


@contextlib.contextmanager
def locked(output_dir: str | Path) -> Iterator[int | None]:
    """Holds the study's folder for this process and the run it has under way, where the system has flock(2).

    Yields:
        The lock's file descriptor, which the run inherits: a run lives a moment longer than a study that was killed.

    Raises:
        InputError: another study is running there.
    """
    folder = Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:  # Windows
        yield None
        return
    with open(folder / ".lock", "a+") as file:
        end = time.monotonic() + PATIENCE
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                file.seek(0)
                owner = file.read().strip()
                if owner.isdigit() and psutil.pid_exists(int(owner)) or time.monotonic() > end:
                    raise InputError(
                        f"A study is running in {folder} (process {owner or '?'}). Wait for it, or give another "
                        "--output_dir."
                    ) from None
            time.sleep(0.1)  # that study was killed, and its run is about to end
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield file.fileno()


def _one(values: Sequence[str], name: str) -> str:
    if len(values) != 1:
        raise InputError(f"{name} is {' '.join(values) or 'empty'}; give one folder.")
    return values[0]


def _seeds(values: Sequence[str] | None) -> list[int] | None:
    if values is None:
        return None
    if not values or not all(value.isdigit() for value in values):
        raise InputError(f"seeds are {' '.join(values) or 'empty'}; give whole numbers from 0: --seeds 0 1 2.")
    return [int(value) for value in values]


if __name__ == "__main__":
    sys.exit(show_errors(main))

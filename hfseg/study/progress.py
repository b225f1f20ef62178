"""What is done and how long the rest will take."""

import shutil
import sys
import time
from collections.abc import Sequence
from typing import Any

from hfseg.study.jobs import MARKER, read_json, read_progress
from hfseg.study.plan import Job

FINISHED, FAILED, BLOCKED, RUNNING, WAITING = "finished", "failed", "not run", "running", "waiting"


class Board:
    """The table of all jobs; on a terminal it is redrawn in place, else printed when a job ends.

    Args:
        jobs: in the order in which they run.
    """

    def __init__(self, jobs: Sequence[Job]) -> None:
        self.jobs = list(jobs)
        self.states: dict[str, str] = {job.name: WAITING for job in jobs}
        self.reasons: dict[str, str] = {}
        self.started = time.monotonic()
        self.live = sys.stdout.isatty()
        self._drawn = 0  # lines of the last table on the terminal
        self._starts: list[float] = []  # seconds of finished jobs that were no training: starting, testing

    def set(self, job: Job, state: str, reason: str = "") -> None:
        if state == FINISHED and self.states[job.name] == RUNNING:
            self._starts.append(max(time.monotonic() - self.started - read_progress(job)["seconds"], 0.0))
        self.states[job.name] = state
        self.reasons[job.name] = reason
        if state == RUNNING:
            self.started = time.monotonic()

    def show(self, job: Job | None = None) -> None:
        """Prints the table, over the one before on a terminal; into a file only the row of `job` where one is given."""
        lines = self.lines()
        if job is not None and not self.live:
            lines = [lines[1 + self.jobs.index(job)], lines[-1]]
        if self.live:
            width, height = shutil.get_terminal_size()
            if self._drawn:
                print(f"\x1b[{self._drawn}A\x1b[J", end="")
            lines = [line[: width - 1] for line in lines[-(height - 1) :]]
            self._drawn = len(lines)
        print("\n".join(lines), flush=True)

    def lines(self) -> list[str]:
        width = max(len("run"), *(len(job.run.name) for job in self.jobs))
        table = [f"{'run':{width}}  seed  state      epoch   val mIoU  test mIoU      time      left"]
        total = 0.0
        known = True
        for job in self.jobs:
            state, progress = self.states[job.name], read_progress(job)
            marker = read_json(job.folder / MARKER) if state == FINISHED else {}
            left = self.seconds_left(job, progress)
            if state in (RUNNING, WAITING):
                known &= left is not None
                total += (left or 0.0) + (sum(self._starts) / len(self._starts) if self._starts else 0.0)
            epochs = f"{progress['epoch']:.0f}/{job.run.recipe.get('num_train_epochs', 30):g}"
            cells = [
                f"{job.run.name:{width}}  {job.seed:4}  {state:9}  {epochs if progress['epoch'] else '-':>6}",
                f"{_number(progress['best']):>8}  {_number(marker.get('test_mean_iou')):>9}",
                f"{_time(progress['seconds'] or None):>8}",
                f"{_time(left) if state in (RUNNING, WAITING) else '':>8}",
            ]
            table.append("  ".join(cells) + (f"  {self.reasons[job.name]}" if self.reasons.get(job.name) else ""))
        counts = {state: list(self.states.values()).count(state) for state in (FINISHED, FAILED, BLOCKED)}
        told = ", ".join(f"{n} {state}" for state, n in counts.items() if n or state == FINISHED)
        rest = f"; about {_time(total)} left" if known and total else ""
        if not known:
            rest = f"; more than {_time(total)} left" if total else "; the time left is not known yet"
        return [*table, f"{told} of {len(self.jobs)}{rest}"]

    def seconds_left(self, job: Job, progress: dict[str, Any]) -> float | None:
        """From the job's own pace, else that of the same run with another seed, else of runs like it; None: unknown."""
        epochs = float(job.run.recipe.get("num_train_epochs", 30))
        rest = max(epochs - progress["epoch"], 0.0)
        if progress["epoch"] > 0:
            since = time.monotonic() - self.started if self.states[job.name] == RUNNING else 0.0
            pace = progress["seconds"] / progress["epoch"]
            return max(rest * pace - min(since, pace), 0.0)
        for alike in (
            lambda other: other.run is job.run,
            lambda other: all(
                other.run.recipe.get(k) == job.run.recipe.get(k) for k in ("model", "image_size", "freeze", "dataset")
            ),
            lambda other: other.run.recipe.get("model") == job.run.recipe.get("model"),
        ):
            found = [read_progress(other) for other in self.jobs if alike(other)]
            paces = [p["seconds"] / p["epoch"] for p in found if p["epoch"] > 0]
            if paces:
                return epochs * sum(paces) / len(paces)
        return None


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _time(seconds: float | None) -> str:
    """4000 as 1h06m."""
    if seconds is None:
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02}m" if hours else f"{minutes}m{rest:02}s" if minutes else f"{rest}s"

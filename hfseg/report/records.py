"""Runs as they lie on disk, with all that a report says of them."""

import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hfseg.errors import InputError

STATE_FILE, RUN_FILE, STUDY_FILE = "trainer_state.json", "run.json", "study.json"


@dataclass
class SeedRun:
    """One training.

    Attributes:
        log: Trainer's log history.
        facts: run.json, empty while the training is not finished.
        reason: why it is not.
    """

    seed: int
    folder: Path
    log: list[dict[str, Any]] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    reason: str = ""

    @property
    def test(self) -> dict[str, Any]:
        return self.facts.get("test", {})

    @property
    def score(self) -> float:
        """Mean IoU on the test set."""
        return self.test["mean_iou"]

    def validations(self) -> list[tuple[float, float]]:
        """(epoch, validation mIoU), in order."""
        return [(entry["epoch"], entry["eval_mean_iou"]) for entry in self.log if "eval_mean_iou" in entry]

    def epochs_to_90(self, upto: float = math.inf) -> float:
        """First validated epoch that reaches 90 % of the best validation mIoU up to an epoch, unless told of all."""
        points = [point for point in self.validations() if point[0] <= upto]
        return next(epoch for epoch, value in points if value >= 0.9 * max(v for _, v in points))

    def early_score(self) -> float:
        """Mean validation mIoU over the first quarter of the epochs, at least the first validation."""
        points = self.validations()
        early = [value for epoch, value in points if epoch <= points[-1][0] / 4] or [points[0][1]]
        return sum(early) / len(early)

    def fluctuation(self, upto: float = math.inf) -> float | None:
        """Mean change of validation mIoU from one validation to the next, up or down, in the second half of training.

        Validations count from half of the last validated epoch on; None where there is but one.

        Args:
            upto: takes training as ended with this epoch.
        """
        points = [point for point in self.validations() if point[0] <= upto]
        late = [value for epoch, value in points if epoch >= points[-1][0] / 2]
        steps = [abs(b - a) for a, b in zip(late, late[1:])]
        return sum(steps) / len(steps) if steps else None

    def gap(self) -> float | None:
        """Training mIoU minus validation mIoU in the epoch whose weights were kept."""
        points = self.validations()
        kept = max(points, key=lambda point: point[1])
        training = [(e["epoch"], e["train_mean_iou"]) for e in self.log if "train_mean_iou" in e]
        upto = [value for epoch, value in training if epoch <= kept[0] + 1e-6]
        return upto[-1] - kept[1] if upto else None


@dataclass
class Run:
    """A row of the report: one recipe with one or several seeds."""

    name: str
    recipe: dict[str, Any]
    seeds: list[SeedRun]
    weights_from: str | None = None
    changed: dict[str, Any] = field(default_factory=dict)

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) in pixels; a recipe may give one number, or nothing."""
        size = self.recipe.get("image_size") or 512
        height, *width = size if isinstance(size, list) else [size]
        return height, width[0] if width else height

    @property
    def finished(self) -> list[SeedRun]:
        return [seed for seed in self.seeds if seed.test.get("mean_iou") is not None and seed.validations()]

    @property
    def scores(self) -> list[float]:
        return [seed.score for seed in self.finished]

    @property
    def reason(self) -> str:
        """Why no seed of it finished."""
        return next((seed.reason for seed in self.seeds if seed.reason), "not finished")


def read_runs(folders: Sequence[Path]) -> tuple[list[Run], list[str]]:
    """Reads runs, studies, or folders that hold either.

    Returns:
        the runs, and the commands of the studies.

    Raises:
        InputError: no such folder, nothing in it, or two runs of one name.
    """
    runs: list[Run] = []
    commands: list[str] = []
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"There is no folder {folder}. Give a run or a study: hfseg report runs/smoke_study.")
        study = _read_record(folder)
        found = _read_study(folder, study) if study else _find_runs(folder)
        if not found or not any(seed.log for run in found for seed in run.seeds):
            raise InputError(
                f"{folder} holds no run that has logged anything (no {STATE_FILE}). Give the output_dir of hfseg train "
                "or hfseg study."
            )
        commands += [study["command"]] if study else []
        runs += found
    names = [run.name for run in runs]
    if doubled := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"Two of these folders hold a run {doubled[0]}; rename one folder, or report on one alone.")
    return runs, commands


def _read_record(folder: Path) -> dict[str, Any]:
    """What `hfseg study` noted of the folder; a study's definition may have the same name, and is no record."""
    study = _read(folder / STUDY_FILE)
    return study if all(key in study for key in ("command", "runs", "jobs")) else {}


def _read_study(folder: Path, study: dict[str, Any]) -> list[Run]:
    runs = []
    for row in study["runs"]:
        jobs = [job for job in study["jobs"] if job["run"] == row["name"]]
        seeds = [_read_seed(folder / row["name"] / f"seed{job['seed']}", job["seed"], job) for job in jobs]
        runs.append(Run(row["name"], row["recipe"], seeds, row.get("weights_from"), row.get("changed", {})))
    return runs


def _find_runs(folder: Path) -> list[Run]:
    """The folder itself where it is a run; else <run>/ or <run>/seed<k>/ in it."""
    grouped: dict[str, list[SeedRun]] = {}
    below = [*sorted(folder.glob("*/")), *sorted(folder.glob("*/seed*/"))]
    is_run = any((folder / name).is_file() for name in (STATE_FILE, RUN_FILE))
    for path in [folder] if is_run else _unique(below):
        # A checkpoint holds a state of its own, which is a part of its run's.
        if not (path / STATE_FILE).is_file() or re.fullmatch(r"checkpoint-\d+", path.name):
            continue
        seeded = re.fullmatch(r"seed(\d+)", path.name)
        seed = int(seeded[1]) if seeded else int(_recipe(path).get("seed", 0))
        resolved = path.resolve()
        grouped.setdefault(resolved.parent.name if seeded else resolved.name, []).append(_read_seed(path, seed))
    return [Run(name, _recipe(seeds[0].folder), seeds) for name, seeds in grouped.items()]


def _read_seed(folder: Path, seed: int, job: dict[str, Any] | None = None) -> SeedRun:
    facts = _read(folder / RUN_FILE)
    reason = ""
    if not facts:
        state, told = (job or {}).get("state", ""), (job or {}).get("reason", "")
        reason = told or ("broken off" if state in ("", "running", "waiting") else state)
    return SeedRun(seed, folder, _read(folder / STATE_FILE).get("log_history", []), facts, reason)


def _recipe(folder: Path) -> dict[str, Any]:
    return _read(folder / RUN_FILE).get("recipe") or _read(folder / "best" / "recipe.json")


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _unique(paths: Iterable[Path]) -> list[Path]:
    return list({path.resolve(): path for path in paths}.values())

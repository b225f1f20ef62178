"""A study file as a list of jobs, each one training with its whole recipe, in an order in which they can run."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from hfseg.args import RUN_ONLY_KEYS, parse, read_recipe
from hfseg.errors import InputError, near_names

STUDY_KEYS = ("seeds", "overrides", "runs")
RUN_KEYS = ("name", "recipe", "overrides", "weights_from", "after", "seeds")
TYPES: dict[str, tuple[type, str]] = {
    "seeds": (list, "a list of whole numbers from 0: [0, 1]"),
    "overrides": (dict, 'an object of options: {"learning_rate": 0.001}'),
    "recipe": (str, 'the path of a file: "base.json"'),
    "weights_from": (str, 'the name of one run: "source"'),
    "after": (list, 'a list of names of runs: ["source"]'),
}
OWN_KEYS = ("seed", "output_dir", "overwrite", "resume_from_checkpoint")  # set by the study itself


@dataclass
class RunPlan:
    """One row of the study.

    Attributes:
        name: of the row, and of its folder.
        recipe: the merged recipe, without seed and without the weights of an earlier run.
        changed: what the command line changed of it, key -> {from, to}.
        weights_from: the run whose best model's encoder is taken.
        after: runs that have to be finished first, weights_from among them.
    """

    name: str
    recipe: dict[str, Any]
    seeds: list[int]
    changed: dict[str, Any] = field(default_factory=dict)
    weights_from: str | None = None
    after: list[str] = field(default_factory=list)


@dataclass
class Job:
    """One training: a run with one seed."""

    run: RunPlan
    seed: int
    folder: Path
    after: list["Job"] = field(default_factory=list)
    weights: "Job | None" = None

    @property
    def name(self) -> str:
        return f"{self.run.name} seed {self.seed}"

    def recipe(self) -> dict[str, Any]:
        """What the training is given; keys that begin with `_` are notes."""
        recipe = {**self.run.recipe, "seed": self.seed}
        if self.weights is not None:
            recipe["weights"] = str(self.weights.folder / "best")
        notes = {"_run": self.run.name, "_weights_from": self.run.weights_from, "_hash": self.hash()}
        return notes | recipe

    def hash(self) -> str:
        """A digest of the recipe and of those that it depends on; where the study lies is no part of it."""
        parts = [self.run.recipe, self.seed, self.weights.hash() if self.weights is not None else None]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def read_study(
    path: str | Path, changes: Mapping[str, list[str]] | None = None, seeds: Sequence[int] | None = None
) -> list[RunPlan]:
    """Reads a study file: `{"seeds": [0, 1, 2], "overrides": {...}, "runs": [{"name": ..., "recipe": ..., ...}]}`.

    A run has a name, the path of its recipe (from the study file), `overrides` of that recipe, `weights_from` (the
    run whose best encoder it starts from), `after` (other runs to wait for) and `seeds` of its own.

    Args:
        path: the file.
        changes: from the command line; `key` for every run, `RUN.key` for one, where RUN may hold `*`. They win over
            the file, and later ones over earlier ones.
        seeds: in place of every seed in the file.

    Raises:
        InputError: no such file, unknown keys, runs or options, a dependency that doesn't exist, a cycle.
    """
    path = Path(path)
    study = read_recipe(path)
    _check_row(path, study, STUDY_KEYS, "A study")
    rows = study.get("runs")
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise InputError(f'{path} has no list of runs. Give "runs": [{{"name": ..., "recipe": ...}}, ...].')
    names = [str(row.get("name", "")) for row in rows]
    for name in names:
        if not name.replace("-", "_").isidentifier():
            raise InputError(f"{path}: {name!r} is no name for a run; give letters, digits, _ and -.")
        if names.count(name) > 1:
            raise InputError(f"{path}: the run {name} is there {names.count(name)} times; names must differ.")
    _check_patterns(changes or {}, names)
    runs = {str(row["name"]): _read_run(path, study, row, changes or {}, seeds) for row in rows}
    for run in runs.values():
        for other in run.after:
            if other not in runs:
                near = near_names(other, names)
                raise InputError(
                    f"{path}: {run.name} waits for {other}, which is not in the study. Correct it or add it.{near}"
                )
    return _sort(path, runs)


def build_jobs(runs: Sequence[RunPlan], output_dir: str | Path) -> list[Job]:
    """One job per run and seed, seed by seed, so that every row has a first result early.

    A dependency's job of the same seed is waited for; where it has no such seed, its first.
    """
    jobs: dict[tuple[str, int], Job] = {}
    for run in runs:
        for seed in run.seeds:
            job = Job(run, seed, Path(output_dir) / run.name / f"seed{seed}")
            for other in run.after:
                seeds = [s for name, s in jobs if name == other]
                job.after.append(jobs[other, seed if seed in seeds else seeds[0]])
                if other == run.weights_from:
                    job.weights = job.after[-1]
            jobs[run.name, seed] = job
    rounds = {id(job): run.seeds.index(job.seed) for run in runs for job in jobs.values() if job.run is run}
    waits = {id(job): max([rounds[id(job)], *(rounds[id(o)] for o in job.after)]) for job in jobs.values()}
    return sorted(jobs.values(), key=lambda job: waits[id(job)])  # stable: within a round the order of the study


def _read_run(
    path: Path,
    study: dict[str, Any],
    row: dict[str, Any],
    changes: Mapping[str, list[str]],
    seeds: Sequence[int] | None,
) -> RunPlan:
    name = str(row["name"])
    _check_row(path, row, RUN_KEYS, f"The run {name}")
    if "recipe" not in row:
        raise InputError(f'{path}: {name} has no recipe. Give "recipe": a file, seen from the folder of the study.')
    own_seeds = list(seeds or row.get("seeds") or study.get("seeds") or [0])
    if not all(type(seed) is int and seed >= 0 for seed in own_seeds) or len(set(own_seeds)) < len(own_seeds):
        raise InputError(f"{path}: the seeds of {name} are {own_seeds}; give different whole numbers from 0.")
    recipe = read_recipe(path.parent / str(row["recipe"]))
    for part in (study.get("overrides"), row.get("overrides")):
        recipe |= {key: value for key, value in (part or {}).items() if not key.startswith("_")}
    recipe.pop("seed", None)
    mine = {key: value for key, value in ((_option_for(name, k), v) for k, v in changes.items()) if key}
    weights_from = None if "weights" in mine else row.get("weights_from")
    if weights_from is not None:
        recipe["weights"] = "scratch"  # stands for the path of the earlier run, which is no part of the recipe
    tokens = [token for key, values in mine.items() for token in (f"--{key}", *values)]
    given = {*recipe, *mine}
    if own := sorted(given & set(OWN_KEYS)):
        raise InputError(f"{path}: {name} sets {own[0]}, which a study sets itself. Leave it out (seeds: --seeds 0 1).")
    try:
        *_, merged = parse([*tokens, "--use_cpu", "true"], defaults=recipe)
    except InputError as error:
        raise InputError(f"{path}: {name}: {error}") from None
    if "use_cpu" not in given:
        del merged["use_cpu"]
    merged = {key: value for key, value in merged.items() if key not in RUN_ONLY_KEYS}
    if weights_from is not None:
        del merged["weights"]
    after = [*([weights_from] if weights_from else []), *(row.get("after") or [])]
    before = recipe | ({"weights": f"best of {row['weights_from']}"} if row.get("weights_from") else {})
    changed = {key: {"from": before.get(key), "to": merged.get(key)} for key in mine}
    return RunPlan(name, merged, own_seeds, changed, weights_from, list(dict.fromkeys(after)))


def _option_for(run: str, key: str) -> str | None:
    """The recipe's key that a command-line key means for this run, or None."""
    pattern, dot, option = key.rpartition(".")
    return option if not dot or fnmatchcase(run, pattern) else None


def _check_patterns(changes: Mapping[str, list[str]], names: list[str]) -> None:
    for key in changes:
        pattern, dot, _ = key.rpartition(".")
        if dot and not any(fnmatchcase(name, pattern) for name in names):
            raise InputError(
                f"--{key}: there is no run {pattern!r}; there are {', '.join(names)}.{near_names(pattern, names)}"
            )


def _check_row(path: Path, given: Mapping[str, Any], allowed: Sequence[str], what: str) -> None:
    for key in given:
        if key not in allowed and not key.startswith("_"):
            near = near_names(key, list(allowed))
            raise InputError(f"{path}: {what} has no key {key!r}; allowed are {', '.join(allowed)}.{near}")
    for key, (kind, allowed_value) in TYPES.items():
        value = given.get(key)
        if value is None:
            continue
        named = key != "after" or not isinstance(value, list) or all(isinstance(name, str) for name in value)
        if not isinstance(value, kind) or not named:
            raise InputError(f"{path}: {what} has {key} {value!r}. Give {allowed_value}; or leave it out.")


def _sort(path: Path, runs: Mapping[str, RunPlan]) -> list[RunPlan]:
    """The runs with each behind those that it waits for, else in the order of the file."""
    done: dict[str, RunPlan] = {}

    def visit(run: RunPlan, waiting: list[str]) -> None:
        if run.name in waiting:
            circle = " -> ".join([*waiting[waiting.index(run.name) :], run.name])
            raise InputError(f"{path}: these runs wait for each other: {circle}. Take one weights_from or after out.")
        if run.name not in done:
            for other in run.after:
                visit(runs[other], [*waiting, run.name])
            done[run.name] = run

    for run in runs.values():
        visit(run, [])
    return list(done.values())

"""Which runs are compared with which, the table, and what may be said of it."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hfseg.report.records import Run, SeedRun

SCRATCH, FINETUNE, HALF, FROZEN = "from scratch", "fine-tuned", "fine-tuned at half the learning rate", "frozen encoder"
ENOUGH = 0.05  # a difference that chance gives more often than this is not claimed
FAMILIES = {"fcn": "FCN", "segformer": "SegFormer"}  # the study's two networks, by how their names begin


@dataclass
class Group:
    """Runs of one network on one data set at one size, which differ in how they were trained."""

    model: str
    dataset: str
    size: str
    runs: list[Run] = field(default_factory=list)

    @property
    def label(self) -> str:
        return f"{self.model} on {self.dataset} at {self.size}"

    def find(self, strategy: str) -> Run | None:
        return next((run for run in self.runs if strategy_of(run, self) == strategy), None)

    @property
    def main(self) -> Run | None:
        """The fine-tuned run, or where it did not finish the best of those that did."""
        finetuned = self.find(FINETUNE)
        if finetuned is not None and finetuned.finished:
            return finetuned
        return max((run for run in self.runs if run.finished), key=lambda r: statistics.mean(r.scores), default=None)


def family_of(model: str) -> str:
    """FCN or SegFormer, whatever the encoder or the size; another network is a family by itself."""
    return next((family for start, family in FAMILIES.items() if model.startswith(start)), model)


def dataset_of(run: Run) -> str:
    """The data set for people: `folder` by the folder's name."""
    name = str(run.recipe.get("dataset", "folder"))
    return Path(str(run.recipe["data_dir"])).name if name == "folder" and run.recipe.get("data_dir") else name


def group_runs(runs: Sequence[Run]) -> tuple[list[Group], list[Run]]:
    """Groups of runs to compare; and the runs that only give their weights to others."""
    givers = {run.weights_from for run in runs}
    sources = [run for run in runs if run.name in givers]
    groups: dict[tuple[str, str, str], Group] = {}
    for run in runs:
        if run not in sources:
            size = run.image_size
            key = str(run.recipe.get("model", "segformer-b0")), dataset_of(run), f"{size[0]} x {size[-1]}"
            groups.setdefault(key, Group(*key)).runs.append(run)
    return list(groups.values()), sources


def strategy_of(run: Run, group: Group | None = None) -> str:
    """One of the four words above, from the recipe."""
    if run.weights_from is None and run.recipe.get("weights", "pretrained") == "scratch":
        return SCRATCH
    if run.recipe.get("freeze") == "encoder":
        return FROZEN
    rate = run.recipe.get("learning_rate")
    for other in group.runs if group else ():
        same = other is not run and strategy_of(other) == FINETUNE
        if same and rate and math.isclose(2 * rate, other.recipe.get("learning_rate") or 0):
            return HALF
    return FINETUNE


@dataclass
class Difference:
    """One list of figures against another.

    Attributes:
        mean: of the first minus that of the second.
        holds: the first is larger, and the spread does not speak against it.
        text: why, in a sentence, and whether the seeds are enough to be sure.
    """

    mean: float
    holds: bool
    text: str


def compare(first: Sequence[float], second: Sequence[float]) -> Difference:
    """Whether the first figures are larger: every seed of the one above every seed of the other.

    If seeds made no difference, n against m of them would lie so by chance once in (n + m choose n) times (the exact
    permutation test).
    """
    mean = statistics.mean(first) - statistics.mean(second)
    apart = min(first) > max(second)
    if len(first) == len(second) == 1:
        return Difference(mean, apart, "one seed each: there is no spread to judge by")
    if not apart:
        text = "the seeds overlap: the spread does not allow saying so" if mean > 0 else "the order is the other way"
        return Difference(mean, False, text)
    chances = math.comb(len(first) + len(second), len(first))
    certain = 1 / chances <= ENOUGH
    text = f"every seed lies above, which chance gives once in {chances}"
    return Difference(mean, True, text + ("" if certain else ": too few seeds to be sure"))


def comparison_rows(runs: Sequence[Run], groups: Sequence[Group]) -> list[dict[str, Any]]:
    """One row per run; numbers are means over the finished seeds, None where there are none."""
    return [_row(run, next((group for group in groups if run in group.runs), None), runs) for run in runs]


def _row(run: Run, group: Group | None, runs: Sequence[Run]) -> dict[str, Any]:
    done = run.finished
    row: dict[str, Any] = {
        "run": run.name,
        "model": run.recipe.get("model", "segformer-b0"),
        "data": dataset_of(run),
        "weights": _weights(run, runs),
        "strategy": strategy_of(run, group),
        "frozen": run.recipe.get("freeze", "none"),
        "learning_rate": run.recipe.get("learning_rate"),
        "planned_epochs": run.recipe.get("num_train_epochs"),
        "epochs": _mean([seed.facts["epochs"] for seed in done]),
        "seeds": [seed.seed for seed in done],
        "test_mean_iou": _mean(run.scores),
        "test_mean_iou_spread": statistics.stdev(run.scores) if len(done) > 1 else None,
        "test_mean_iou_seeds": run.scores,
        "split": done[0].test["split"] if done else None,
        "resolution": done[0].test["resolution"] if done else None,
        "per_class_iou": {
            name: _mean([seed.test["per_class"][name]["iou"] for seed in done]) for name in class_names(run)
        },
        "epochs_to_90": _mean([seed.epochs_to_90() for seed in done]),
        "fluctuation": _mean([seed.fluctuation() for seed in done]),
        "gap": _mean([seed.gap() for seed in done]),
    }
    for key in ("trained_parameters", "parameters", "train_seconds", "images_per_second", "peak_memory_mb"):
        row[key] = _mean([seed.facts.get(key) for seed in done])
    row["hardware"] = sorted({str(seed.facts.get("hardware")) for seed in done})
    row["commit"] = sorted({str(seed.facts.get("commit")) for seed in done})
    row["changed"] = {k: v for k, v in run.changed.items() if k != "data_dir"}
    row["not_run"] = "" if done else run.reason
    return row


def class_names(run: Run) -> list[str]:
    return list(run.finished[0].test["per_class"]) if run.finished else []


def confusion(seeds: Sequence[SeedRun]) -> list[list[int]]:
    """Pixel counts of all seeds together, the truth in rows."""
    matrices = [seed.test["confusion_matrix"] for seed in seeds]
    return [[sum(cells) for cells in zip(*rows)] for rows in zip(*matrices)]


def find_pair(first: Group, second: Group) -> tuple[Run, Run, str] | None:
    """Runs of the first strategy that was run with both networks: fine-tuned, from scratch, frozen."""
    for strategy in (FINETUNE, SCRATCH, FROZEN):
        one, two = first.find(strategy), second.find(strategy)
        if one is not None and two is not None and one.finished and two.finished:
            return one, two, strategy
    return None


def find_networks(groups: Sequence[Group]) -> tuple[Group, Group] | str:
    """An FCN and a SegFormer on the same data at the same size, or why there are not.

    Where several pairs are alike, the first that finished a common strategy is taken.
    """
    fcns, segformers = ([g for g in groups if family_of(g.model) == family] for family in FAMILIES.values())
    if not fcns or not segformers:
        return f"there is no run of {'SegFormer' if fcns else 'FCN'}"
    pairs = [(f, s) for f in fcns for s in segformers if (f.dataset, f.size) == (s.dataset, s.size)]
    if not pairs:
        labels = ", ".join(group.label for group in (*fcns, *segformers))
        return f"FCN and SegFormer were not run on the same data set at the same size: {labels}"
    return next((pair for pair in pairs if find_pair(*pair)), pairs[0])


def tell_missing(groups: Sequence[Group]) -> str:
    """Which fine-tuned runs did not finish, as a clause; empty where all did."""
    runs = [group.find(FINETUNE) for group in groups]
    names = [run.name for run in runs if run is not None and not run.finished]
    return f"{' and '.join(names)} {'was' if len(names) == 1 else 'were'} not run" if names else ""


def write_paragraph(groups: Sequence[Group]) -> list[str]:
    """Which strategy won, by how much, and whether the spread allows saying so; one paragraph a group."""
    texts = []
    for group in groups:
        ranked = sorted((r for r in group.runs if r.finished), key=lambda r: statistics.mean(r.scores), reverse=True)
        missing = [run.name for run in group.runs if not run.finished]
        text = f"{group.label}: "
        if not ranked:
            texts.append(text + "no run has finished.")
            continue
        if len(ranked) == 1:
            text += f"{ranked[0].name} alone has finished, with a test mIoU of {_score(ranked[0])}."
        else:
            best, second = ranked[:2]
            found = compare(best.scores, second.scores)
            text += (
                f"{best.name} ({strategy_of(best, group)}) came out first with a test mIoU of {_score(best)}, "
                f"{found.mean:.3f} above {second.name} with {_score(second)}; {found.text}."
            )
            if len(ranked) > 2:
                last = ranked[-1]
                apart = compare(best.scores, last.scores)
                text += f" {last.name} is last with {_score(last)}, {apart.mean:.3f} below the first; {apart.text}."
        if missing:
            text += f" Not run: {', '.join(missing)}."
        texts.append(text)
    return texts


def _score(run: Run) -> str:
    spread = f" ± {statistics.stdev(run.scores):.3f}" if len(run.scores) > 1 else ""
    return f"{statistics.mean(run.scores):.3f}{spread} ({len(run.scores)} seed{'s' * (len(run.scores) > 1)})"


def _weights(run: Run, runs: Sequence[Run]) -> str:
    if run.weights_from is not None:
        source = next((other for other in runs if other.name == run.weights_from), None)
        # A run may be named after the data set that another stands in for.
        stand_in = source is not None and "dataset" in source.changed
        return f"encoder of {run.weights_from}" + (f", trained on {dataset_of(source)}" if source and stand_in else "")
    weights = str(run.recipe.get("weights", "pretrained"))
    return Path(weights).name if "/" in weights and Path(weights).suffix else weights


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None

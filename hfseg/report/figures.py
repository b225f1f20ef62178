"""The figures of a report, by the study's numbers, each with the numbers behind it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from hfseg.bundle import read_bundle
from hfseg.errors import InputError
from hfseg.labels import Labels
from hfseg.models import build
from hfseg.plots import Curve, plot_architectures, plot_curves, plot_errors, plot_samples, plot_scores
from hfseg.plots.curves import PANELS
from hfseg.report.comparison import (
    FINETUNE,
    FROZEN,
    HALF,
    SCRATCH,
    Group,
    dataset_of,
    find_networks,
    find_pair,
    strategy_of,
    tell_missing,
)
from hfseg.report.networks import read_stages
from hfseg.report.records import Run
from hfseg.report.scoring import Scores, draw_samples, score

# Which network has which of the study's figures: curves, scores on the test set, masks. Another network takes the
# numbers that are free, and what comes after is numbered from 11.
NUMBERS = {"fcn": (4, 6, 7), "segformer": (5, 8, 9)}
SAMPLES, ARCHITECTURES, PAIR, FIRST_FREE = (1, 2), 3, 10, 11
LINE_OF = {SCRATCH: 0, FINETUNE: 1, HALF: 2, FROZEN: 3}

Rows = list[dict[str, Any]]


@dataclass
class Entry:
    """A figure with its caption, and tables of the numbers in it by what they hold."""

    number: int
    name: str
    caption: str
    figure: Figure
    tables: dict[str, Rows] = field(default_factory=dict)

    @property
    def stem(self) -> str:
        return f"fig{self.number:02}_{self.name}"


class FigureList:
    """Draws all figures; what can't be drawn becomes a note."""

    def __init__(self, groups: Sequence[Group], sources: Sequence[Run]) -> None:
        self.groups, self.sources = groups, sources
        self.entries: list[Entry] = []
        self.notes: list[str] = []
        self._next = FIRST_FREE
        self._draw_samples()
        self._draw_architectures()
        numbers = self._assign_numbers()
        for group in groups:
            curves, scores, masks = numbers[id(group)]
            self._draw_curves(curves, group.runs, f"{slug(group.model)}_curves", group.label)
            self._draw_scores(scores, masks, group)
        self._draw_pair()
        for run in sources:
            self._draw_curves(self._free(), [run], f"{run.name}_curves", f"{run.name}, whose weights others start from")
        self.entries.sort(key=lambda entry: entry.number)

    def _free(self) -> int:
        self._next += 1
        return self._next - 1

    def _assign_numbers(self) -> dict[int, tuple[int, int, int]]:
        free = dict(NUMBERS)
        numbers = {}
        for group in self.groups:
            family = next((name for name in free if group.model.startswith(name)), None)
            if family is not None:
                numbers[id(group)] = free.pop(family)
        for group in self.groups:
            if id(group) not in numbers:
                rest = free.pop(next(iter(free))) if free else (self._free(), self._free(), self._free())
                numbers[id(group)] = rest
        return numbers

    def _try(self, what: str, draw: Any, *args: Any) -> None:
        """Draws, or notes that what it says, with its verb, is not drawn."""
        try:
            draw(*args)
        except InputError as error:
            self.notes.append(f"{what} not drawn. {error}")

    # ---- 1, 2 ----
    def _draw_samples(self) -> None:
        seen: dict[str, Run] = {}
        for run in [*(run for group in self.groups for run in group.runs), *self.sources]:
            seen.setdefault(dataset_of(run), run)
        for i, (name, run) in enumerate(seen.items()):
            number = SAMPLES[i] if i < len(SAMPLES) else self._free()
            self._try(f"Figure {number}, samples of {name}, is", self._draw_one_sample, number, name, run)

    def _draw_one_sample(self, number: int, name: str, run: Run) -> None:
        samples, labels = draw_samples(run.recipe)
        figure = plot_samples([s.image for s in samples], [s.mask for s in samples], labels)
        caption = f"Four random training images of {name} with their labels."
        shares = []
        for sample in samples:
            counts = np.bincount(sample.mask.ravel(), minlength=256)
            row = {"image": sample.title} | {name: int(n) for name, n in zip(labels.names, counts)}
            shares.append(row | {"ignored": int(counts[255])})
        self.entries.append(Entry(number, f"samples_{slug(name)}", caption, figure, {"pixels": shares}))

    # ---- 3 ----
    def _draw_architectures(self) -> None:
        networks = {}
        for group in self.groups:
            if group.model in networks:
                continue
            run = group.main or group.runs[0]
            size = run.image_size
            model: Any
            try:
                if run.finished:
                    model = read_bundle(run.finished[0].folder / "best").model.cpu()
                else:
                    model = build(group.model, Labels(["a", "b", "c"]), weights="scratch")
                networks[group.model] = read_stages(model, (size[0], size[-1]))
            except InputError as error:
                self.notes.append(f"The architecture of {group.model} is not drawn. {error}")
        if networks:
            caption = "The networks as built: output of each stage as channels x height x width, and its parameters."
            caption += " Orange lines: stages that the head reads besides the last."
            rows = [
                {"model": name, "part": s.part, "stage": s.name, "channels": s.shape[0], "height": s.shape[1]}
                | {"width": s.shape[2], "parameters": s.parameters, "read_by_head": s.to_head}
                for name, stages in networks.items()
                for s in stages
            ]
            figure = plot_architectures(networks)
            self.entries.append(Entry(ARCHITECTURES, "architectures", caption, figure, {"stages": rows}))

    # ---- 4, 5, 10 ----
    def _draw_curves(self, number: int, runs: Sequence[Run], name: str, label: str) -> None:
        shown = [run for run in runs if any(seed.log for seed in run.seeds)]
        if not shown:
            self.notes.append(f"Figure {number}, the curves of {label}, is not drawn: none of its runs was run.")
            return
        curves = {
            run.name: {
                panel: Curve.from_logs([seed.log for seed in run.seeds if seed.log], key)
                for panel, key in PANELS.items()
            }
            for run in shown
        }
        lines = self._lines(shown)
        several = any(len(curve.values) > 1 for panels in curves.values() for curve in panels.values())
        caption = f"Loss and mean IoU over the epochs: {label}."
        caption += " Lines are means over the seeds, bands their range." if several else ""
        missing = [run.name for run in runs if run not in shown]
        caption += f" Not run: {', '.join(missing)}." if missing else ""
        rows = [
            {"run": run.name, "seed": seed.seed, "epoch": entry["epoch"], "quantity": panel, "value": entry[key]}
            for run in shown
            for seed in run.seeds
            for entry in seed.log
            for panel, key in PANELS.items()
            if key in entry
        ]
        self.entries.append(Entry(number, name, caption, plot_curves(curves, lines), {"points": rows}))

    def _lines(self, runs: Sequence[Run]) -> dict[str, int]:
        """A strategy has the same line in every figure, unless two runs of a figure share it."""
        lines: dict[str, int] = {}
        for run in runs:
            group = next((group for group in self.groups if run in group.runs), None)
            wanted = LINE_OF[strategy_of(run, group)]
            taken = set(lines.values())
            lines[run.name] = wanted if wanted not in taken else next(i for i in range(99) if i not in taken)
        return lines

    def _draw_pair(self) -> None:
        if len(self.groups) < 2:
            return
        networks = find_networks(self.groups)
        if isinstance(networks, str):
            self.notes.append(f"Figure {PAIR}, FCN against SegFormer, is not drawn: {networks}.")
            return
        pair = find_pair(*networks)
        mains = pair[:2] if pair else [group.main for group in networks]
        runs = [run for run in mains if run is not None]
        if len(runs) < 2:
            self.notes.append(f"Figure {PAIR}, FCN against SegFormer, is not drawn: one has no finished run.")
            return
        missing = tell_missing(networks)
        label = f"{runs[0].name} against {runs[1].name}{f' ({missing})' if missing else ''}"
        self._draw_curves(PAIR, runs, "pair_curves", label)

    # ---- 6, 8 and 7, 9 ----
    def _draw_scores(self, number: int, masks_number: int, group: Group) -> None:
        run = group.main
        if run is None:
            self.notes.append(
                f"Figures {number} and {masks_number} are not drawn: no run of {group.label} has finished."
            )
            return
        what = f"Figures {number} and {masks_number}, the test set of {run.name}, are"
        self._try(what, self._draw_test_set, number, masks_number, group, run)

    def _draw_test_set(self, number: int, masks_number: int, group: Group, run: Run) -> None:
        scores = score(run.finished[0], run.recipe)
        names = scores.labels.names
        finetuned = group.find(FINETUNE)
        stand_in = f" (in place of {finetuned.name}, which was not run)" if finetuned and finetuned is not run else ""
        who = f"{run.name}{stand_in}, seed {run.finished[0].seed}, {len(scores.per_image)} {scores.split} images"
        counts = [
            {"true": true} | {f"predicted_{other}": int(n) for other, n in zip(names, row)}
            for true, row in zip(names, scores.matrix)
        ]
        points = [
            {"class": name, "false_positive_rate": x, "true_positive_rate": y}
            for name, curve in zip(names, scores.curves)
            for x, y in zip(curve.false_positive_rate, curve.true_positive_rate)
        ]
        areas = [{"class": name, "auc": curve.auc} for name, curve in zip(names, scores.curves)]
        entry = Entry(
            number,
            f"{run.name}_scores",
            f"Confusion matrix, as pixels and as shares of the true class, and ROC of each class: {who}.",
            plot_scores(scores.matrix, scores.curves, scores.labels),
            {"confusion": counts, "roc": points, "auc": areas},
        )
        self.entries.append(entry)
        self._draw_masks(masks_number, run, scores, who)

    def _draw_masks(self, number: int, run: Run, scores: Scores, who: str) -> None:
        samples = scores.samples
        preds = [sample.pred for sample in samples if sample.pred is not None]
        images, masks, titles = zip(*((s.image, s.mask, s.title) for s in samples))
        caption = f"Four training images, and the best, the median and the worst of the test set by mIoU: {who}. "
        caption += "Errors are black, pixels that do not count are grey."
        rows = [{"image": name, "mean_iou": value if value == value else None} for name, value in scores.per_image]
        figure = plot_errors(images, masks, preds, titles, scores.labels)
        self.entries.append(Entry(number, f"{run.name}_masks", caption, figure, {"images": rows}))


def slug(text: str) -> str:
    """A name for files."""
    return "".join(c if c.isalnum() or c in "-_" else "_" for c in text.rpartition("/")[2]).lower()

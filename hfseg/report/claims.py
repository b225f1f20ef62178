"""What the study claims, and whether these runs confirm it."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from hfseg.report.comparison import (
    FINETUNE,
    FROZEN,
    HALF,
    SCRATCH,
    Group,
    class_names,
    compare,
    confusion,
    family_of,
    find_networks,
    find_pair,
    tell_missing,
)
from hfseg.report.records import Run, SeedRun

CONFIRMED, REFUTED, NOT_RUN = "confirmed", "not confirmed", "not run"
LITTLE = 0.1  # of what fine-tuning gains over scratch: what the claim on the learning rate calls little
BACKGROUND, BOUNDARY, PET = "background", "boundary", "foreground"


@dataclass
class Part:
    """A claim for one network, or for one pair of them."""

    label: str
    verdict: str
    text: str


@dataclass
class Claim:
    """A claim with its parts; confirmed where all of them are, not confirmed where one is refuted."""

    letter: str
    statement: str
    rule: str
    parts: list[Part] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        verdicts = {part.verdict for part in self.parts}
        if REFUTED in verdicts:
            return REFUTED
        return NOT_RUN if not verdicts or NOT_RUN in verdicts else CONFIRMED


def check_claims(groups: Sequence[Group]) -> list[Claim]:
    """All seven, in the study's order."""
    each: list[tuple[str, str, str, Callable[[Group], Part]]] = [
        ("a", "Fine-tuning beats training from scratch, with both models.", "test mIoU", _finetuning_beats_scratch),
        (
            *(
                "b",
                "From scratch, learning is slower at first.",
                "validation mIoU over the first quarter of the epochs",
            ),
            _scratch_is_slower,
        ),
        (
            *("c", "With a frozen encoder, learning is slower and the result poorer."),
            *("validation mIoU over the first quarter, and test mIoU, against fine-tuning", _frozen_is_poorer),
        ),
        (
            *("d", "Half the learning rate changes little."),
            f"test mIoU, by no more than the seeds' spread or {LITTLE:.0%} of what fine-tuning gains over scratch",
            _half_rate_changes_little,
        ),
        (
            *("e", "The boundary is worst and the background best; pet is taken for background, boundary for pet."),
            *("IoU per class, and what most of the wrong pixels of a class are taken for", _classes_differ),
        ),
    ]
    claims = []
    for letter, text, rule, check in each:
        # A study may plan half the rate for one network alone: nothing is missing from the others.
        judged = [g for g in groups if letter != "d" or g.find(HALF)]
        claims.append(Claim(letter, text, rule, [check(group) for group in judged]))
    claims[0].parts += _both_models(groups, claims[0].parts)
    if not claims[3].parts:
        claims[3].parts.append(Part("every network", NOT_RUN, f"there is no run {HALF}"))
    between: list[tuple[str, str, str, Callable[[Run, Run], tuple[bool, str] | str]]] = [
        (
            *("f", "SegFormer takes background for pet more often than FCN."),
            *(f"share of the {BACKGROUND} pixels that are taken for pet", _takes_background_for_pet),
        ),
        (
            *("g", "FCN converges faster than SegFormer, and its validation is steadier."),
            "over the epochs that both have, the first validated epoch with 90 % of the best validation mIoU, and the "
            "mean change, up or down, of validation mIoU from one validation to the next in the second half",
            _converges_faster,
        ),
    ]
    return claims + [Claim(letter, text, rule, [_between(groups, check)]) for letter, text, rule, check in between]


def _both_models(groups: Sequence[Group], parts: Sequence[Part]) -> list[Part]:
    """What keeps a claim on both models from being confirmed by one of them; nothing where two were judged.

    One model alone may still refute it.
    """
    judged = sorted({family_of(group.model) for group, part in zip(groups, parts) if part.verdict != NOT_RUN})
    if len(judged) > 1:
        return []
    return [Part("both models", NOT_RUN, f"judged for {judged[0]} alone" if judged else "judged for none")]


def _pair(group: Group, first: str, second: str) -> tuple[Run, Run] | str:
    """Two finished runs, or why there are not."""
    found = []
    for strategy in (first, second):
        run = group.find(strategy)
        if run is None:
            return f"there is no run {strategy}"
        if not run.finished:
            return f"{run.name} was not run"
        found.append(run)
    return found[0], found[1]


def _finetuning_beats_scratch(group: Group) -> Part:
    return _larger(group, FINETUNE, SCRATCH, {"test mIoU": lambda seed: seed.score})


def _scratch_is_slower(group: Group) -> Part:
    return _larger(group, FINETUNE, SCRATCH, {"early validation mIoU": lambda seed: seed.early_score()})


def _frozen_is_poorer(group: Group) -> Part:
    figures = {"early validation mIoU": lambda s: s.early_score(), "test mIoU": lambda s: s.score}
    return _larger(group, FINETUNE, FROZEN, figures)


def _larger(group: Group, first: str, second: str, figures: dict[str, Callable[[SeedRun], float]]) -> Part:
    pair = _pair(group, first, second)
    if isinstance(pair, str):
        return Part(group.label, NOT_RUN, pair)
    texts, holds = [], True
    for name, figure in figures.items():
        one, two = ([figure(seed) for seed in run.finished] for run in pair)
        found = compare(one, two)
        holds &= found.holds
        texts.append(f"{name} {_mean(one):.3f} {first} against {_mean(two):.3f} {second} ({found.text})")
    return Part(group.label, CONFIRMED if holds else REFUTED, "; ".join(texts))


def _half_rate_changes_little(group: Group) -> Part:
    pair = _pair(group, FINETUNE, HALF)
    if isinstance(pair, str):
        return Part(group.label, NOT_RUN, pair)
    one, two = (statistics.mean(run.scores) for run in pair)
    text = f"test mIoU {two:.3f} at half the rate against {one:.3f}: {abs(one - two):.3f} apart"
    little = {}
    if spreads := [statistics.stdev(run.scores) for run in pair if len(run.scores) > 1]:
        little[f"the larger spread of the seeds is {max(spreads):.3f}"] = max(spreads)
    scratch = group.find(SCRATCH)
    if scratch is not None and scratch.finished:
        gain = one - statistics.mean(scratch.scores)
        little[f"{LITTLE:.0%} of the {gain:.3f} over {scratch.name} is {LITTLE * gain:.3f}"] = LITTLE * gain
    if not little:
        return Part(group.label, NOT_RUN, f"{text}; with one seed each and no run {SCRATCH} there is no yardstick")
    verdict = CONFIRMED if abs(one - two) <= max(little.values()) else REFUTED
    return Part(group.label, verdict, "; ".join([text, *little]))


def _classes_differ(group: Group) -> Part:
    run = group.find(FINETUNE)
    if run is None or not run.finished:
        return Part(group.label, NOT_RUN, f"{run.name} was not run" if run else f"there is no run {FINETUNE}")
    names = class_names(run)
    if missing := {BACKGROUND, BOUNDARY, PET} - set(names):
        return Part(group.label, NOT_RUN, f"the data set has no class {', '.join(sorted(missing))}")
    ious = {name: _mean([seed.test["per_class"][name]["iou"] or 0.0 for seed in run.finished]) for name in names}
    worst, best = min(ious, key=lambda n: ious[n]), max(ious, key=lambda n: ious[n])
    matrix = confusion(run.finished)

    def taken_for(name: str) -> str:
        row = {other: count for other, count in zip(names, matrix[names.index(name)]) if other != name}
        return max(row, key=lambda n: row[n])

    pet, boundary = taken_for(PET), taken_for(BOUNDARY)
    holds = (worst, best, pet, boundary) == (BOUNDARY, BACKGROUND, BACKGROUND, PET)
    shown = ", ".join(f"{name} {value:.3f}" for name, value in ious.items())
    text = (
        f"{run.name}: IoU {shown}; wrong pixels of {PET} are mostly taken for {pet}, those of {BOUNDARY} for {boundary}"
    )
    return Part(group.label, CONFIRMED if holds else REFUTED, text)


def _between(groups: Sequence[Group], check: Callable[[Run, Run], tuple[bool, str] | str]) -> Part:
    """A claim on the two networks, for the first strategy that both have."""
    label = "FCN and SegFormer"
    networks = find_networks(groups)
    if isinstance(networks, str):
        return Part(label, NOT_RUN, networks)
    pair = find_pair(*networks)
    if pair is None:
        return Part(label, NOT_RUN, "no strategy was run with both")
    fcn, segformer, strategy = pair
    found = check(fcn, segformer)
    if isinstance(found, str):
        return Part(label, NOT_RUN, found)
    holds, text = found
    missing = tell_missing(networks)
    epochs = " and ".join(f"{_mean([s.facts['epochs'] for s in run.finished]):g} of {run.name}" for run in pair[:2])
    text = f"{strategy}{f' ({missing})' if missing else ''}: {text}; epochs: {epochs}"
    return Part(label, CONFIRMED if holds else REFUTED, text)


def _takes_background_for_pet(fcn: Run, segformer: Run) -> tuple[bool, str] | str:
    names = class_names(fcn)
    if missing := {BACKGROUND, PET} - set(names):
        return f"the data set has no class {', '.join(sorted(missing))}"
    if names != class_names(segformer):
        return f"{fcn.name} and {segformer.name} have other classes"
    row, column = names.index(BACKGROUND), names.index(PET)

    def share(seed: SeedRun) -> float:
        counts = seed.test["confusion_matrix"][row]
        return counts[column] / max(sum(counts), 1)

    one, two = ([share(seed) for seed in run.finished] for run in (segformer, fcn))
    found = compare(one, two)
    return found.holds, f"{_mean(one):.1%} by SegFormer against {_mean(two):.1%} by FCN ({found.text})"


def _converges_faster(fcn: Run, segformer: Run) -> tuple[bool, str] | str:
    # A longer training has more time to its best: both are looked at as if they had ended with the shorter one.
    curves = [seed.validations() for run in (fcn, segformer) for seed in run.finished]
    shared = min(points[-1][0] for points in curves)
    if any(points[0][0] > shared for points in curves):
        return f"one of them was not validated in the {shared:g} epochs that both have"
    texts, holds = [f"over the first {shared:g} epochs"], True
    figures: dict[str, Callable[[SeedRun], float | None]] = {
        "epochs to 90 %": lambda seed: seed.epochs_to_90(shared),
        "change between validations": lambda seed: seed.fluctuation(shared),
    }
    for name, figure in figures.items():
        values = [[figure(seed) for seed in run.finished] for run in (segformer, fcn)]
        one, two = ([value for value in row if value is not None] for row in values)
        if (len(one), len(two)) != (len(values[0]), len(values[1])):
            return f"over the first {shared:g} epochs there are too few validations for their {name}"
        found = compare(one, two)  # larger for SegFormer: FCN is faster, and steadier
        holds &= found.holds
        texts.append(f"{name} {_mean(two):.3g} of FCN against {_mean(one):.3g} of SegFormer ({found.text})")
    return holds, "; ".join(texts)


def _mean(values: Sequence[float]) -> float:
    return statistics.fmean(values)

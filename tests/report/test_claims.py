from typing import Any

import pytest

from hfseg.report.claims import CONFIRMED, NOT_RUN, REFUTED, Claim, check_claims
from hfseg.report.comparison import Group, find_networks, group_runs, write_paragraph
from hfseg.report.figures import FigureList
from hfseg.report.records import Run
from tests.report.test_comparison import STUDY, a_run, a_seed, a_study

FCN: dict[str, Any] = {"model": "fcn_resnet50"}


def fcn_runs(scratch: list[float], finetune: list[float], frozen: list[float]) -> list[Run]:
    """The FCN's three: the study has no fourth at half the rate."""
    return [
        a_run("fcn_scratch", scratch, weights="scratch", **FCN),
        a_run("fcn_finetune", finetune, weights="imagenet", **FCN),
        a_run("fcn_frozen", frozen, weights="imagenet", freeze="encoder", **FCN),
    ]


BOTH = [*fcn_runs([0.30, 0.31, 0.32], [0.40, 0.41, 0.42], [0.35, 0.36, 0.37]), *STUDY]


def claims_of(runs: list[Run]) -> dict[str, Claim]:
    return {claim.letter: claim for claim in check_claims(group_runs(runs)[0])}


def numbers(claim: Claim) -> str:
    return "; ".join(f"{part.label}: {part.text}" for part in claim.parts)


def verdicts(runs: list[Run]) -> dict[str, str]:
    return {claim.letter: claim.verdict for claim in check_claims(group_runs(runs)[0])}


def test_claims_are_confirmed_by_figures_that_confirm_them() -> None:
    found = verdicts(STUDY)
    assert found == {**dict.fromkeys("bcde", CONFIRMED), **dict.fromkeys("afg", NOT_RUN)}


def test_claims_are_refuted_by_figures_that_refute_them() -> None:
    runs = a_study([0.50, 0.51], [0.40, 0.41], [0.45, 0.46], [0.44, 0.45])
    for run in runs:
        for seed in run.seeds:
            seed.facts["test"]["confusion_matrix"] = [[90, 4, 6], [4, 6, 10], [2, 13, 60]]  # pet taken for boundary
    found = verdicts(runs)
    assert found == {**dict.fromkeys("abcde", REFUTED), **dict.fromkeys("fg", NOT_RUN)}


def test_the_two_networks_are_compared_and_a_missing_strategy_is_said() -> None:
    fcn = a_run("fcn_finetune", [0.5], model="fcn_resnet50", weights="imagenet")
    fcn.seeds[0].facts, fcn.seeds[0].reason = {}, "no network."
    slow = [0.1, 0.2, 0.3, 0.5]
    runs = [
        fcn,
        a_run("fcn_scratch", [0.4], model="fcn_resnet50", weights="scratch"),
        Run("segformer_scratch", a_run("x", []).recipe | {"weights": "scratch"}, [a_seed(0.5, curve=slow)]),
    ]
    runs[2].seeds[0].facts["test"]["confusion_matrix"] = [[80, 4, 16], [4, 6, 10], [12, 3, 60]]
    claims = {claim.letter: claim for claim in check_claims(group_runs(runs)[0])}
    assert claims["f"].verdict == CONFIRMED
    text = claims["f"].parts[0].text
    assert "from scratch (fcn_finetune was not run)" in text and "16.0% by SegFormer against 6.0% by FCN" in text
    assert claims["g"].verdict == CONFIRMED
    assert claims["a"].verdict == NOT_RUN and "fcn_finetune was not run" in claims["a"].parts[0].text
    assert "epochs: 4 of fcn_scratch and 4 of segformer_scratch" in text
    assert "Not run: fcn_finetune." in write_paragraph(group_runs(runs)[0])[0]


def test_half_the_rate_is_judged_where_it_was_planned() -> None:
    """The FCN has three runs and SegFormer four: the FCN's missing fourth kept the claim from ever being judged."""
    found = claims_of(BOTH)
    assert {found[letter].verdict for letter in "abcde"} == {CONFIRMED}
    assert len(found["d"].parts) == 1 and found["d"].parts[0].label.startswith("segformer-b0")
    alone = claims_of(BOTH[:3])["d"]
    assert alone.verdict == NOT_RUN and "no run fine-tuned at half the learning rate" in numbers(alone)
    waiting = a_study([0.4], [0.5], [0.45], [])
    assert claims_of(waiting)["d"].verdict == NOT_RUN and "half was not run" in numbers(claims_of(waiting)["d"])


def test_a_claim_on_both_models_needs_both() -> None:
    one = claims_of(STUDY)["a"]
    assert one.verdict == NOT_RUN and "with both models" in one.statement
    assert "test mIoU 0.510 fine-tuned" in numbers(one) and "both models: judged for SegFormer alone" in numbers(one)
    sizes = [
        *STUDY,
        *(Run(f"b1_{r.name}", r.recipe | {"model": "segformer-b1"}, r.seeds, r.weights_from) for r in STUDY),
    ]
    assert claims_of(sizes)["a"].verdict == NOT_RUN, "two sizes of one network are one"
    assert claims_of(BOTH)["a"].verdict == CONFIRMED and "alone" not in numbers(claims_of(BOTH)["a"])
    assert "judged for none" in numbers(claims_of([a_run("x", [0.5], weights="scratch")])["a"])


@pytest.mark.parametrize(
    ("scratch", "finetune", "half", "verdict", "text"),
    [
        ([0.40, 0.41], [0.50, 0.51], [0.49, 0.495], REFUTED, "10% of the 0.100 over scratch is 0.010"),
        ([0.20, 0.21], [0.50, 0.51], [0.48, 0.49], CONFIRMED, "10% of the 0.300 over scratch is 0.030"),
        ([0.40, 0.41], [0.50, 0.54], [0.49, 0.52], CONFIRMED, "the larger spread of the seeds is 0.028"),
        ([0.40], [0.50], [0.49], REFUTED, "0.490 at half the rate against 0.500: 0.010 apart; 10% of the 0.100"),
        ([], [0.50], [0.49], NOT_RUN, "there is no yardstick"),
    ],
)
def test_what_little_is_depends_on_the_seeds_and_on_what_fine_tuning_gains(
    scratch: list[float], finetune: list[float], half: list[float], verdict: str, text: str
) -> None:
    claim = claims_of(a_study(scratch, finetune, [0.3], half))["d"]
    assert claim.verdict == verdict and text in numbers(claim)


def test_classes_without_a_pet_are_not_a_refutation() -> None:
    runs = [
        a_run("fcn_scratch", [0.4], weights="scratch", **FCN),
        a_run("segformer_scratch", [0.5], weights="scratch"),
    ]
    for run in runs:
        test = run.seeds[0].facts["test"]
        test["per_class"] = dict(zip(("sky", "road", "tree"), test["per_class"].values()))
    claim = claims_of(runs)["f"]
    assert claim.verdict == NOT_RUN and "the data set has no class background, foreground" in numbers(claim)


def test_networks_are_compared_on_the_same_data_at_the_same_size() -> None:
    fcn = a_run("fcn_scratch", [0.4], weights="scratch", image_size=64, **FCN)
    large = a_run("large", [0.5], weights="scratch", image_size=128)
    other = a_run("other", [0.5], weights="scratch", image_size=64, dataset="synthetic")
    for letter in "fg":
        claim = claims_of([large, other, fcn])[letter]
        assert claim.verdict == NOT_RUN and "not run on the same data set at the same size" in numbers(claim)
        assert "fcn_resnet50 on pets at 64 x 64, segformer-b0 on pets at 128 x 128" in numbers(claim)
    alike = a_run("alike", [0.5], weights="scratch", image_size=64)
    assert claims_of([large, other, fcn, alike])["g"].verdict != NOT_RUN
    found = find_networks(group_runs([large, other, fcn, alike])[0])
    assert not isinstance(found, str) and [group.runs[0].name for group in found] == ["fcn_scratch", "alike"]


def test_trainings_of_other_lengths_are_compared_over_the_epochs_of_both() -> None:
    short = a_run("fcn_scratch", [], weights="scratch", **FCN)
    long = a_run("segformer_scratch", [], weights="scratch")
    short.seeds = [a_seed(0.5, curve=[0.46, 0.48, 0.49, 0.5])]
    # 90 % of the best at the second epoch of four, though at the eighth of eight.
    long.seeds = [a_seed(0.9, curve=[0.1, 0.5, 0.52, 0.5, 0.6, 0.7, 0.8, 0.9])]
    found = claims_of([short, long])
    assert "over the first 4 epochs; epochs to 90 % 1 of FCN against 2 of SegFormer" in numbers(found["g"])
    assert "change between validations 0.01 of FCN against 0.02 of SegFormer" in numbers(found["g"])
    for letter in "fg":
        assert "epochs: 4 of fcn_scratch and 8 of segformer_scratch" in numbers(found[letter])
    long.seeds[0].log = [entry for entry in long.seeds[0].log if entry["epoch"] > 5]
    late = claims_of([short, long])["g"]
    assert late.verdict == NOT_RUN and "not validated in the 4 epochs that both have" in numbers(late)
    short.seeds = [a_seed(0.5, curve=[0.5])]
    long.seeds = [a_seed(0.9)]
    assert claims_of([short, long])["g"].verdict == NOT_RUN and "too few" in numbers(claims_of([short, long])["g"])


def test_several_missing_runs_are_told_in_the_plural() -> None:
    runs = [*fcn_runs([0.4], [], []), *a_study([0.4], [], [], [])]
    assert "(fcn_finetune and finetune were not run)" in numbers(claims_of(runs)["f"])


class NothingDrawn(FigureList):
    """The list's own choices, with curves named rather than drawn."""

    def __init__(self, groups: list[Group]) -> None:
        self.groups, self.sources, self.notes, self.entries = groups, [], [], []
        self.drawn: list[str] = []
        self._draw_pair()

    def _draw_curves(self, number: int, runs: Any, name: str, label: str) -> None:
        self.drawn = [run.name for run in runs]


def test_figure_10_is_of_the_networks_of_the_claims() -> None:
    others = [a_run("lite0_scratch", [0.6], model="timm/lite0", weights="scratch"), *STUDY]
    assert NothingDrawn(group_runs([*others, *BOTH[:3]])[0]).drawn == ["fcn_finetune", "finetune"]
    left_out = NothingDrawn(group_runs(others)[0])
    assert not left_out.drawn and left_out.notes == [
        "Figure 10, FCN against SegFormer, is not drawn: there is no run of FCN."
    ]


def test_figures_that_are_not_drawn_are_told_in_the_plural() -> None:
    nowhere = a_run("segformer_scratch", [0.5], weights="scratch", dataset="folder", data_dir="nowhere", image_size=32)
    groups = group_runs([nowhere])[0]
    figures = NothingDrawn(groups)
    figures._draw_samples()
    figures._draw_scores(8, 9, groups[0])
    assert [note.partition(". ")[0] for note in figures.notes[-2:]] == [
        "Figure 1, samples of nowhere, is not drawn",
        "Figures 8 and 9, the test set of segformer_scratch, are not drawn",
    ]

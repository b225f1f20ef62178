import json
import math
from pathlib import Path
from typing import Any

import pytest

from hfseg.errors import InputError
from hfseg.report.comparison import (
    FINETUNE,
    FROZEN,
    HALF,
    SCRATCH,
    compare,
    comparison_rows,
    group_runs,
    strategy_of,
    write_paragraph,
)
from hfseg.report.page import build_tables
from hfseg.report.records import Run, SeedRun, read_runs

GOOD = [[90, 4, 6], [4, 6, 10], [12, 3, 60]]  # background best, boundary worst, as the study has it


def a_seed(score: float, seed: int = 0, curve: list[float] | None = None, matrix: Any = GOOD) -> SeedRun:
    names = ("background", "boundary", "foreground")
    ious = dict(zip(names, (score + 0.2, score - 0.3, score + 0.1)))
    test = {
        "mean_iou": score,
        "split": "test",
        "resolution": "input",
        "confusion_matrix": matrix,
        "per_class": {name: {"iou": iou} for name, iou in ious.items()},
    }
    curve = curve or [score / 2, score * 0.8, score, score]
    log: list[dict[str, Any]] = []
    for epoch, value in enumerate(curve, 1):
        log += [{"epoch": epoch, "loss": 1.0, "train_mean_iou": value + 0.1}, {"epoch": epoch, "eval_mean_iou": value}]
    facts = {"test": test, "epochs": len(curve), "hardware": "two cores", "commit": "abc", "train_seconds": 5.0}
    return SeedRun(seed, Path("nowhere"), log, facts)


def a_run(
    name: str, scores: list[float], *, model: str = "segformer-b0", source: str | None = None, **recipe: Any
) -> Run:
    settings = {"model": model, "dataset": "pets", "learning_rate": 1e-3, "num_train_epochs": 4} | recipe
    return Run(name, settings, [a_seed(score, i) for i, score in enumerate(scores)], source)


def a_study(scratch: list[float], finetune: list[float], frozen: list[float], half: list[float]) -> list[Run]:
    return [
        a_run("source", [0.3], weights="scratch", dataset="cityscapes"),
        a_run("scratch", scratch, weights="scratch"),
        a_run("finetune", finetune, source="source"),
        a_run("half", half, source="source", learning_rate=5e-4),
        a_run("frozen", frozen, source="source", freeze="encoder"),
    ]


STUDY = a_study([0.40, 0.41, 0.42], [0.50, 0.51, 0.52], [0.45, 0.46, 0.47], [0.495, 0.51, 0.52])


def test_strategies_come_from_the_recipes() -> None:
    (group,), sources = group_runs(STUDY)
    assert [run.name for run in sources] == ["source"]
    assert [strategy_of(run, group) for run in group.runs] == [SCRATCH, FINETUNE, HALF, FROZEN]


def test_numbers_of_a_curve() -> None:
    seed = a_seed(0.5, curve=[0.1, 0.46, 0.40, 0.5, 0.45, 0.47, 0.46, 0.47])
    assert seed.epochs_to_90() == 2
    assert seed.early_score() == pytest.approx((0.1 + 0.46) / 2)
    assert seed.fluctuation() == pytest.approx((0.05 + 0.02 + 0.01 + 0.01) / 4)
    assert seed.gap() == pytest.approx(0.1)
    assert seed.epochs_to_90(1) == 1 and seed.fluctuation(4) == pytest.approx((0.06 + 0.1) / 2)
    assert a_seed(0.5, curve=[0.2]).fluctuation() is None


def test_a_difference_counts_where_the_seeds_lie_apart() -> None:
    apart = compare([0.5, 0.6, 0.7], [0.1, 0.2, 0.49])
    assert apart.holds and apart.text.endswith("once in 20")
    few = compare([0.5, 0.6], [0.1, 0.2])
    assert few.holds and "once in 6: too few seeds to be sure" in few.text
    overlap = compare([0.5, 0.7], [0.4, 0.6])
    assert not overlap.holds and "overlap" in overlap.text
    single = compare([0.5], [0.4])
    assert single.holds and "no spread" in single.text
    assert not compare([0.4], [0.5]).holds


def test_the_row_of_a_run() -> None:
    groups, _ = group_runs(STUDY)
    rows = {row["run"]: row for row in comparison_rows(STUDY, groups)}
    tuned = rows["finetune"]
    assert tuned["test_mean_iou"] == pytest.approx(0.51) and tuned["test_mean_iou_spread"] == pytest.approx(0.01)
    assert tuned["per_class_iou"]["boundary"] == pytest.approx(0.21)
    assert tuned["weights"] == "encoder of source" and tuned["seeds"] == [0, 1, 2] and tuned["train_seconds"] == 5.0


def test_a_run_says_what_its_encoder_was_trained_on_where_that_was_changed() -> None:
    source = a_run("segformer_cityscapes", [0.3], weights="scratch", dataset="folder", data_dir="data/camvid")
    tuned = a_run("finetune", [0.5], source="segformer_cityscapes")
    source.changed = {"dataset": {"from": "cityscapes", "to": "folder"}}
    rows = comparison_rows([source, tuned], group_runs([source, tuned])[0])
    assert rows[1]["weights"] == "encoder of segformer_cityscapes, trained on camvid"


def test_the_paragraph_follows_the_numbers() -> None:
    groups, _ = group_runs(STUDY)
    (text,) = write_paragraph(groups)
    assert "finetune (fine-tuned) came out first with a test mIoU of 0.510 ± 0.010 (3 seeds)" in text
    assert "0.002 above half with 0.508" in text and "the seeds overlap" in text
    assert "scratch is last with 0.410" in text and "0.100 below the first; every seed lies above" in text


def test_runs_are_found_in_studies_runs_and_folders_of_runs(tmp_path: Path) -> None:
    for name in ("a/seed0", "a/seed1", "b"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "trainer_state.json").write_text(json.dumps({"log_history": [{"loss": 1.0, "epoch": 1}]}))
    runs, _ = read_runs([tmp_path])
    assert {run.name: [seed.seed for seed in run.seeds] for run in runs} == {"a": [0, 1], "b": [0]}
    assert runs[0].finished == [] and runs[0].reason == "broken off"
    assert [run.name for run in read_runs([tmp_path / "a" / "seed1"])[0]] == ["a"]
    with pytest.raises(InputError, match="Two of these folders hold a run a"):
        read_runs([tmp_path, tmp_path / "a"])


@pytest.mark.parametrize("name", ["nowhere", "empty"])
def test_a_folder_without_runs_gets_one_line(name: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="There is no folder|holds no run that has logged anything") as error:
        read_runs([tmp_path / name])
    assert "\n" not in str(error.value)


def test_nothing_is_made_up_where_nothing_was_measured() -> None:
    run = a_run("waiting", [])
    groups, _ = group_runs([run])
    (row,) = comparison_rows([run], groups)
    assert row["test_mean_iou"] is None and row["not_run"] == "not finished"
    assert not any(isinstance(v, float) and math.isnan(v) for v in row.values())
    assert "no run has finished" in write_paragraph(groups)[0]


def test_what_was_not_run_and_what_was_changed_is_said_below_the_table() -> None:
    fast = a_run("fast", [0.5], weights="scratch")
    missing = a_run("missing", [])
    missing.seeds = [SeedRun(0, Path("nowhere"), reason="no network.")]
    for run in (fast, missing):
        run.changed = {"num_train_epochs": {"from": 30, "to": 4.0}}
    fast.changed["dataset"] = {"from": "cityscapes", "to": "folder"}
    runs = [fast, missing]
    (table,) = build_tables(comparison_rows(runs, group_runs(runs)[0]))
    assert table["notes"] == [
        "every run: num_train_epochs is 4 instead of 30, by the command line.",
        "fast: dataset is folder instead of cityscapes, by the command line.",
        "missing: not run. no network.",
    ]
    assert [dict(zip(table["columns"], row))["seeds"][0] for row in table["rows"]] == ["1", "not run"]
    assert all(len(row) == len(table["columns"]) for row in table["rows"])


@pytest.mark.parametrize(
    ("given", "expected"), [(64, (64, 64)), ([64], (64, 64)), ([48, 96], (48, 96)), (None, (512, 512))]
)
def test_image_size_in_every_form_of_a_recipe(given: Any, expected: tuple[int, int]) -> None:
    run = Run("a", {"image_size": given} if given else {}, [])
    assert run.image_size == expected
    assert [group.size for group in group_runs([run])[0]] == [f"{expected[0]} x {expected[1]}"]

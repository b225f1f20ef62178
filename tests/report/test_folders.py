"""Which folders a report reads, and which it writes into."""

import json
from pathlib import Path

import pytest

from hfseg.errors import InputError
from hfseg.report import check_output_dir, main, write_report
from hfseg.report.records import read_runs

LOG = [{"epoch": 1.0, "loss": 1.0}, {"epoch": 1.0, "eval_mean_iou": 0.3}]


def write_run(folder: Path, checkpoints: tuple[int, ...] = (50, 150)) -> Path:
    """The layout of a run that is under way, as `hfseg train` leaves it."""
    (folder / "best").mkdir(parents=True)
    recipe = {"dataset": "synthetic", "num_images": 8, "model": "segformer-b0", "weights": "scratch", "image_size": 32}
    (folder / "best" / "recipe.json").write_text(json.dumps(recipe))
    for path in (folder, *(folder / f"checkpoint-{step}" for step in checkpoints)):
        path.mkdir(exist_ok=True)
        (path / "trainer_state.json").write_text(json.dumps({"log_history": LOG}))
    (folder / "train.log").write_text("")
    return folder


def write_old_report(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name in ("index.html", "README.md", "comparison.json", "claims.json", "claims.csv", "fig01_old_pixels.csv"):
        (folder / name).write_text("old")
    return folder


def test_checkpoints_of_a_run_are_no_runs(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "mine")
    assert [(run.name, len(run.seeds)) for run in read_runs([folder])[0]] == [("mine", 1)]
    write_run(tmp_path / "study" / "mine" / "seed0")
    (tmp_path / "study" / "checkpoint-7").mkdir()
    (tmp_path / "study" / "checkpoint-7" / "trainer_state.json").write_text(json.dumps({"log_history": LOG}))
    for place in ("study", "study/mine", "study/mine/seed0"):
        assert [(run.name, len(run.seeds)) for run in read_runs([tmp_path / place])[0]] == [("mine", 1)], place


def test_a_study_file_beside_the_runs_is_not_taken_for_the_record(tmp_path: Path) -> None:
    write_run(tmp_path / "mine")
    for text in (json.dumps({"runs": [{"name": "mine", "recipe": "a.json"}]}), "[1]"):
        (tmp_path / "study.json").write_text(text)
        runs, commands = read_runs([tmp_path])
        assert [run.name for run in runs] == ["mine"] and commands == []


@pytest.mark.parametrize("foreign", ["notes.txt", "fig01.txt", "comparison.json/notes.csv", "site/index.html"])
def test_a_folder_with_something_else_is_not_replaced(foreign: str, tmp_path: Path) -> None:
    folder = write_old_report(tmp_path / "out")
    check_output_dir(folder)
    path = folder / foreign
    if path.parent.is_file():
        path.parent.unlink()
    path.parent.mkdir(exist_ok=True)
    path.write_text("mine")
    with pytest.raises(InputError, match=rf"holds something other than a report of hfseg \({foreign.split('/')[0]}\)"):
        write_report([write_run(tmp_path / "run")], folder)
    assert path.read_text() == "mine"


def test_a_page_alone_is_no_report(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("mine")
    with pytest.raises(InputError, match="holds something other than a report"):
        check_output_dir(tmp_path)
    check_output_dir(tmp_path / "new")
    with pytest.raises(InputError, match="is a file"):
        check_output_dir(tmp_path / "index.html")


def test_the_current_folder_and_an_older_report_are_written_into(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write_run(tmp_path / "run")
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path / "out")
    assert main([str(run), "--output_dir", "."]) == 0
    assert Path("index.html").is_file() and not list(tmp_path.glob(".*.new"))
    old = write_old_report(tmp_path / "old")
    assert write_report([run], old) == old / "index.html"
    assert (old / "index.html").read_text() != "old" and not (old / "fig01_old_pixels.csv").exists()

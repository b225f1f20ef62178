import json
import os
from pathlib import Path

import pytest

from hfseg.errors import InputError
from hfseg.study import locked
from hfseg.study.jobs import MARKER, check_folder, finish, is_finished, read_failure
from hfseg.study.plan import Job, RunPlan
from hfseg.study.progress import FINISHED, RUNNING, Board


def a_job(folder: Path, seed: int = 0, **recipe: object) -> Job:
    defaults = {"model": "segformer-b0", "learning_rate": 1e-3, "num_train_epochs": 10}
    return Job(RunPlan("a", defaults | recipe, [0, 1]), seed, folder)


def write(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def test_finished_is_what_the_marker_says_of_this_recipe(tmp_path: Path) -> None:
    job = a_job(tmp_path)
    write(tmp_path / "run.json", {"test": {"mean_iou": 0.5}, "train_seconds": 3.0})
    (tmp_path / "checkpoint-7").mkdir()
    assert not is_finished(job)
    finish(job)
    assert is_finished(job) and not is_finished(a_job(tmp_path, learning_rate=2e-3))
    assert json.loads((tmp_path / MARKER).read_text())["test_mean_iou"] == 0.5
    assert not (tmp_path / "checkpoint-7").exists(), "a finished run keeps no checkpoint"


def test_a_folder_of_another_recipe_is_refused_with_the_difference(tmp_path: Path) -> None:
    check_folder(a_job(tmp_path))
    write(tmp_path / "recipe.json", a_job(tmp_path).recipe())
    check_folder(a_job(tmp_path))
    with pytest.raises(InputError, match=r"another recipe \(learning_rate is 0.001 there and 0.002 here\)"):
        check_folder(a_job(tmp_path, learning_rate=2e-3))


def test_a_run_that_no_study_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "best").mkdir()
    with pytest.raises(InputError, match=r"holds a run that no study made \(best\)"):
        check_folder(a_job(tmp_path))


@pytest.mark.parametrize(
    ("text", "code", "message"),
    [
        ("hello\nhfseg: error: There is no data.\n", 2, "There is no data."),
        ("Traceback\nKeyError: 'x'\n", 1, "exit code 1: KeyError: 'x'"),
        ("", -9, "ended by signal SIGKILL"),
    ],
)
def test_a_failure_is_one_line(text: str, code: int, message: str, tmp_path: Path) -> None:
    (tmp_path / "console.log").write_text(text)
    assert read_failure(a_job(tmp_path), code).startswith(message)


def test_one_study_at_a_time(tmp_path: Path) -> None:
    with (
        locked(tmp_path),
        pytest.raises(InputError, match=rf"A study is running in .*process {os.getpid()}"),
        locked(tmp_path),
    ):
        pass
    with locked(tmp_path):
        pass


def test_time_left_comes_from_the_pace_of_runs_like_it(tmp_path: Path) -> None:
    jobs = [a_job(tmp_path / str(seed), seed) for seed in (0, 1)]
    board = Board(jobs)
    assert "time left is not known" in board.lines()[-1]
    write(tmp_path / "0" / "trainer_state.json", {"log_history": [{"epoch": 10.0, "train_seconds": 50.0, "loss": 1}]})
    board.set(jobs[0], FINISHED)
    lines = board.lines()
    assert "10/10" in lines[1] and lines[2].rstrip().endswith("50s") and "1 finished of 2; about 50s left" in lines[-1]
    write(tmp_path / "1" / "trainer_state.json", {"log_history": [{"epoch": 5.0, "train_seconds": 30.0, "loss": 1}]})
    board.set(jobs[1], RUNNING)
    assert board.seconds_left(jobs[1], {"epoch": 5.0, "seconds": 30.0}) == pytest.approx(30.0, abs=1)

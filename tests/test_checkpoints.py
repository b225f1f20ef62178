from pathlib import Path

import pytest
from transformers.trainer_utils import get_last_checkpoint

from hfseg.checkpoints import find_checkpoint, prepare_output_dir, write_json
from hfseg.errors import InputError


def used_run(folder: Path) -> Path:
    (folder / "best").mkdir(parents=True)
    for step in (9, 10):
        (folder / f"checkpoint-{step}").mkdir()
        (folder / f"checkpoint-{step}" / "trainer_state.json").write_text("{}")
    (folder / "trainer_state.json").write_text("{}")
    (folder / "notes.txt").write_text("mine")
    return folder


def test_auto_takes_the_newest_checkpoint_and_starts_afresh_without_one(tmp_path: Path) -> None:
    assert find_checkpoint(tmp_path / "none", "auto") is None
    assert find_checkpoint(tmp_path, "auto") is None
    run = used_run(tmp_path / "run")
    assert find_checkpoint(run, "auto") == str(run / "checkpoint-10")
    assert find_checkpoint(run, str(run / "checkpoint-9")) == str(run / "checkpoint-9")
    assert find_checkpoint(run, None) is None and find_checkpoint(run, "false") is None


@pytest.mark.parametrize("content", [None, "", '{"log_history": ['])
def test_a_half_written_checkpoint_is_passed_over(content: str | None, tmp_path: Path) -> None:
    """transformers' get_last_checkpoint takes the highest number, whatever is in the folder."""
    run = used_run(tmp_path / "run")
    newest = run / "checkpoint-11"
    newest.mkdir()
    (newest / "model.safetensors").write_bytes(b"half")
    if content is not None:
        (newest / "trainer_state.json").write_text(content)
    assert get_last_checkpoint(str(run)) == str(newest)
    assert find_checkpoint(run, "auto") == str(run / "checkpoint-10")
    with pytest.raises(InputError, match="is no checkpoint"):
        find_checkpoint(run, str(newest))


def test_a_folder_that_is_no_checkpoint_gets_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no checkpoint to resume from"):
        find_checkpoint(tmp_path, str(tmp_path))


def test_a_used_output_dir_is_refused(tmp_path: Path) -> None:
    run = used_run(tmp_path / "run")
    with pytest.raises(InputError, match=r"holds an earlier run \(best\).*--overwrite true"):
        prepare_output_dir(run, overwrite=False, resume=False)
    prepare_output_dir(run, overwrite=False, resume=True)
    assert (run / "best").is_dir()


def test_overwrite_deletes_the_run_and_nothing_else(tmp_path: Path) -> None:
    run = used_run(tmp_path / "run")
    prepare_output_dir(run, overwrite=True, resume=False)
    assert [path.name for path in run.iterdir()] == ["notes.txt"]
    prepare_output_dir(run, overwrite=False, resume=False)


def test_a_file_as_output_dir_gets_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file"):
        prepare_output_dir(tmp_path / "file", overwrite=True, resume=False)


def test_json_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "metrics.json"
    write_json(path, {"a": 1})
    with pytest.raises((ValueError, TypeError)):
        write_json(path, {"a": float("nan")})
    assert path.read_text() == '{\n  "a": 1\n}\n'
    assert [p.name for p in path.parent.iterdir()] == ["metrics.json"]

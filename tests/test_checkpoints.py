from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers.trainer_utils import get_last_checkpoint

from hfseg.checkpoints import (
    delete_older,
    find_checkpoint,
    is_whole,
    prepare_output_dir,
    publish_checkpoint,
    write_json,
)
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


def sealed(folder: Path, step: int) -> Path:
    """A checkpoint as SavingTrainer publishes it."""
    new = folder / ".saving" / f"checkpoint-{step}"
    new.mkdir(parents=True)
    (new / "trainer_state.json").write_text("{}")
    save_file({"weight": torch.arange(300.0)}, new / "model.safetensors")
    torch.save({"step": torch.arange(300)}, new / "optimizer.pt")
    torch.save("not needed", new / "training_args.bin")
    publish_checkpoint(new, folder / f"checkpoint-{step}", {"num_processes": 1})
    return folder / f"checkpoint-{step}"


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-200] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt"])
@pytest.mark.parametrize(
    ("harm", "reason"),
    [(cut, r"has \d+ of \d+ bytes"), (flip, "is damaged"), (Path.unlink, "is missing")],
)
def test_every_file_of_a_checkpoint_is_looked_at(harm: Any, reason: str, name: str, tmp_path: Path) -> None:
    older, newest = sealed(tmp_path, 9), sealed(tmp_path, 10)
    assert find_checkpoint(tmp_path, "auto") == str(newest)
    (newest / "training_args.bin").unlink()  # the Hub does not get it, and nobody reads it
    assert find_checkpoint(tmp_path, "auto") == str(newest)
    harm(newest / name)
    assert find_checkpoint(tmp_path, "auto") == str(older)
    with pytest.raises(InputError, match=f"checkpoint-10 is no checkpoint to resume from .{name} {reason}"):
        find_checkpoint(tmp_path, str(newest))


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt"])
def test_without_a_manifest_files_whose_end_is_missing_are_seen(name: str, tmp_path: Path) -> None:
    """As transformers' own Trainer writes them."""
    checkpoint = sealed(tmp_path, 9)
    (checkpoint / "checkpoint.json").unlink()
    assert is_whole(checkpoint)
    cut(checkpoint / name)
    assert not is_whole(checkpoint)


def test_a_checkpoint_that_is_replaced_is_never_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine dies between the two renames."""
    sealed(tmp_path, 9)
    rename = Path.rename

    def die(self: Path, target: Path) -> Any:
        if self.parent.name == ".saving":
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", die)
    with pytest.raises(KeyboardInterrupt):
        sealed(tmp_path, 9)
    assert find_checkpoint(tmp_path, "auto") == str(tmp_path / "checkpoint-9.old")


def test_retention_keeps_the_best_and_the_last_whole_one(tmp_path: Path) -> None:
    best, *_, newest = [sealed(tmp_path, step) for step in (2, 4, 6, 8)]
    cut(tmp_path / "checkpoint-6" / "optimizer.pt")
    delete_older(newest, 2, best)
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-8"]
    sealed(tmp_path, 10)
    sealed(tmp_path, 12)  # of a run that was given up: one was started again from step 8
    delete_older(tmp_path / "checkpoint-10", 2)
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-10", "checkpoint-8"]
    delete_older(tmp_path / "checkpoint-10", None)
    assert (tmp_path / "checkpoint-8").is_dir()


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

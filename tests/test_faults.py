"""Faults injected into real runs, started as a user does: signals, killed processes, full disks, half-written files."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).parent))
from small_run import ROOT, command, list_differences, read_run, write_recipe

from hfseg.checkpoints import find_checkpoint

pytestmark = pytest.mark.slow


RUNS: list["Run"] = []


@pytest.fixture(autouse=True)
def _leave_nothing_behind() -> Iterator[None]:
    yield
    while RUNS:
        for process in RUNS.pop().seen:
            if process.is_running():
                process.kill()


class Run:
    """`hfseg train` in a session of its own; its output goes to a file."""

    def __init__(self, recipe: Path, folder: Path, *options: Any, log: Path | None = None) -> None:
        self.folder, self.log = folder, log or folder.with_name(f"{folder.name}.log")
        with self.log.open("a") as file:
            line = command(recipe, folder, *options)
            self.process = psutil.Popen(line, cwd=ROOT, stdout=file, stderr=file, start_new_session=True)
        self.seen = [self.process]
        RUNS.append(self)

    def text(self) -> str:
        return self.log.read_text(errors="replace").replace("\r", "\n")

    def wait_for(self, condition: Callable[[], Any], seconds: float = 300) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None and time.monotonic() < end, self.text()[-3000:]
            time.sleep(0.02)

    def wait_for_step(self, step: int) -> None:
        """Until this step's checkpoint is there, or a later one's."""
        self.wait_for(lambda: any(int(path.name[11:]) >= step for path in self.folder.glob("checkpoint-*[0-9]")))

    def everyone(self) -> list[psutil.Process]:
        self.seen = [self.process, *self.process.children(recursive=True)]
        return self.seen

    def trainers(self) -> list[psutil.Process]:
        """The processes that train, without their DataLoader workers."""
        found = [p for p in self.process.children(recursive=True) if runs_script(p)]
        return [p for p in found if p.parent() not in found]

    def workers(self) -> list[psutil.Process]:
        here = self.process.cmdline()
        return [p for p in self.process.children() if p.status() != psutil.STATUS_ZOMBIE and p.cmdline() == here]

    def end(self, seconds: float) -> int:
        """Waits for it; the exit code."""
        return self.process.wait(timeout=seconds)

    def told(self) -> list[str]:
        return [line for line in self.text().splitlines() if line.startswith("hfseg: error: ")]


def runs_script(process: psutil.Process) -> bool:
    try:
        words = process.cmdline()
    except psutil.Error:
        return False
    return "-m" not in words[:3] and any(word.endswith("hfseg/train.py") for word in words)


def assert_gone(processes: list[psutil.Process], seconds: float) -> None:
    _, alive = psutil.wait_procs(processes, timeout=seconds)
    for process in alive:
        process.kill()
    assert not alive


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recipe(tmp_path_factory.mktemp("recipe"))


@pytest.fixture(scope="module")
def whole(recipe: Path) -> dict[str, Any]:
    """A run that nothing broke off."""
    run = Run(recipe, recipe.parent / "whole")
    assert run.end(600) == 0, run.text()[-3000:]
    return read_run(run.folder)


LONG = ("--num_train_epochs", 500, "--lr_scheduler_type", "constant", "--eval_strategy", "no")


def finish(recipe: Path, folder: Path, *options: Any) -> Run:
    run = Run(recipe, folder, "--resume_from_checkpoint", "auto", *options)
    assert run.end(600) == 0, run.text()[-3000:]
    return run


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_group_saves_and_ends_and_the_run_goes_on_bit_for_bit(
    number: int, recipe: Path, whole: dict[str, Any], tmp_path: Path
) -> None:
    """The signal reaches the DataLoader workers as well, which the step still needs."""
    run = Run(recipe, tmp_path / "run")
    run.wait_for_step(3)
    everyone = run.everyone()
    os.killpg(run.process.pid, number)
    assert run.end(30) == 128 + number, run.text()[-3000:]
    assert_gone(everyone, 6)
    assert len(run.told()) == 1 and "--resume_from_checkpoint auto" in run.told()[0] and "Traceback" not in run.text()
    assert str(find_checkpoint(run.folder, "auto")).rpartition("/")[2] in run.told()[0]
    assert not list_differences(whole, read_run(finish(recipe, run.folder).folder))


@pytest.mark.parametrize("whole_group", [False, True], ids=["alone", "group"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_two_processes(number: int, whole_group: bool, recipe: Path, tmp_path: Path) -> None:
    """Sent to `hfseg train` alone, which passes it on, or to all of its processes."""
    run = Run(recipe, tmp_path / "run", "--num_processes", 2, *LONG)
    run.wait_for_step(3)
    everyone = run.everyone()
    assert len(run.trainers()) == 2
    if whole_group:
        os.killpg(run.process.pid, number)
    else:
        run.process.send_signal(number)
    assert run.end(30) == 128 + number, run.text()[-3000:]
    assert_gone(everyone, 6)
    assert len(run.told()) == 1 and "Traceback" not in run.text(), run.text()[-3000:]
    assert str(find_checkpoint(run.folder, "auto")).rpartition("/")[2] in run.told()[0]


@pytest.mark.parametrize("victim", ["hfseg train", "accelerate"])
def test_no_orphan_goes_on_when_a_launcher_is_killed(victim: str, recipe: Path, tmp_path: Path) -> None:
    run = Run(recipe, tmp_path / "run", "--num_processes", 2, *LONG)
    run.wait_for_step(3)
    everyone = run.everyone()
    (run.process if victim == "hfseg train" else run.trainers()[0].parent()).kill()
    assert_gone(everyone, 60)
    assert find_checkpoint(run.folder, "auto")


def test_one_of_two_processes_dies_and_the_run_goes_on_with_one(recipe: Path, tmp_path: Path) -> None:
    """Nothing is drawn at random and SGD does not blow rounding up, so that one process must give what two give.

    BatchNorm sees two images either way. Its running statistics, which no step uses, are those of the first process.
    """
    quiet = write_recipe(tmp_path, dropout=0.0, optim="sgd", per_device_train_batch_size=2)
    two = ("--num_processes", 2)
    one = Run(quiet, tmp_path / "one", "--gradient_accumulation_steps", 2)
    assert one.end(600) == 0
    run = Run(quiet, tmp_path / "run", *two)
    run.wait_for_step(6)
    everyone = run.everyone()
    next(p for p in run.trainers() if p.environ()["RANK"] == "1").kill()
    assert run.end(60) == 137, run.text()[-3000:]
    assert_gone(everyone, 6)
    assert len(run.told()) == 1 and "Process 1 was ended by SIGKILL" in run.told()[0]
    assert "Traceback" not in run.text(), run.text()[-3000:]
    resumed = finish(quiet, run.folder)
    assert "global batch of 4" in resumed.text()
    ours, theirs = read_run(resumed.folder), read_run(one.folder)
    assert ours["step"] == theirs["step"]
    start = load_file(tmp_path / "tiny" / "model.safetensors")
    compared = [name for name in start if "running" not in name and "num_batches" not in name]
    assert len(compared) > 50
    for name in compared:
        torch.testing.assert_close(ours["weights"][name], theirs["weights"][name], rtol=1e-4, atol=1e-5)
    assert any((theirs["weights"][name] - start[name]).abs().max() > 1e-3 for name in compared)


def test_a_killed_data_worker_ends_the_run_in_one_line(recipe: Path, tmp_path: Path) -> None:
    """They stay from epoch to epoch here, or there could be none at the moment of the kill."""
    run = Run(recipe, tmp_path / "run", *LONG, "--dataloader_persistent_workers", "true")
    run.wait_for_step(3)
    run.wait_for(run.workers)
    run.workers()[0].kill()
    assert run.end(60) == 1, run.text()[-3000:]
    assert len(run.told()) == 1 and "data worker" in run.told()[0] and "Traceback" not in run.text()
    assert find_checkpoint(run.folder, "auto")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB, where there is the right to mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("only root may mount a file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("choice", ["stop", "continue"])
def test_a_full_disk_costs_no_earlier_checkpoint(choice: str, recipe: Path, small_disk: Path) -> None:
    keep_all = ("--save_total_limit", 100, "--save_steps", 1, "--eval_strategy", "no", "--on_save_error", choice)
    run = Run(recipe, small_disk / "run", *keep_all, log=small_disk.with_name("run.log"))
    code = run.end(300)
    checkpoints = sorted(run.folder.glob("checkpoint-*"))
    assert checkpoints and all(find_checkpoint(run.folder, str(path)) for path in checkpoints)
    assert not (run.folder / ".saving").exists()
    text = run.text()
    assert "Traceback" not in text and "No space left on device" in text, text[-3000:]
    if choice == "stop":
        assert code == 1 and text.count("hfseg: error: ") == 1
    else:
        assert "Training goes on" in text and "16/16" in text

"""The queue by itself; with the genuine client it is tested in test_hub.py and test_pushes.py."""

import errno
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hfseg import push_queue
from hfseg.errors import Stopped
from hfseg.push_queue import PushQueue


class SlowRepo:
    """Notes what is pushed, once the gate is open."""

    repo_id = "user/m"

    def __init__(self) -> None:
        self.gate, self.messages = threading.Event(), list[str]()

    def push(self, folder: Path, message: str, branch: str) -> str:
        assert self.gate.wait(30)
        assert (folder / "metrics.json").read_text() == message, "the bundle as it was when it was handed over"
        self.messages.append(message)
        return f"commit{len(self.messages)}"


@pytest.mark.parametrize("free", [10**9, 0])
def test_bundles_give_way_only_when_the_disk_is_nearly_full(
    free: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(push_queue.shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    repo: Any = SlowRepo()
    metrics = tmp_path / "best" / "metrics.json"
    metrics.parent.mkdir()
    with PushQueue(repo, tmp_path) as queue:
        for number in range(20):
            metrics.unlink(missing_ok=True)
            metrics.write_text(f"best {number}")
            queue.push(metrics.parent, f"best {number}")
        repo.gate.set()
    numbers = [int(message.removeprefix("best ")) for message in repo.messages]
    assert numbers == sorted(numbers) and numbers[-1] == 19
    assert numbers == list(range(20)) if free else len(numbers) <= 2  # the first may be under way already
    assert queue.failure is None and queue.commit == f"commit{len(numbers)}" and not (tmp_path / ".hub").exists()


def test_a_bundle_that_cannot_be_set_aside_fails_its_push_and_no_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    repo: Any = SlowRepo()
    metrics = tmp_path / "best" / "metrics.json"
    metrics.parent.mkdir()
    metrics.write_text("older")

    def refuse(*paths: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with PushQueue(repo, tmp_path) as queue:
        queue.push(metrics.parent, "older")
        with monkeypatch.context() as full:
            full.setattr(push_queue, "_link", refuse)
            queue.push(metrics.parent, "newest")
            queue.push_checkpoint(metrics.parent)
        repo.gate.set()
    assert repo.messages == ["older"] and queue.commit is None, "the newest is not there"
    assert "No space left on device" in str(queue.failure) and "Not pushed (newest)" in caplog.text
    metrics.unlink()
    metrics.write_text("next")
    with PushQueue(repo, tmp_path) as queue:
        with monkeypatch.context() as full:
            full.setattr(push_queue, "_link", refuse)
            queue.push(metrics.parent, "lost")
        queue.push(metrics.parent, "next")
    assert queue.failure is None and queue.commit == "commit2"


@pytest.fixture
def best(tmp_path: Path) -> Path:
    (tmp_path / "best").mkdir()
    (tmp_path / "best" / "metrics.json").write_text("best")
    return tmp_path / "best"


def test_a_mistake_in_a_push_is_no_success(best: Path) -> None:
    class Broken(SlowRepo):
        def push(self, folder: Path, message: str, branch: str) -> str:
            if message == "next":
                raise KeyError("oid")
            return super().push(folder, message, branch)

    repo: Any = Broken()
    repo.gate.set()
    with PushQueue(repo, best.parent) as queue:
        queue.push(best, "best")
        queue.push(best, "next")
    assert queue.commit is None and queue.failure == "KeyError: 'oid'" and queue.arrived == "best"


def test_a_run_that_is_stopped_waits_not_long_and_does_not_call_it_pushed(
    best: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(push_queue, "PATIENCE", 0.05)
    repo: Any = SlowRepo()
    with pytest.raises(Stopped), PushQueue(repo, best.parent) as queue:
        queue.push(best, "best")
        raise Stopped("stopped", 15)
    assert queue.commit is None and queue.failure == "The run ended before the Hub had taken it."
    repo.gate.set()

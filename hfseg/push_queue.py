"""Pushes beside the training: a thread sends one bundle after another, and is waited for at the end."""

import logging
import os
import shutil
import threading
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import PartialState
from huggingface_hub.utils import disable_progress_bars
from transformers import TrainerCallback, TrainerControl, TrainerState

from hfseg.errors import Stopped
from hfseg.hub import CHECKPOINT_BRANCH, HubRepo, PushError, describe_best

logger = logging.getLogger(__name__)

SPARE_BUNDLES = 4  # with room for fewer than so many on the disk, the oldest that waits gives way

PATIENCE = 10.0  # seconds that a run which a signal has ended waits for the Hub


@dataclass
class Push:
    """A folder of its own that is to be a branch's newest commit."""

    folder: Path
    message: str
    branch: str = "main"


class PushQueue:
    """Sends bundles to the Hub in their order, each as a commit, while training goes on.

    A bundle is set aside by hard links, which takes a millisecond and stays as it is when `best/` is replaced. None is
    left out, but where one can't be sent in all tries, or the disk is nearly full: then the newest goes on. Checkpoints
    go when no bundle waits, the newest only.

    >>> with PushQueue(repo, "runs/pets") as queue:
    ...     queue.push(Path("runs/pets/best"), "Epoch 3, ...")
    >>> queue.commit or queue.failure

    Args:
        repo: where to.
        output_dir: the run's folder; what waits lies in `.hub/` there, and is gone in the end.
    """

    def __init__(self, repo: HubRepo, output_dir: str | Path) -> None:
        self.repo, self.folder = repo, Path(output_dir) / ".hub"
        self.commit: str | None = None  # the newest bundle's, once it was read back
        self.failure: str | None = None  # why the newest bundle is not there
        self.arrived: str | None = None  # the newest commit's message, whatever came after it
        self.num_commits = 0
        self._lost: str | None = None  # why the newest bundle could not be set aside
        self._bundles: deque[Push] = deque()
        self._checkpoint: Push | None = None
        self._count = 0
        self._closing = self._complete = self._busy = False
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> "PushQueue":
        return self

    def __exit__(self, error: type[BaseException] | None, *traceback: object) -> None:
        stopped = error is not None and issubclass(error, Stopped)
        self.finish(complete=error is None, patience=PATIENCE if stopped else None)

    def push(self, folder: Path, message: str) -> None:
        """Takes a bundle as it is now; returns at once. What can't be copied is a failed push, not a failed run."""
        aside = self._set_aside(folder, message)
        if aside is None:
            self.commit, self.failure = None, self._lost
            return
        push, self._lost = Push(aside, message), None
        with self._changed:
            self._bundles.append(push)
            while len(self._bundles) > 1 and self._is_short_of_disk(push.folder):
                self._leave_out(self._bundles.popleft())
        self._wake()

    def push_bundle(self, folder: Path) -> None:
        """Takes a new best bundle; its epoch, step and validation mIoU become the message."""
        self.push(folder, describe_best(folder))

    def push_checkpoint(self, folder: Path) -> None:
        """Takes a checkpoint to resume from; one that still waits gives way to it."""
        message = f"Checkpoint of step {folder.name.rpartition('-')[2]}"
        lost = self._lost
        aside = self._set_aside(folder, message)
        if aside is None:
            self._lost = lost  # that is of bundles
            return
        push = Push(aside, message, CHECKPOINT_BRANCH)
        with self._changed:
            older, self._checkpoint = self._checkpoint, push
        if older is not None:
            shutil.rmtree(older.folder, ignore_errors=True)
        self._wake()

    def finish(self, complete: bool = True, patience: float | None = None) -> None:
        """Waits until the newest bundle is on the Hub or has failed; `commit` or `failure` says which.

        Args:
            complete: the run is over, and needs no checkpoint to resume from.
            patience: seconds to wait at most; unset: as long as it takes.
        """
        with self._changed:
            self._closing, self._complete = True, complete
            waiting = len(self._bundles) + self._busy
            self._changed.notify()
        if self._thread is not None:
            if self._thread.is_alive() and waiting:
                logger.info(f"waiting for the Hub: {waiting} to go to {self.repo.repo_id}")
            self._thread.join(patience)
            if self._thread.is_alive():  # the machine will be gone soon
                if waiting:
                    self.commit, self.failure = None, "The run ended before the Hub had taken it."
                return
        shutil.rmtree(self.folder, ignore_errors=True)

    def _wake(self) -> None:
        if self._thread is None:
            disable_progress_bars()  # an upload's would run through that of the training
            self._thread = threading.Thread(target=self._work, name="hub", daemon=True)
            self._thread.start()
        with self._changed:
            self._changed.notify()

    def _work(self) -> None:
        while (push := self._next()) is not None:
            self._busy = True
            try:
                commit = self.repo.push(push.folder, push.message, push.branch)
            except PushError as error:
                self._fail(push, str(error))
            except Exception as error:  # a mistake of ours must not end the thread, and be told as a success
                self._fail(push, " ".join(f"{type(error).__name__}: {error}".split()))
            else:
                if push.branch == "main":
                    self.commit, self.failure = (commit, None) if self._lost is None else (None, self._lost)
                    self.arrived, self.num_commits = push.message, self.num_commits + 1
            shutil.rmtree(push.folder, ignore_errors=True)
            self._busy = False

    def _next(self) -> Push | None:
        with self._changed:
            while not self._bundles and self._checkpoint is None and not self._closing:
                self._changed.wait()
            if self._bundles:
                return self._bundles.popleft()
            push, self._checkpoint = self._checkpoint, None
            return None if self._complete else push

    def _fail(self, push: Push, reason: str) -> None:
        what = "checkpoint" if push.branch == CHECKPOINT_BRANCH else f"bundle ({push.message})"
        logger.warning(f"The {what} was not pushed: {reason}")
        if push.branch == CHECKPOINT_BRANCH:
            return
        self.commit, self.failure = None, reason
        with self._changed:
            while len(self._bundles) > 1:
                self._leave_out(self._bundles.popleft())

    def _is_short_of_disk(self, bundle: Path) -> bool:
        size = sum(path.stat().st_size for path in bundle.rglob("*") if path.is_file())
        return shutil.disk_usage(self.folder).free < SPARE_BUNDLES * size

    def _leave_out(self, push: Push) -> None:
        logger.warning(f"Not pushed, since newer bundles wait and the Hub or the disk allows no more: {push.message}")
        shutil.rmtree(push.folder, ignore_errors=True)

    def _set_aside(self, folder: Path, message: str) -> Path | None:
        """The folder's files under a name of their own, as hard links where the file system has them; None: no room."""
        self._count += 1
        aside = self.folder / str(self._count)
        ignored = shutil.ignore_patterns("training_args.bin", ".cache")
        try:
            shutil.copytree(folder, aside, copy_function=_link, ignore=ignored)
        except OSError as error:
            shutil.rmtree(aside, ignore_errors=True)
            self._lost = f"{folder} could not be set aside: {' '.join(str(error).split())}"
            logger.warning(f"Not pushed ({message}): {self._lost}")
            return None
        return aside


class CheckpointPushCallback(TrainerCallback):
    """Hands each saved checkpoint to the queue, once every process has written its part.

    Args:
        queue: None on all processes but the main one.
    """

    def __init__(self, queue: PushQueue | None) -> None:
        self.queue = queue

    def on_save(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        PartialState().wait_for_everyone()
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if self.queue is not None and folder.is_dir():
            self.queue.push_checkpoint(folder)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)

"""Processes that belong to a training: DataLoader workers outlive no trainer, and end by no signal meant for it."""

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from hfseg.errors import EXIT_CODE_FILE

PR_SET_PDEATHSIG = 1  # prctl(2)


def die_with_parent(parent: int, number: int = signal.SIGTERM) -> Callable[[], None] | None:
    """For Popen's preexec_fn: the child gets a signal when its parent ends, however that ends; Linux alone has this.

    Args:
        parent: the parent's process id.
        number: of the signal.
    """
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl

    def set_signal() -> None:
        prctl(PR_SET_PDEATHSIG, int(number))
        if os.getppid() != parent:  # it ended in between
            os._exit(1)

    return set_signal


def follow_launcher() -> None:
    """A process that accelerate or torchrun started stops, as by a SIGTERM, when that ends before it."""
    if "RANK" in os.environ or EXIT_CODE_FILE in os.environ:
        set_signal = die_with_parent(os.getppid())
        if set_signal is not None:
            set_signal()


def leave(accelerator: Any) -> None:
    """Ends what several processes have in common. None leaves while another still talks to it, which would abort.

    Nothing may be sent or gathered afterwards.
    """
    accelerator.wait_for_everyone()
    accelerator.end_training()
    let_gloo_finish()


def let_gloo_finish() -> None:
    """The last thing that one of several processes does.

    Gloo's threads need Python's lock to free what was gathered last. One that still waits for it when Python ends
    aborts the process, before Python 3.14. Nobody can see whether they are done: they take microseconds once they may.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and sys.version_info < (3, 14):
        time.sleep(0.5)


class WorkerInit:
    """A DataLoader's worker_init_fn: SIGINT and SIGTERM are left to the trainer, which needs its workers to finish.

    Of both, only a SIGTERM that the trainer itself sends ends a worker. Without it, a signal to the process group kills
    the workers, and the step can't be finished.

    Args:
        before: Trainer's own worker_init_fn.
    """

    def __init__(self, before: Callable[[int], Any] | None = None) -> None:
        self.before, self.trainer = before, os.getpid()

    def __call__(self, worker_id: int) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if hasattr(signal, "sigwaitinfo"):  # not on macOS and Windows
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
            threading.Thread(target=self._wait_for_trainer, daemon=True).start()
        if os.getppid() == self.trainer and (set_signal := die_with_parent(self.trainer, signal.SIGKILL)) is not None:
            set_signal()
        sys.excepthook = self._report
        if self.before is not None:
            self.before(worker_id)

    @staticmethod
    def _report(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        """Exceptions of the data set reach the trainer otherwise; here ends the thread that hands tensors to it.

        A trainer that ends leaves that connection in the middle, and the reason is told there.
        """
        if not isinstance(error, (EOFError, ConnectionError)):
            sys.__excepthook__(kind, error, traceback)

    def _wait_for_trainer(self) -> None:
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != self.trainer:
            pass
        os._exit(0)

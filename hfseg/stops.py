"""SIGTERM and SIGINT while training: a notice that the machine will be taken away, or Ctrl-C.

The running step is finished, a checkpoint is saved, and the run ends with a line that says how to go on.
"""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist

SIGNALS = (signal.SIGTERM, signal.SIGINT)
# A launcher passes a signal on to processes that the terminal has sent it to as well: that is no second Ctrl-C.
SAME_SIGNAL = 1.0  # seconds


class StopRequest:
    """Whether a signal came, as all processes know it.

    Args:
        process_index: the first one says on the terminal that the signal was heard.
        world_size: with several processes, each asks the others at the end of every step: one integer on the CPU,
            which no device waits for.
    """

    def __init__(self, process_index: int = 0, world_size: int = 1) -> None:
        self.number = 0  # of the signal
        self._since = 0.0
        self._pid, self._quiet = os.getpid(), process_index != 0
        self._group: Any = None
        if world_size > 1 and dist.get_backend() != "gloo":
            self._group = dist.new_group(backend="gloo")
        self._alone = world_size == 1

    def receive(self, number: int, frame: object = None) -> None:
        """The handler of both signals."""
        if os.getpid() != self._pid:
            return  # a worker that was just forked, and inherited this
        now = time.monotonic()
        if self.number and number == signal.SIGINT and now - self._since > SAME_SIGNAL:
            signal.signal(number, signal.SIG_DFL)
            os.kill(self._pid, number)
        if self.number:
            return
        self.number, self._since = number, now
        if not self._quiet:  # print() could be what the signal has interrupted
            name = signal.Signals(number).name
            os.write(2, f"\nhfseg: {name}: this step is finished and saved first; Ctrl-C again ends at once\n".encode())

    def agree(self) -> int:
        """The signal's number, or 0; the same on all processes."""
        if self._alone:
            return self.number
        number = torch.tensor([self.number])
        dist.all_reduce(number, dist.ReduceOp.MAX, group=self._group)
        self.number = int(number)
        return self.number


@contextmanager
def stop_between_steps(trainer: Any) -> Iterator[None]:
    """While a trainer trains, signals end it between two steps (see `hfseg.resume`)."""
    request = StopRequest(trainer.args.process_index, trainer.args.world_size)
    trainer.stop_requested = request.agree
    if threading.current_thread() is not threading.main_thread():  # which alone may set handlers
        yield
        return
    previous = {number: signal.signal(number, request.receive) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)

"""How long a training took, how fast it went and how much memory it needed: part of each line of its log."""

import sys
import time
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState


class Clock(TrainerCallback):
    """Measures between two training entries of the log; what an earlier process measured is read from that log.

    `images_per_second` counts reading batches and optimiser steps alone; `train_seconds` is all that a user waits for
    from the first step on, validation and saving too, without what a broken process did after its last checkpoint.
    """

    def __init__(self) -> None:
        self.num_images = 0
        self._busy = 0.0  # seconds of steps since the last lap
        self._mark = self._begin = time.perf_counter()
        self._earlier = 0.0  # seconds of earlier processes
        self._earlier_peak = 0.0

    def count(self, num_images: int) -> None:
        """Counts the images of one training batch, of all processes."""
        self.num_images += num_images

    def lap(self, device: torch.device) -> dict[str, float]:
        """Entries for the log; the next lap begins."""
        entries = {"train_seconds": self._earlier + time.perf_counter() - self._begin}
        if self._busy > 0:
            entries["images_per_second"] = self.num_images / self._busy
        if (peak := peak_memory_mb(device)) is not None:
            entries["peak_memory_mb"] = max(peak, self._earlier_peak)
        self.num_images, self._busy = 0, 0.0
        return entries

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        timed = [entry for entry in state.log_history if "train_seconds" in entry]  # of a resumed run
        self._earlier = timed[-1]["train_seconds"] if timed else 0.0
        self._earlier_peak = max((entry.get("peak_memory_mb", 0.0) for entry in timed), default=0.0)
        self.num_images, self._busy = 0, 0.0
        self._begin = time.perf_counter()

    def _start(self, *args: Any, **kwargs: Any) -> None:
        self._mark = time.perf_counter()

    # Validation and saving lie between two steps and end with these.
    on_epoch_begin = on_log = on_evaluate = on_save = _start

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        now = time.perf_counter()
        self._busy += now - self._mark
        self._mark = now


def peak_memory_mb(device: torch.device) -> float | None:
    """Largest memory so far in 2**20 bytes, of tensors on a CUDA device, else of this process; None: unknown."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)  # bytes there, KiB here

"""A step whose loss or gradients are NaN or inf is skipped and counted; many in a row end the run.

The weights, the optimiser's state and BatchNorm's running statistics stay as they were before the step. The number of
the step and the learning rate's schedule go on, so that the length of a run stays what it was.

On a CPU the answer is at hand. A GPU is not waited for: AdamW's fused kernels (the default there) take the flag on the
device and leave the weights alone, and a copy of it travels to the host, which reads it one step later, when the next
step is under way. Optimisers without such kernels make the host wait. With fp16, overflowing gradients are left to the
gradient scaler, which skips such steps to find its scale; the loss is looked at.
"""

import logging
from collections.abc import Callable
from typing import Any

import torch
from accelerate.utils import DistributedType, gather_object
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.utils import get_total_norm

from hfseg.checkpoints import unwrap
from hfseg.errors import GO_ON, RunError
from hfseg.resume import ResumingTrainer

logger = logging.getLogger(__name__)


class SteadyTrainer(ResumingTrainer):
    """Skips steps that are not finite; `args.max_nonfinite_steps` in a row end the run with the batch's file names."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.defer_flag = self.args.device.type == "cuda"  # read a step later, so that the device is not waited for
        self._losses: list[torch.Tensor] = []  # of the step's micro-batches
        self._files: list[str] = []
        self._statistics: list[tuple[torch.Tensor, torch.Tensor]] = []  # BatchNorm's, and as they were before the step
        self._unread: list[tuple[int, Callable[[], float], list[str]]] = []  # step, its flag, files
        self._nonfinite_in_a_row = 0
        self._limit = getattr(self.args, "max_nonfinite_steps", 5)

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        if not self._losses:
            self._remember_statistics()
        self._files += inputs.pop("files", [])
        loss = super().training_step(model, inputs, num_items_in_batch)
        self._losses.append(loss)
        return torch.where(loss.isfinite(), loss, torch.zeros_like(loss))  # what the log's mean is made of

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """Called between the gradients of a whole step and the optimiser."""
        if grad_norm is None and self._gradients_are_plain():
            # Trainer clips them to infinity, which multiplies every one of them by 1.
            grad_norm = get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        if not self.is_deepspeed_enabled:  # which has a check of its own
            self._look_at_step(model, norm)
        return norm

    def _gradients_are_plain(self) -> bool:
        """Neither sharded nor scaled."""
        whole = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)
        return self.accelerator.distributed_type in whole and self.accelerator.scaler is None

    def _look_at_step(self, model: nn.Module, norm: Any) -> None:
        losses, self._losses = self._losses, []
        files, self._files = self._files, []
        flag = ~torch.stack(losses).isfinite().all()
        scaled = self.accelerator.scaler is not None
        if not scaled:
            flag = flag | ~torch.as_tensor(norm, device=flag.device).isfinite()
        flag = flag.float()
        if self.args.world_size > 1:  # the gradients are everybody's, the losses are not
            flag = self.accelerator.reduce(flag, "sum").clamp(max=1)
        self._unread.append((self.state.global_step + 1, _send_to_host(flag), files))
        optimizer: Any = getattr(self.optimizer, "optimizer", self.optimizer)
        if self.defer_flag and not scaled and getattr(optimizer, "_step_supports_amp_scaling", False):
            optimizer.found_inf = flag  # see torch.optim.Adam: the kernels then change nothing
            for now, before in self._statistics:
                torch.where(flag > 0, before, now, out=now)
            self._read_flags(but_the_last=1)
        elif flag.item():
            model.zero_grad()  # an optimiser passes over parameters without a gradient
            for now, before in self._statistics:
                now.copy_(before)
            self._read_flags()
        else:
            self._read_flags()

    def _remember_statistics(self) -> None:
        if not self._statistics:
            norms = [module for module in unwrap(self.model).modules() if isinstance(module, _NormBase)]
            there = [b for m in norms for b in (m.running_mean, m.running_var) if b is not None]
            self._statistics = [(buffer, torch.empty_like(buffer)) for buffer in there]
        if self._statistics:
            now, before = zip(*self._statistics)
            torch._foreach_copy_(list(before), list(now))

    def _read_flags(self, but_the_last: int = 0) -> None:
        """Counts the steps that were skipped.

        Raises:
            RunError: max_nonfinite_steps in a row; on all processes at the same step.
        """
        while len(self._unread) > but_the_last:
            step, read_flag, files = self._unread.pop(0)
            if not read_flag():
                self._nonfinite_in_a_row = 0
                continue
            self._nonfinite_in_a_row += 1
            self.skipped_steps += 1
            self.skipped_since_log += 1
            if self._nonfinite_in_a_row < self._limit:
                logger.warning(f"Step {step} was skipped: its loss or its gradients are not finite.")
                continue
            if self.args.world_size > 1:
                files = gather_object(files)
            error = RunError(
                f"The loss or the gradients were not finite in {self._nonfinite_in_a_row} steps in a row, up to step "
                f"{step}, and these steps were skipped. Files of the last: {', '.join(files) or 'not known'}. Look at "
                f"them, lower learning_rate, or give a larger max_nonfinite_steps. {GO_ON}"
            )
            error.everywhere = True
            raise error

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        if self.control.should_log or self.control.should_evaluate or self.control.should_save:
            self._read_flags()
        super()._maybe_log_save_evaluate(*args, **kwargs)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """The mean loss is that of the steps that were not skipped; their number so far is told."""
        if "loss" in logs and self.skipped_since_log:
            steps, skipped = self.steps_in_log, self.skipped_since_log
            logs["loss"] = logs["loss"] * steps / (steps - skipped) if steps > skipped else float("nan")
            self.skipped_since_log = 0
        if "loss" in logs and self.skipped_steps:
            logs["skipped_steps"] = self.skipped_steps
        super().log(logs, *args, **kwargs)


def _send_to_host(number: torch.Tensor) -> Callable[[], float]:
    """Begins to copy a number, and returns what reads it: `item()` alone would wait for all that a GPU has to do."""
    if number.device.type != "cuda":
        return number.item
    copy = number.to("cpu", non_blocking=True)  # into pinned memory
    arrived = torch.cuda.Event()
    arrived.record()

    def read() -> float:
        arrived.synchronize()
        return copy.item()

    return read

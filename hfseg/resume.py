"""A run goes on from a checkpoint as if it had never been broken off."""

import logging
import pickle
import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback, TrainerControl, TrainerState

from hfseg.checkpoints import STAGING
from hfseg.errors import GO_ON, Stopped
from hfseg.saving import SavingTrainer

logger = logging.getLogger(__name__)


class EvaluationCut(Exception):
    """A signal came in the middle of a validation, which is then measured anew when the run goes on."""


class ResumingTrainer(SavingTrainer):
    """Saves each checkpoint whole, with all that a run holds in memory, and goes on from it bit for bit (on a CPU).

    A signal (see `hfseg.stops`) ends the run at the end of a step: the checkpoint then also says what was still to be
    done at this step (a validation, the end of the epoch), and that is done first when the run goes on.
    """

    train_matrix: torch.Tensor  # (C, C) int64, of the training batches since the last log
    steps_per_epoch: int

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._last_step: tuple[Any, Any] = None, None  # gradient norm and learning rate, for the log
        self._owed = {"evaluate": False, "epoch_end": False}
        self._in_epoch = False
        self.skipped_steps = self.skipped_since_log = self.steps_in_log = 0  # see hfseg.nonfinite
        self._resumed_from: str | None = None
        self._random_states: dict[str, Any] | None = None
        self.stop_requested = _never  # the signal's number, the same on all processes; see hfseg.stops
        self.add_callback(_Progress(self))

    # ---- the state beyond Trainer's own ----
    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        running: dict[str, Any] = {"train_matrix": self.train_matrix.cpu()}
        running["tr_loss"] = getattr(self, "_tr_loss", torch.zeros(())).cpu()
        running["last_logged"] = torch.tensor(self._globalstep_last_logged)
        norm, rate = self._last_step
        running["grad_norm"], running["learning_rate"] = None if norm is None else torch.as_tensor(norm).cpu(), rate
        running |= self._owed
        running |= {"skipped_steps": self.skipped_steps, "skipped_since_log": self.skipped_since_log}
        torch.save(running, Path(output_dir) / f"running_{self.args.process_index}.pt")

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if self._random_states is not None:  # the run has gone on from this checkpoint already, with what was owed
            _set_random_states(self._random_states)
            self._random_states = None
            return
        super()._load_rng_state(checkpoint)
        if checkpoint is not None:
            self._load_running(Path(checkpoint))

    def _load_running(self, checkpoint: Path) -> None:
        """Sums since the last log; those of another number of processes are shared out so that their total stays."""
        files = sorted(checkpoint.glob("running_*.pt"))
        if not files:
            return
        rank, same = self.args.process_index, len(files) == self.args.world_size
        if same:
            files = [checkpoint / f"running_{rank}.pt"]
        try:
            # Not onto args.device, which is cpu:0 in several processes on a CPU: torch can't load to that.
            parts = [torch.load(path, map_location="cpu", weights_only=True) for path in files]
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError):  # of a log line, not of the training
            logger.warning(f"{checkpoint}: the sums of the broken epoch can't be read; its next log entry starts anew.")
            return
        mine = parts[0]
        if not same:
            mine |= {"tr_loss": torch.stack([part["tr_loss"] for part in parts]).mean(0)}
            total = torch.stack([part["train_matrix"] for part in parts]).sum(0)
            mine["train_matrix"] = total if rank == 0 else torch.zeros_like(total)
        self.train_matrix.copy_(mine["train_matrix"])
        self._last_step = mine.get("grad_norm"), mine.get("learning_rate")
        self._owed = {name: bool(mine.get(name)) for name in self._owed}
        self.skipped_steps, self.skipped_since_log = mine.get("skipped_steps", 0), mine.get("skipped_since_log", 0)
        if hasattr(self, "_tr_loss"):
            self._tr_loss.copy_(mine["tr_loss"])
            self._globalstep_last_logged = int(mine["last_logged"])

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        self._resumed_from = checkpoint
        super()._load_optimizer_and_scheduler(checkpoint)

    # ---- the end of a step ----
    def _maybe_log_save_evaluate(self, tr_loss: Any, grad_norm: Any, *args: Any, **kwargs: Any) -> None:
        """Logs, validates and saves; where a signal came, it saves and leaves the validation to the next start."""
        self._last_step = grad_norm, kwargs.get("learning_rate")
        self.steps_in_log = self.state.global_step - self._globalstep_last_logged
        self._owed = {"evaluate": False, "epoch_end": self._in_epoch and self._is_last_step()}
        random_states = _get_random_states() if self.control.should_evaluate else {}
        number = self.stop_requested()
        if not number:
            try:
                super()._maybe_log_save_evaluate(tr_loss, grad_norm, *args, **kwargs)
                return
            except EvaluationCut:
                number = self.stop_requested()
                self.control.should_evaluate, self.control.should_log = True, False
                _set_random_states(random_states)
        self._owed["evaluate"] = self.control.should_evaluate
        self.control.should_evaluate, self.control.should_save = False, True
        super()._maybe_log_save_evaluate(tr_loss, grad_norm, *args, **kwargs)
        self.accelerator.wait_for_everyone()
        raise Stopped(self._describe_stop(number), number)

    def _is_last_step(self) -> bool:
        step = self.state.global_step
        return step >= self.state.max_steps or step % self.steps_per_epoch == 0

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """Stock Trainer, resumed at max_steps in the middle of an epoch, would train one step more."""
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return
        super()._run_epoch(*args, **kwargs)

    def _describe_stop(self, number: int) -> str:
        state, name = self.state, signal.Signals(number).name
        folder = f"checkpoint-{state.global_step}"
        if not (Path(str(self.args.output_dir)) / folder).is_dir():
            return f"Stopped by {name} after step {state.global_step}. {GO_ON}"
        return f"Stopped by {name} after step {state.global_step} of {state.max_steps}, which {folder} holds. {GO_ON}"

    def _do_what_is_owed(self) -> None:
        """What was still to be done at the checkpoint's step when a signal came or the machine died."""
        checkpoint, self._resumed_from = self._resumed_from, None
        self._in_epoch = False
        if checkpoint is None:
            return
        self._load_rng_state(checkpoint)
        owed, (norm, rate) = dict(self._owed), self._last_step
        epoch, start = self.state.epoch or 0, time.time()
        for what, is_owed in owed.items():
            if not is_owed:
                continue
            self.control.should_log = self.control.should_save = False
            self.control.should_evaluate = what == "evaluate"
            if what == "epoch_end":
                self.control = self.callback_handler.on_epoch_end(self.args, self.state, self.control)
            self._maybe_log_save_evaluate(
                self._tr_loss, norm, self.model_wrapped, None, epoch, None, start, learning_rate=rate
            )
        self.control.should_log = self.control.should_save = self.control.should_evaluate = False
        if any(owed.values()):
            self._random_states = _get_random_states()


class _Progress(TrainerCallback):
    """Tells the trainer where in an epoch it is, and stops a validation where a signal came."""

    def __init__(self, trainer: ResumingTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if args.should_save:
            shutil.rmtree(Path(args.output_dir) / STAGING, ignore_errors=True)
        self.trainer._do_what_is_owed()

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.trainer._in_epoch = True

    def on_epoch_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.trainer._in_epoch = False

    def on_prediction_step(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.trainer.is_in_train and self.trainer.stop_requested():
            raise EvaluationCut


def _never() -> int:
    return 0


def _get_random_states() -> dict[str, Any]:
    states = {"python": random.getstate(), "cpu": torch.random.get_rng_state()}
    states["numpy"] = np.random.get_state()  # noqa: NPY002  the state of the libraries' own draws
    return states | ({"cuda": torch.cuda.get_rng_state_all()} if torch.cuda.is_available() else {})


def _set_random_states(states: dict[str, Any]) -> None:
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])  # noqa: NPY002
    torch.random.set_rng_state(states["cpu"])
    if "cuda" in states:
        torch.cuda.set_rng_state_all(states["cuda"])

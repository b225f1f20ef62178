"""Checkpoints that are written whole or not at all, and the number of them that stays."""

import logging
import shutil
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from safetensors import SafetensorError
from transformers import Trainer

from hfseg.checkpoints import STAGING, delete_older, publish_checkpoint
from hfseg.errors import GO_ON, RunError

logger = logging.getLogger(__name__)

TORCH_WRITER = "inline_container"  # torch.save's file format, named in its errors


class SavingTrainer(Trainer):
    """Writes each checkpoint aside, and gives it its name when every process's files are on disk."""

    _staging: Path | None = None

    def _get_output_dir(self, trial: Any) -> str:
        return super()._get_output_dir(trial) if self._staging is None else str(self._staging)

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        """Writes all processes' files aside, and renames them when the last of them is on disk."""
        output_dir = Path(super()._get_output_dir(trial))
        staging, folder = output_dir / STAGING, output_dir / f"checkpoint-{self.state.global_step}"
        if self.args.should_save:
            shutil.rmtree(staging, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        reason = None
        try:
            self._staging = staging
            super()._save_checkpoint(model, trial)
        except (OSError, RuntimeError, SafetensorError) as error:
            if isinstance(error, RuntimeError) and TORCH_WRITER not in str(error):
                raise
            reason = describe_write_error(error, staging)
        finally:
            self._staging = None
        reason = self._first_of(reason)
        if reason is None and self.args.should_save:
            try:
                self._keep_best(staging / folder.name, folder)
                publish_checkpoint(staging / folder.name, folder, self._about())
            except OSError as error:
                reason = describe_write_error(error, staging)
        reason = self._first_of(reason)
        if self.args.should_save:
            shutil.rmtree(staging, ignore_errors=True)
            if reason is None:
                delete_older(folder, self.args.save_total_limit, self.state.best_model_checkpoint)
        if reason is not None:
            refuse_or_warn(self.args, folder.name, reason)

    def _first_of(self, reason: str | None) -> str | None:
        """What went wrong on the first process on which something did; the same answer on all."""
        reasons = gather_object([reason]) if self.args.world_size > 1 else [reason]
        return next((one for one in reasons if one), None)

    def _keep_best(self, new: Path, folder: Path) -> None:
        """With metric_for_best_model, Trainer has noted the folder in which the checkpoint was written."""
        if self.state.best_model_checkpoint == str(new):
            self.state.best_model_checkpoint = str(folder)
            self.state.save_to_json(str(new / "trainer_state.json"))

    def _about(self) -> dict[str, Any]:
        names = ("per_device_train_batch_size", "gradient_accumulation_steps")
        return {"num_processes": self.args.world_size, **{name: getattr(self.args, name) for name in names}}


def refuse_or_warn(args: Any, name: str, reason: str) -> None:
    """A folder of the run was not written: what `on_save_error` says is done.

    Raises:
        RunError: on_save_error is stop.
    """
    text = f"{name} was not saved: {reason}. Earlier checkpoints are as they were."
    if getattr(args, "on_save_error", "stop") == "stop":
        raise RunError(f"{text} Make room. {GO_ON}")
    logger.warning(f"{text} Training goes on.")


def describe_write_error(error: BaseException, folder: Path) -> str:
    """A failed write in one line; torch and safetensors say less of the reason than the system does."""
    chain: BaseException | None = error
    while chain is not None and not (isinstance(chain, OSError) and chain.errno is not None):
        chain = chain.__cause__ or chain.__context__
    if isinstance(chain, OSError):
        return f"{chain.strerror} (errno {chain.errno})"
    text = " ".join(str(error).split())
    if "No space left" in text or _is_full(folder):
        return "No space left on device"
    return f"torch could not write its file ({text[:150]})" if TORCH_WRITER in text else text[:200]


def _is_full(folder: Path) -> bool:
    there = next(path for path in (folder, *folder.parents) if path.exists())
    return shutil.disk_usage(there).free < 2**20

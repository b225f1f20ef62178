"""Exact resume: what a run holds in memory beyond Trainer's own state comes back from a checkpoint as well."""

import logging
import pickle
from pathlib import Path

import torch
from transformers import Trainer

logger = logging.getLogger(__name__)


class ResumingTrainer(Trainer):
    """Saves beside each checkpoint what the next log entry sums up so far, and takes it back."""

    train_matrix: torch.Tensor  # (C, C) int64, of the training batches since the last log

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        running = {"train_matrix": self.train_matrix.cpu(), "tr_loss": getattr(self, "_tr_loss", torch.zeros(())).cpu()}
        running["last_logged"] = torch.tensor(self._globalstep_last_logged)
        torch.save(running, self._running_file(output_dir))

    def _load_rng_state(self, checkpoint: str | None) -> None:
        super()._load_rng_state(checkpoint)
        if checkpoint is None or not self._running_file(checkpoint).is_file():
            return
        try:
            running = torch.load(self._running_file(checkpoint), map_location=self.args.device, weights_only=True)
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError):  # of a log line, not of the training
            logger.warning(f"{checkpoint}: the sums of the broken epoch can't be read; its next log entry starts anew.")
            return
        self.train_matrix.copy_(running["train_matrix"])
        if hasattr(self, "_tr_loss"):
            self._tr_loss.copy_(running["tr_loss"])
            self._globalstep_last_logged = int(running["last_logged"])

    def _running_file(self, checkpoint: str) -> Path:
        return Path(checkpoint) / f"running_{self.args.process_index}.pt"

"""Experiment trackers: what `report_to` needs before training, and pictures of predictions in them.

The numbers of the log reach a tracker through transformers' own callbacks.
"""

import io
import logging
import os
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from transformers import TrainerCallback, TrainerControl, TrainerState
from transformers.integrations import TensorBoardCallback

from hfseg.bundle import Bundle
from hfseg.errors import InputError, near_names
from hfseg.images import read_mask
from hfseg.labels import Labels
from hfseg.plots import plot_predictions
from hfseg.segmenter import Segmenter

logger = logging.getLogger(__name__)

TRACKERS = ("tensorboard", "trackio", "wandb")  # package and extra have the same name
PICTURE = "eval/predictions"


def prepare_trackers(args: Any) -> None:
    """Checks `report_to` and names project and run: hfseg, and the run's folder.

    Raises:
        InputError: a tracker that is unknown or not installed, or Weights & Biases without a login.
    """
    for name in args.report_to:
        if name not in TRACKERS:
            logger.warning(
                f"report_to: {name} gets the numbers of the log, but no pictures.{near_names(name, TRACKERS)}"
            )
        elif find_spec(name) is None:
            raise InputError(f"report_to: {name} is not installed. pip install 'hfseg[{name}]', or leave it out.")
    if args.report_to and args.run_name in (None, args.output_dir):
        args.run_name = Path(args.output_dir).name
    if args.project == "huggingface":
        args.project = "hfseg"
    if "wandb" in args.report_to:
        os.environ.setdefault("WANDB_PROJECT", args.project)
        if os.environ.get("WANDB_MODE") not in ("offline", "disabled", "dryrun") and args.should_save:
            _check_wandb_login()


def _check_wandb_login() -> None:
    import wandb

    try:
        known = wandb.login(prompt=False)
    except (wandb.errors.Error, ValueError) as error:
        raise InputError(f"report_to: wandb refuses the login: {' '.join(str(error).split())}") from error
    if not known:
        raise InputError("report_to: wandb has no login here. Run `wandb login`, or set WANDB_MODE=offline.")


class PredictionPictures(TrainerCallback):
    """Sends a picture of four validation predictions to each tracker after every evaluation.

    Args:
        trainer: whose trackers are used.
        dataset: with columns `image` and `mask`, as `hfseg.data.load` gives it.
        labels: the data set's, which read its masks.
        num_images: spread evenly over the data set.
    """

    def __init__(self, trainer: Any, dataset: Any, labels: Labels, num_images: int = 4) -> None:
        self.trainer, self.labels = trainer, labels
        self.dataset, self.num_images = dataset, num_images

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """Read once, and only after an evaluation, which names a file that can't be read."""
        picks = np.linspace(0, len(self.dataset) - 1, min(self.num_images, len(self.dataset))).astype(int)
        return [self.dataset[int(i)] for i in picks]

    def on_evaluate(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if not state.is_world_process_zero or not any(name in args.report_to for name in TRACKERS):
            return
        if not any(key.startswith("eval_") for key in kwargs["metrics"]):
            return
        model = kwargs["model"]
        was_training = model.training
        picture = self.draw(model, kwargs["processing_class"], args.device)
        model.train(was_training)
        if "tensorboard" in args.report_to:
            writers = [
                c.tb_writer for c in self.trainer.callback_handler.callbacks if isinstance(c, TensorBoardCallback)
            ]
            for writer in filter(None, writers):
                writer.add_image(PICTURE, np.asarray(picture), state.global_step, dataformats="HWC")
        if "wandb" in args.report_to:
            import wandb

            wandb.log({PICTURE: wandb.Image(picture), "train/global_step": state.global_step})
        if "trackio" in args.report_to:
            import trackio

            trackio.log({PICTURE: trackio.Image(picture), "train/global_step": state.global_step})

    def draw(self, model: Any, processor: Any, device: Any) -> Image.Image:
        """Picture, label, prediction and overlay of each image, as RGB."""
        # In the weights' own type, so that those of the training stay as they are.
        segmenter = Segmenter(Bundle(model, processor), device=device, dtype=next(model.parameters()).dtype)
        results = segmenter([row["image"] for row in self.rows])
        masks = [self.labels.encode(read_mask(row["mask"])) for row in self.rows]
        file = io.BytesIO()
        plot_predictions([r.image for r in results], masks, [r.mask for r in results], self.labels).savefig(file)
        return Image.open(file).convert("RGB")


def finish_trackers(args: Any) -> None:
    """Closes the runs, so that what came after training, the test scores, is stored too."""
    if not args.should_save:
        return
    if "wandb" in args.report_to:
        import wandb

        wandb.finish()
    if "trackio" in args.report_to:
        import trackio

        trackio.finish()

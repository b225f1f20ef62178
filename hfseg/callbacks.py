"""What happens around the training steps: the epoch's number, the progress line, the best bundle."""

import json
import logging
import math
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from tqdm.auto import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState
from transformers.trainer_utils import has_length

from hfseg.bundle import read_metrics, recover_bundle, write_bundle
from hfseg.card import RunRecord, build_card
from hfseg.card_text import log_rows
from hfseg.data.bad_samples import BadSamples
from hfseg.files import write_whole
from hfseg.logs import FILE_LOGGER
from hfseg.pictures import draw_curves, to_png
from hfseg.samples import SampleSheet
from hfseg.saving import describe_write_error, refuse_or_warn
from hfseg.sharded import gather_weights

logger = logging.getLogger(__name__)


class EpochCallback(TrainerCallback):
    """Tells the transforms which epoch it is, and validates every `eval_every_epochs` and after the last.

    Args:
        set_epoch: called with the epoch's number, from 0, before its first batch is read.
    """

    def __init__(self, set_epoch: Callable[[int], None] | None = None) -> None:
        self.set_epoch = set_epoch

    def on_epoch_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.set_epoch is not None:
            self.set_epoch(math.floor((state.epoch or 0) + 1e-6))

    def on_epoch_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if args.eval_strategy != "epoch":
            return
        epoch, last = round(state.epoch), state.global_step >= state.max_steps
        control.should_evaluate = last or epoch % args.eval_every_epochs == 0


class BadSampleCallback(TrainerCallback):
    """Shares among the processes which samples were left out, before anything else is done with an evaluation."""

    def __init__(self, bad: BadSamples) -> None:
        self.bad = bad

    def on_epoch_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.bad.share(args.device)

    def on_evaluate(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.bad.share(args.device)


class BestBundleCallback(TrainerCallback):
    """Writes output_dir/best whenever the validation mIoU improves, and keeps output_dir/trainer_state.json current.

    Args:
        recipe: the merged recipe, saved with the bundle.
        record: what the card says of the run.
        samples: draws the card's pictures.
        publish: called with each new bundle's folder, on the main process.
    """

    def __init__(
        self,
        recipe: dict[str, Any],
        record: RunRecord | None = None,
        samples: SampleSheet | None = None,
        publish: Callable[[Path], None] | None = None,
    ) -> None:
        self.recipe, self.record, self.samples, self.publish = recipe, record or RunRecord(), samples, publish
        self.trainer: Any = None  # set once it is made; the card asks it for classes and pixels
        self.best = -math.inf
        self.start = time.perf_counter()

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        folder = Path(args.output_dir) / "best"
        self.start = time.perf_counter()
        if args.should_save:
            recover_bundle(folder)
        if state.global_step > 0:  # resumed
            self.best = read_metrics(folder).get("mean_iou", -math.inf)
            if self.publish is not None and self.best > -math.inf:
                self.publish(folder)  # the Hub may not have had it yet when the run was broken off

    def on_evaluate(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        metrics: dict[str, float] = kwargs["metrics"]
        result = self.trainer.eval_metric.compute() if self.trainer is not None else {"per_class": {}}
        if result["per_class"]:
            pixels = [row["pixels"] for row in result["per_class"].values()]
            self.record.data.pixels = {"train": self.trainer.train_pixels, "validation": pixels}
        score = metrics.get("eval_mean_iou", math.nan)
        if not score > self.best:  # also when there is no score
            return
        before, self.best = self.best, score
        model = self.trainer.model if self.trainer is not None else kwargs["model"]
        weights = gather_weights(model)  # all processes have a part in it
        if args.should_save:
            values: dict[str, Any] = {k.removeprefix("eval_"): v for k, v in metrics.items() if k.startswith("eval_")}
            values = {"step": state.global_step, "epoch": state.epoch, "split": "validation"} | values
            values["resolution"] = args.eval_resolution
            values |= {f"accuracy_{n}": row["accuracy"] for n, row in result["per_class"].items()}
            self.record.seconds = time.perf_counter() - self.start
            processor = kwargs["processing_class"]
            files = {"curves.png": to_png(draw_curves(log_rows(state.log_history), state.global_step))}
            if self.samples is not None and weights is None:  # a model in parts would need all processes here
                files |= self.samples.draw(model, processor)
            card = build_card(model, self.record, values, state.log_history, list(files))
            folder = Path(args.output_dir) / "best"
            try:
                write_bundle(folder, model, processor, self.recipe, values, card, files, weights)
            except (OSError, SafetensorError) as error:
                if weights is None:  # else all processes must agree on what is the best so far
                    self.best = before
                refuse_or_warn(args, folder.name, describe_write_error(error, folder.parent))
                return
            if self.publish is not None:
                self.publish(folder)

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if args.should_save and state.is_world_process_zero:
            path = Path(args.output_dir) / "trainer_state.json"
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                write_whole(path, json.dumps(asdict(state), indent=2, sort_keys=True) + "\n")
            except OSError as error:
                refuse_or_warn(args, path.name, describe_write_error(error, path.parent))


class ProgressCallback(TrainerCallback):
    """One bar over the optimiser steps with the newest loss and mIoU, and one line an epoch."""

    def __init__(self) -> None:
        self.bar: tqdm | None = None
        self.values: dict[str, str] = {}

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            self.bar = tqdm(total=state.max_steps, initial=state.global_step, unit="step", dynamic_ncols=True)

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.bar is not None:
            self.bar.update(state.global_step - self.bar.n)

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        logs: dict[str, float] = kwargs["logs"]
        if self.bar is None:
            return
        if "loss" in logs:
            self.values |= {"loss": f"{logs['loss']:.4f}", "train mIoU": f"{logs['train_mean_iou']:.4f}"}
        if "eval_mean_iou" in logs:
            self.values |= {"val loss": f"{logs['eval_loss']:.4f}", "val mIoU": f"{logs['eval_mean_iou']:.4f}"}
            row = "  ".join(f"{key} {value}" for key, value in self.values.items())
            line = f"epoch {state.epoch:g}/{state.num_train_epochs:g}  {row}"
            self.bar.write(line)
            logging.getLogger(FILE_LOGGER).info(line)
        self.bar.set_postfix(self.values)

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None


class EvaluationBar(TrainerCallback):
    """A bar over the evaluation batches, for commands that only evaluate."""

    def __init__(self) -> None:
        self.bar: tqdm | None = None

    def on_prediction_step(
        self, args: Any, state: TrainerState, control: TrainerControl, eval_dataloader: Any = None, **kwargs: Any
    ) -> None:
        if self.bar is None and state.is_world_process_zero and has_length(eval_dataloader):
            self.bar = tqdm(total=len(eval_dataloader), unit="batch", dynamic_ncols=True)
        if self.bar is not None:
            self.bar.update(1)

    def on_evaluate(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None

"""SegTrainer: transformers' Trainer with a loss, an evaluation and a reload that are right for segmentation."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, Trainer

from hfseg.bands import cross_entropy_by_bands, is_large
from hfseg.checkpoints import reload_weights, unwrap
from hfseg.clock import Clock
from hfseg.data.transforms import collate_for
from hfseg.errors import InputError
from hfseg.evaluation import MatrixEvaluation
from hfseg.inputs import InputTrainer
from hfseg.labels import IGNORE_INDEX, class_names
from hfseg.losses import cross_entropy, upsample
from hfseg.metrics import SegMetric, confusion_matrix, predict_ids
from hfseg.models.segformer_head import reorder_decode_head
from hfseg.nonfinite import SteadyTrainer
from hfseg.workers import WorkerInit

AUXILIARY_WEIGHT = 0.4  # torchvision's reference training for segmentation


class SegTrainer(MatrixEvaluation, InputTrainer, SteadyTrainer):
    """Trains any model that maps `pixel_values` (B, 3, H, W) to `logits` (B, C, h, w).

    The loss is the sum over the valid pixels (label != 255) of all micro-batches and processes, over their number: a
    batch of 8, two accumulated batches of 4 and two processes with 4 each give the same loss and gradient, up to
    BatchNorm, which sees one micro-batch. Evaluation turns each image into one (C, C) matrix on its device before
    anything is gathered, so that images may have any size and memory does not grow with their number.

    Args:
        model: its `config.id2label` names the classes.
        args: see `hfseg.args.SegTrainingArguments`; `batch_eval_metrics` and `remove_unused_columns=False` are needed.
        loss: (logits, labels, weight=, label_smoothing=, num_items=) -> scalar; see `hfseg.losses`.
        class_weights: (C,) float weights of the loss.
        kwargs: passed to `transformers.Trainer`; `processing_class`, the image processor, normalises uint8 batches.
    """

    # The loss is a sum over the pixels of the whole accumulated batch: Trainer must not divide it again.
    loss_is_scaled_for_ga = True

    def __init__(
        self,
        model: PreTrainedModel,
        args: Any,
        *,
        loss: Callable[..., torch.Tensor] = cross_entropy,
        class_weights: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> None:
        self.class_names = class_names(model.config)
        self.num_labels = len(self.class_names)
        reorder_decode_head(model)
        if args.world_size > 1 and args.device.type == "cuda" and getattr(args, "sync_batchnorm", True):
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        if getattr(args, "channels_last", False):
            model = model.to(memory_format=torch.channels_last)  # type: ignore[call-arg]
        checkpointing = (
            getattr(args, "activation_checkpointing", False) or args.gradient_checkpointing
        )  # new name, old name
        if checkpointing and not getattr(model, "supports_gradient_checkpointing", False):
            raise InputError(
                f"gradient_checkpointing: {type(model).__name__} can't compute its activations anew. Leave it out, and "
                "lower per_device_train_batch_size with as much more gradient_accumulation_steps."
            )
        if args.ddp_find_unused_parameters is None:
            # Searching costs each step; only auxiliary heads (UperNet, BEiT, Data2Vec) stay out of this loss.
            args.ddp_find_unused_parameters = any("auxiliary" in name for name, _ in model.named_modules())
        if args.ddp_broadcast_buffers is None:
            args.ddp_broadcast_buffers = False  # training doesn't read what BatchNorm counts; evaluation broadcasts it
        kwargs.setdefault("data_collator", collate_for(args.device))
        kwargs.setdefault("compute_metrics", self._sum_matrices)
        super().__init__(model=model, args=args, **kwargs)
        if self.accelerator.ddp_handler is not None:
            # Gradients lie where they are exchanged: not copied there and back, and not held twice.
            self.accelerator.ddp_handler.gradient_as_bucket_view = True
        self.model_accepts_loss_kwargs = True  # older releases read this instead of loss_is_scaled_for_ga
        self.pixel_loss = loss
        self.class_weights = None if class_weights is None else class_weights.float().to(args.device)
        self.train_pixels = [0] * self.num_labels  # of each class, in all training batches that were logged
        self.train_matrix = torch.zeros(self.num_labels, self.num_labels, dtype=torch.int64, device=args.device)
        self.eval_metric = SegMetric(self.class_names)  # the last evaluation, for its confusion matrix
        self.clock = Clock()
        self.add_callback(self.clock)

    # ---- batches ----
    def _get_dataloader(self, *args: Any, **kwargs: Any) -> DataLoader:
        loader = super()._get_dataloader(*args, **kwargs)
        base = getattr(loader, "base_dataloader", loader)  # accelerate's wrapper hands its iteration to this one
        base.worker_init_fn = WorkerInit(base.worker_init_fn)
        return loader

    def _get_num_items_in_batch(self, batch_samples: list[dict[str, Any]], device: torch.device) -> torch.Tensor | None:
        """Valid pixels of all micro-batches and processes, at least 1 so that a fully ignored batch gives 0."""
        if not batch_samples or "labels" not in batch_samples[0]:
            return None
        count = sum((batch["labels"] != IGNORE_INDEX).sum() for batch in batch_samples)
        count = torch.as_tensor(count, device=device)
        if self.args.world_size > 1:
            count = self.accelerator.reduce(count, "sum")
        return count.clamp(min=1)

    # ---- loss ----
    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Loss of one micro-batch; while training, its predictions are counted for train_mean_iou as well."""
        labels = inputs["labels"]
        outputs = model(pixel_values=inputs["pixel_values"])
        loss, matrix = self._loss_and_matrix(outputs.logits, labels, num_items_in_batch)
        if (auxiliary := getattr(outputs, "aux_logits", None)) is not None and model.training:
            loss = loss + AUXILIARY_WEIGHT * self._loss_and_matrix(auxiliary, labels, num_items_in_batch)[0]
        if model.training:
            self.train_matrix += matrix
            self.clock.count(len(labels) * self.accelerator.num_processes)
            # Each process divides by the pixels of all of them, and DistributedDataParallel takes the mean.
            loss = loss * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss

    def _loss_and_matrix(
        self, logits: torch.Tensor, labels: torch.Tensor, num_items: torch.Tensor | int | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Loss at the labels' size, and (C, C) int64 counts; logits of many values are never brought there whole."""
        options: dict[str, Any] = {**self.loss_options(), "num_items": num_items}
        if self.pixel_loss is cross_entropy and is_large(logits, labels.shape[-2:]):
            return cross_entropy_by_bands(logits, labels, **options)
        logits = upsample(logits, labels.shape[-2:])
        pred = predict_ids(logits.detach())
        return self.pixel_loss(logits, labels, **options), confusion_matrix(pred, labels, self.num_labels, check=False)

    # ---- log ----
    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Adds train_mean_iou, speed and memory since the last log to the entries with a training loss."""
        if "loss" in logs:
            metric = SegMetric(self.class_names)
            metric.add_matrix(self.accelerator.reduce(self.train_matrix, "sum").cpu())
            self.train_matrix.zero_()
            self.train_pixels = [a + b for a, b in zip(self.train_pixels, metric.matrix.sum(1).tolist())]
            logs["train_mean_iou"] = metric.mIoU()
            logs |= self.clock.lap(self.args.device)
        super().log(logs, *args, **kwargs)

    # ---- optimiser and schedule ----
    @staticmethod
    def get_optimizer_cls_and_kwargs(args: Any, model: PreTrainedModel | None = None) -> tuple[Any, Any]:
        optimizer_cls, kwargs = Trainer.get_optimizer_cls_and_kwargs(args, model)
        if getattr(args, "amsgrad", False):
            kwargs["amsgrad"] = True
        return optimizer_cls, kwargs

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> Any:
        """With `lr_gamma`, the learning rate is multiplied by it after each epoch (PyTorch's ExponentialLR)."""
        gamma = getattr(self.args, "lr_gamma", None)
        if gamma is None or self.lr_scheduler is not None:
            # A run that ends with its warm-up: the polynomial schedule would divide by the steps after it, none.
            while self.args.get_warmup_steps(num_training_steps) == num_training_steps:
                num_training_steps += 1
            return super().create_scheduler(num_training_steps, optimizer)
        steps_per_epoch = self.steps_per_epoch
        optimizer = optimizer or self.optimizer
        assert optimizer is not None
        self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: gamma ** (step // steps_per_epoch)
        )
        self._created_lr_scheduler = True
        return self.lr_scheduler

    def set_initial_training_values(self, args: Any, dataloader: Any) -> tuple[Any, ...]:
        values = super().set_initial_training_values(args, dataloader)
        self.steps_per_epoch = values[1]  # optimiser steps; create_scheduler needs it
        return values

    # ---- faithful reload ----
    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:  # sharded formats have their own loaders
            return super()._load_from_checkpoint(resume_from_checkpoint, model)
        return reload_weights(unwrap(model or self.model), resume_from_checkpoint)

    def _load_best_model(self) -> None:
        return reload_weights(unwrap(self.model), str(self.state.best_model_checkpoint))

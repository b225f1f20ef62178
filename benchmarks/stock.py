"""What users run today: transformers' Trainer with its own image processor or torchvision v2, and evaluate's mean_iou.

Written plainly after the task guide and the example script for semantic segmentation, with two favours: the metric's
numbers are computed in memory, where `evaluate` writes every map through Arrow first, and labels are reduced by hand.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from torchvision import tv_tensors
from torchvision.transforms import v2
from transformers import SegformerImageProcessor, Trainer, TrainingArguments

from hfseg.labels import IGNORE_INDEX

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Batch = dict[str, list[Any]]


def by_processor(size: tuple[int, int], reduce: Callable[[np.ndarray], np.ndarray]) -> Callable[[Batch], Batch]:
    """As the task guide has it: the list of pictures through the image processor.

    Args:
        size: (height, width).
        reduce: raw mask values, (H, W) uint8, to class ids and 255.
    """
    processor: Any = SegformerImageProcessor(
        size={"height": size[0], "width": size[1]}, image_mean=list(MEAN), image_std=list(STD)
    )

    def transform(batch: Batch) -> Batch:
        images = [image.convert("RGB") for image in batch["image"]]
        masks = [reduce(np.array(mask)) for mask in batch["mask"]]
        inputs = processor(images, masks, return_tensors="pt")
        return {"pixel_values": list(inputs["pixel_values"]), "labels": list(inputs["labels"])}

    return transform


def by_torchvision(size: tuple[int, int], reduce: Callable[[np.ndarray], np.ndarray]) -> Callable[[Batch], Batch]:
    """The same by torchvision v2, sample by sample on tensors."""
    compose = v2.Compose(
        [v2.Resize(size, antialias=True), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
    )

    def transform(batch: Batch) -> Batch:
        out: Batch = {"pixel_values": [], "labels": []}
        for image, mask in zip(batch["image"], batch["mask"]):
            pixels, target = compose(
                tv_tensors.Image(v2.functional.pil_to_tensor(image.convert("RGB"))),
                tv_tensors.Mask(torch.from_numpy(reduce(np.array(mask)))),
            )
            out["pixel_values"].append(pixels.as_subclass(torch.Tensor))
            out["labels"].append(target.as_subclass(torch.Tensor).long())
        return out

    return transform


WAYS = {"image processor": by_processor, "torchvision v2": by_torchvision}


def pets_ids(mask: np.ndarray) -> np.ndarray:
    """Trimaps count from 1."""
    return mask - 1


def camvid_ids(mask: np.ndarray) -> np.ndarray:
    """The value 11 is no class."""
    return np.where(mask == 11, IGNORE_INDEX, mask).astype(np.uint8)


def compute_mean_iou(eval_pred: Any) -> dict[str, float]:
    """All gathered logits are upsampled at once; then four histograms an image, as evaluate's mean_iou counts."""
    logits, labels = eval_pred
    num_labels = logits.shape[1]
    upsampled = nn.functional.interpolate(
        torch.from_numpy(logits), size=labels.shape[-2:], mode="bilinear", align_corners=False
    )
    totals = np.zeros((4, num_labels))
    for pred, label in zip(upsampled.argmax(dim=1).numpy(), labels):
        valid = label != IGNORE_INDEX
        pred, label = pred[valid], label[valid]
        areas = [
            np.histogram(values, bins=num_labels, range=(0, num_labels - 1))[0]
            for values in (pred[pred == label], pred, label)
        ]
        totals += [areas[0], areas[1] + areas[2] - areas[0], areas[1], areas[2]]
    iou = totals[0] / np.where(totals[1] > 0, totals[1], np.nan)
    return {"mean_iou": float(np.nanmean(iou))}


def build_trainer(model: nn.Module, folder: str, train_set: Any, eval_set: Any, **settings: Any) -> Trainer:
    """Stock Trainer; `remove_unused_columns=False` is needed for set_transform."""
    args = TrainingArguments(
        output_dir=folder, remove_unused_columns=False, report_to=[], disable_tqdm=True, eval_do_concat_batches=True,
        **settings,
    )  # fmt: skip
    return Trainer(
        model=model, args=args, train_dataset=train_set, eval_dataset=eval_set, compute_metrics=compute_mean_iou
    )

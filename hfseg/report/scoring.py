"""The kept model of a run on its own data again: what needs more than the numbers that training left."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from hfseg.args import parse
from hfseg.bundle import read_bundle
from hfseg.data.bad_samples import BadSamples
from hfseg.data.transforms import SegTransform, collate, normalize, prepare
from hfseg.errors import InputError
from hfseg.images import describe, read_image, read_mask
from hfseg.labels import Labels
from hfseg.losses import upsample
from hfseg.metrics import SegMetric, confusion_matrix, predict_ids
from hfseg.report.records import SeedRun
from hfseg.roc import RocCurve, ScoreHistogram
from hfseg.segmenter import Segmenter
from hfseg.train import load_data

NUM_SAMPLES = 4
SAMPLE_SEED = 0


@dataclass
class Sample:
    """An image with its label, and what the model makes of it, all at the image's own size."""

    title: str
    image: np.ndarray
    mask: np.ndarray
    pred: np.ndarray | None = None


@dataclass
class Scores:
    """A model on its test set.

    Attributes:
        matrix: (C, C) pixel counts, the truth in rows.
        curves: one ROC curve a class.
        per_image: name and mean IoU of each test image.
        samples: four training images, then the best, the median and the worst of the test set.
    """

    labels: Labels
    split: str
    matrix: np.ndarray
    curves: list[RocCurve]
    per_image: list[tuple[str, float]]
    samples: list[Sample] = field(default_factory=list)


def load_recipe_data(recipe: dict[str, Any]) -> tuple[Any, Labels, Any]:
    """The data set of a recipe, its labels and its training arguments."""
    data_args, _, args, _ = parse(["--use_cpu", "true"], defaults=recipe)
    dataset, labels = load_data(data_args, args)
    return dataset, labels, args


def draw_samples(recipe: dict[str, Any]) -> tuple[list[Sample], Labels]:
    """Four random training images, the same ones for each run on the data set."""
    dataset, labels, _ = load_recipe_data(recipe)
    return [_sample(dataset["train"], i, labels, f"train {i}") for i in _picks(dataset["train"])], labels


@torch.inference_mode()
def score(run: SeedRun, recipe: dict[str, Any]) -> Scores:
    """Runs the kept model over its test set, as the training's own test did, and over the pictures to show.

    Raises:
        InputError: the data or the model are not there any more, or the figures differ from those of the training.
    """
    dataset, labels, args = load_recipe_data(recipe)
    segmenter = Segmenter(read_bundle(run.folder / "best"), dtype=torch.float32)
    part = dataset[run.test["split"]]
    transform = SegTransform(labels, segmenter.processor, resolution=args.eval_resolution)
    bad = BadSamples(recipe.get("on_bad_sample", "stop"), {run.test["split"]: part})
    loader: Any = DataLoader(
        prepare(part, bad.guard(transform, run.test["split"])),  # type: ignore[arg-type]
        batch_size=args.per_device_eval_batch_size,
        collate_fn=collate,
    )
    metric, histogram = SegMetric(labels), ScoreHistogram(labels.num_labels)
    per_image: list[tuple[str, float]] = []
    for batch in loader:
        pixels = batch["pixel_values"].to(segmenter.device)
        if pixels.dtype == torch.uint8:
            pixels = normalize(pixels, segmenter.processor)
        logits = segmenter.model(pixel_values=pixels).logits
        for one, mask in zip(logits, batch["labels"]):
            mask = mask.to(segmenter.device)
            one = upsample(one[None], mask.shape)
            single = SegMetric(labels)
            single.add_matrix(confusion_matrix(predict_ids(one)[0], mask, labels.num_labels).cpu())
            metric.add_matrix(single.matrix)
            histogram.update(one, mask[None])
            per_image.append((_name(part, len(per_image)), single.mIoU()))
    _check(run, metric)
    order = sorted((i for i, (_, value) in enumerate(per_image) if value == value), key=lambda i: per_image[i][1])
    samples = [_sample(dataset["train"], i, labels, f"train {i}") for i in _picks(dataset["train"])]
    for what, place in (("best", -1), ("median", len(order) // 2), ("worst", 0)):
        i = order[place]
        samples.append(_sample(part, i, labels, f"{what} of {run.test['split']}\nmIoU {per_image[i][1]:.2f}"))
    for sample, result in zip(samples, segmenter([sample.image for sample in samples])):
        sample.pred = result.mask
    return Scores(labels, run.test["split"], metric.matrix.numpy(), histogram.compute(), per_image, samples)


def _check(run: SeedRun, metric: SegMetric) -> None:
    found = metric.mIoU()
    if abs(found - run.score) > 0.01:
        raise InputError(
            f"{run.folder}/best scores {found:.4f} on the {run.test['split']} images, where training noted "
            f"{run.score:.4f}: the data or the weights have changed since."
        )


def _picks(part: Any) -> list[int]:
    rng = np.random.default_rng(SAMPLE_SEED)
    return sorted(rng.permutation(len(part))[:NUM_SAMPLES].tolist())


def _sample(part: Any, i: int, labels: Labels, title: str) -> Sample:
    row = part[i]
    return Sample(title, read_image(row["image"]), labels.encode(read_mask(row["mask"])))


def _name(part: Any, i: int) -> str:
    """The file's name, or the position where there is no file."""
    source = part.with_format("arrow")[i]["image"].to_pylist()[0] if "image" in part.column_names else None
    path = source.get("path") if isinstance(source, dict) else None
    return describe(path).rpartition("/")[2] if path else f"image {i}"

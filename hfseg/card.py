"""The model card of a bundle, from what the run itself knows."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.utils import validate_repo_id
from transformers import PreTrainedModel

import hfseg
from hfseg.card_text import bullet_list, code, in_table, log_rows, one_line, percent, plain, score, table
from hfseg.errors import InputError
from hfseg.labels import class_names
from hfseg.provenance import BaseModel, DataFacts

METRICS = (("mean_iou", "mean IoU"), ("mean_accuracy", "mean accuracy"), ("pixel_accuracy", "pixel accuracy"))


@dataclass
class RunRecord:
    """What the card says beyond the model itself.

    Attributes:
        options: those of the recipe that differ from their defaults.
        data: the data set.
        base: what the weights started from; None: from scratch.
        image_size: (height, width) in pixels that images are resized to.
        hardware: one line.
        model_id: the repo on the Hub that the bundle goes to.
        tests: the metrics of the kept weights on data that did not choose them: "split", "resolution", "num_images",
            and what `SegMetric.compute` gives.
    """

    options: dict[str, Any] = field(default_factory=dict)
    data: DataFacts = field(default_factory=DataFacts)
    base: BaseModel | None = None
    image_size: tuple[int, int] | None = None
    hardware: str = "not recorded"
    model_id: str | None = None
    seconds: float | None = None
    resumed: bool = False
    tests: list[dict[str, Any]] = field(default_factory=list)


def build_card(
    model: PreTrainedModel,
    record: RunRecord,
    metrics: dict[str, Any],
    log: Sequence[dict[str, Any]] = (),
    pictures: Sequence[str] = (),
) -> str:
    """Markdown with a metadata block, which huggingface_hub's ModelCard reads back.

    Args:
        model: for class names and architecture.
        record: of the run.
        metrics: metrics.json of the kept weights.
        log: the trainer's log_history.
        pictures: file names in the bundle, of predictions.png, curves.png.
    """
    name = record.options.get("model", "segformer-b0")
    title = f"{name} on {record.data.name}"
    results = [metrics | {"num_images": record.data.sizes.get("validation", "?")}, *record.tests]
    base = record.base
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="image-segmentation",
        tags=["image-segmentation", "semantic-segmentation", "vision", "hfseg"],
        base_model=base.hub_id if base else None,
        license=base.license if base else None,
        license_name=base.license_name if base else None,
        license_link=base.license_link if base else None,
        datasets=[record.data.hub_id] if record.data.hub_id else None,
        metrics=["mean_iou"],
        model_name=one_line(title),
        eval_results=[row for result in results for row in eval_results(result, record)] or None,
    )
    card = ModelCard.from_template(
        data,
        template_str=files("hfseg").joinpath("card.md").read_text(encoding="utf-8"),
        title=plain(title),
        architecture=code(type(model).__name__),
        num_labels=model.config.num_labels,
        version=hfseg.__version__,
        snippet=snippet(record.model_id, own_code=model.config.model_type.startswith("hfseg_")),
        results=results_table(results, record),
        classes=class_table(class_names(model.config), metrics, record),
        pictures="".join(f"\n![{PICTURES[p]}]({p})\n" for p in pictures if p in PICTURES),
        training=describe_training(record, metrics, log),
        limits=describe_limits(results, record),
    )
    return str(card)


PICTURES = {
    "predictions.png": "Validation images, their labels, predictions, and predictions laid over the images",
    "curves.png": "Loss and mean IoU over the epochs; the line marks the kept weights",
}


def size_words(result: dict[str, Any], record: RunRecord) -> str:
    """Where a result compares: 'native size', or 'input size 64 x 64'."""
    if result.get("resolution") == "native":
        return "native size"
    return "input size" + (f" {record.image_size[0]} x {record.image_size[1]}" if record.image_size else "")


def eval_results(result: dict[str, Any], record: RunRecord) -> list[EvalResult]:
    """One result as entries of the metadata's model-index; the size stands in the name and in the config."""
    size = size_words(result, record)
    return [
        EvalResult(
            task_type="image-segmentation",
            task_name="Semantic segmentation",
            dataset_type=record.data.hub_id or one_line(record.data.id),
            dataset_name=one_line(record.data.name),
            dataset_revision=one_line(record.data.revision) if record.data.revision else None,
            dataset_split=str(result.get("split", "validation")),
            metric_type=key,
            metric_name=f"{name} ({size})",
            metric_config=str(result.get("resolution", "input")),
            metric_value=float(result[key]),
        )
        for key, name in METRICS
        if result.get(key) is not None
    ]


def snippet(model_id: str | None, own_code: bool) -> str:
    """Python that runs as it stands: on the Hub's repo, or in the bundle's folder."""
    options = ", trust_remote_code=True" if own_code else ""
    if model_id is None:
        where = 'model_id = "."  # this folder\nimage = "example.jpg"'
        imports = "from transformers import pipeline"
    else:
        where = f'model_id = "{model_id}"\nimage = hf_hub_download(model_id, "example.jpg")'
        imports = "from huggingface_hub import hf_hub_download\nfrom transformers import pipeline"
    call = f'segments = pipeline("image-segmentation", model_id{options})(image)'
    return f'```python\n{imports}\n\n{where}\n{call}\nprint([segment["label"] for segment in segments])\n```'


def name_model(card: str, model_id: str) -> str:
    """The same card with another repo in its snippet."""
    own_code = "trust_remote_code=True" in card
    return re.sub(r"```python\n.*?\n```", lambda _: snippet(model_id, own_code), card, count=1, flags=re.DOTALL)


def check_card(card: str) -> None:
    """Sees that a card which is about to be published can be read, and points at nothing that can't be.

    Raises:
        InputError: metadata that is no YAML mapping or no valid model-index, or ids that are no names of repos.
    """
    try:
        data = ModelCard(card).data.to_dict()
        for key in ("base_model", "datasets"):
            for repo_id in [data.get(key)] if not isinstance(data.get(key), list) else data[key]:
                validate_repo_id(repo_id)
    except Exception as error:  # YAML's errors share no class with huggingface_hub's
        reason = " ".join(str(error).split()).rstrip(".")
        raise InputError(
            f"README.md is no model card that the Hub can read: {reason}. Correct its metadata."
        ) from error


# ---- sections ----
def results_table(results: Sequence[dict[str, Any]], record: RunRecord) -> str:
    rows = [
        [plain(r.get("split", "validation")), size_words(r, record), r.get("num_images", "?")]
        + [score(r.get(key)) for key, _ in METRICS]
        for r in results
    ]
    return table(["split", "compared at", "images", *(name for _, name in METRICS)], rows)


def class_table(names: Sequence[str], metrics: dict[str, Any], record: RunRecord) -> str:
    """Per class: validation IoU and accuracy, the test IoU where there is one, and how common it is in each split."""
    tests = [t for t in record.tests if t["split"] != "validation"][:1]
    heads = ["class", "validation IoU", "validation accuracy"]
    heads += [f"{plain(t['split'])} IoU" for t in tests] + ["share of training pixels", "share of validation pixels"]
    heads += [f"share of {plain(t['split'])} pixels" for t in tests]
    pixels = [record.data.pixels.get("train"), record.data.pixels.get("validation")]
    pixels += [[t["per_class"].get(name, {}).get("pixels", 0) for name in names] for t in tests]
    rows = []
    for i, name in enumerate(names):
        row = [in_table(name), score(metrics.get(f"iou_{name}")), score(metrics.get(f"accuracy_{name}"))]
        row += [score(t["per_class"].get(name, {}).get("iou")) for t in tests]
        rows.append(row + [percent(part, i) for part in pixels])
    return table(heads, rows)


def describe_training(record: RunRecord, metrics: dict[str, Any], log: Sequence[dict[str, Any]]) -> str:
    data = record.data
    sizes = ", ".join(f"{count} {one_line(split)}" for split, count in data.sizes.items())
    revision = f", revision {code(data.revision)}" if data.revision else ""
    where = f"[{plain(data.name)}](https://huggingface.co/datasets/{data.hub_id})" if data.hub_id else plain(data.name)
    lines = [
        f"Data: {where} ({code(data.id)}{revision}); {sizes or 'sizes not recorded'} images.",
        f"Weights: {record.base.sentence() if record.base else 'trained from scratch.'}",
        f"Hardware: {plain(record.hardware)}.",
    ]
    if record.seconds is not None:
        lines.append(
            f"Time: {record.seconds:.0f} s of training, validation included{record.resumed * ', since it was resumed'}."
        )
    text = bullet_list(lines)
    if record.options:
        rows = [[code(key), in_table(value)] for key, value in sorted(record.options.items())]
        text += "\n\nOptions other than the defaults:\n\n" + table(["option", "value"], rows)
    rows = log_table(log, metrics.get("step"))
    if rows:
        text += "\n\nThe kept weights in bold:\n\n" + table(
            ["epoch", "step", "training loss", "training mIoU", "validation loss", "validation mIoU"], rows
        )
    return text


def log_table(log: Sequence[dict[str, Any]], kept_step: int | None, at_most: int = 60) -> list[list[str]]:
    """A row an evaluation, thinned out where there are many; the kept and the last one stay."""
    found = log_rows(log)
    every = -(-len(found) // at_most)
    keys = ("train_loss", "train_mean_iou", "loss", "mean_iou")
    rows = []
    for i, row in enumerate(found):
        kept = row["step"] == kept_step
        if kept or i % every == 0 or i == len(found) - 1:
            cells = [f"{row['epoch']:g}", str(row["step"]), *(score(row.get(key)) for key in keys)]
            rows.append([f"**{cell}**" for cell in cells] if kept else cells)
    return rows


def describe_limits(results: Sequence[dict[str, Any]], record: RunRecord) -> str:
    done = {(r.get("split", "validation"), r.get("resolution", "input")) for r in results}
    splits = {split for split, _ in done}
    size = f"{record.image_size[0]} x {record.image_size[1]} pixels" if record.image_size else "its input size"
    lines = [
        f"Images are resized to {size} (height x width) before the model sees them: what is smaller than a pixel there "
        "is lost, and the image's proportions are not kept.",
        f"The kept weights were chosen by the mean IoU of {record.data.sizes.get('validation', '?')} validation "
        "images, so that the validation figures are optimistic.",
    ]
    if splits == {"validation"}:
        lines.append("Not evaluated: images that had no part in choosing the weights.")
    if not any(resolution == "native" for _, resolution in done):
        lines.append("Not evaluated: predictions at the images' own size.")
    lines.append(
        "Not evaluated: images from other sources than the data set's, other cameras, seasons or places, damaged "
        "images, and single groups within the data."
    )
    if record.base is None or record.base.license is None:
        lines.append("No licence is stated for these weights: ask who publishes them.")
    return bullet_list(lines)

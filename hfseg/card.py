"""The model card of a bundle, from what the run itself knows."""

from importlib.resources import files
from typing import Any

from huggingface_hub import ModelCard, ModelCardData
from transformers import PreTrainedModel

import hfseg
from hfseg.labels import class_names

# Weights that a run may start from, and what their owners allow.
KNOWN_LICENSES = {
    "nvidia/mit-": "other: NVIDIA's SegFormer licence allows non-commercial use only",
}


def weights_note(model_name: str, weights: str) -> str:
    """One sentence on where the weights started, with the licence where it restricts the use."""
    if weights == "scratch":
        return "All weights were trained from scratch."
    base = f"nvidia/mit-{model_name.removeprefix('segformer-')}" if model_name.startswith("segformer-b") else model_name
    source = base if weights in ("pretrained", "imagenet") else weights
    for prefix, license_text in KNOWN_LICENSES.items():
        if source.startswith(prefix):
            return f'The encoder started from `{source}`, whose licence is "{license_text}".'
    return f"The encoder started from `{_plain(source)}`; its licence applies to this model as well."


def build_card(model: PreTrainedModel, recipe: dict[str, Any], metrics: dict[str, Any], facts: dict[str, Any]) -> str:
    """Markdown with a metadata block.

    Args:
        model: for class names and architecture.
        recipe: the merged recipe.
        metrics: of the validation split, at the kept step.
        facts: `num_train` and `num_validation` images.
    """
    names = class_names(model.config)
    dataset, name = recipe.get("dataset", "folder"), recipe.get("model", "segformer-b0")
    rows = [("mean IoU", metrics.get("mean_iou")), ("pixel accuracy", metrics.get("pixel_accuracy"))]
    rows += [(f"IoU of {_plain(n)}", metrics.get(f"iou_{n}")) for n in names]
    table = "| measure | value |\n|---|---|\n"
    table += "\n".join(f"| {label} | {'-' if value is None else f'{value:.4f}'} |" for label, value in rows)
    hyper = [f"| {_plain(key)} | {_plain(value)} |" for key, value in sorted(recipe.items())]
    template = files("hfseg").joinpath("card.md").read_text(encoding="utf-8")
    card = ModelCard.from_template(
        ModelCardData(
            library_name="transformers",
            pipeline_tag="image-segmentation",
            tags=["semantic-segmentation", "vision", "hfseg"],
        ),
        template_str=template,
        title=_plain(f"{name} on {dataset}"),
        architecture=type(model).__name__,
        num_labels=len(names),
        version=hfseg.__version__,
        snippet=SNIPPET,
        results=f"{facts.get('num_validation', '?')} held-out images, compared at "
        f"{'the size of each mask' if metrics.get('resolution') == 'native' else 'the input size'}, after epoch "
        f"{metrics.get('epoch', 0):g} (step {metrics.get('step')}).\n\n{table}",
        training=f"{facts.get('num_train', '?')} training images. "
        f"{weights_note(name, recipe.get('weights', 'pretrained'))}\n\n| option | value |\n|---|---|\n"
        + "\n".join(hyper),
        limits="The kept weights were chosen by the figures above, which are therefore optimistic: judge the model on "
        "images that had no part in training, with `hfseg eval`.",
    )
    return str(card)


SNIPPET = """import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation

folder = "."  # this folder, or the model's id on the Hub
processor = AutoImageProcessor.from_pretrained(folder)
model = AutoModelForSemanticSegmentation.from_pretrained(folder).eval()
image = Image.open("photo.jpg").convert("RGB")
with torch.no_grad():
    outputs = model(**processor(image, return_tensors="pt"))
mask = processor.post_process_semantic_segmentation(outputs, target_sizes=[image.size[::-1]])[0]  # (H, W) class ids"""


def _plain(text: object) -> str:
    """Text from users as one line that neither Markdown nor a table takes for markup."""
    line = " ".join(str(text).split())
    for mark in "\\`*_[]<>|":
        line = line.replace(mark, "\\" + mark)
    return line

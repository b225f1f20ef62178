"""`hfseg models`: what can be trained, how large it is, and what its usual weights allow."""

import sys
from collections.abc import Sequence

import torch

from hfseg.errors import InputError
from hfseg.labels import Labels
from hfseg.logs import show_errors
from hfseg.models import MODELS, build

NUM_LABELS = 19  # Cityscapes'
# What a model's usual weights are and allow. Sources: the model cards of nvidia/mit-b0 ... -b5; torchvision's LICENSE
# and README (its code is BSD-3-Clause, its weights may follow the terms of the data they were trained on).
LICENSES = {
    "segformer": "nvidia/mit-b*: other (NVIDIA, non-commercial)",
    "fcn": "torchvision: code BSD-3-Clause; weights by COCO's and ImageNet's terms",
    "deeplabv3": "torchvision: code BSD-3-Clause; weights by COCO's and ImageNet's terms",
    "lraspp": "torchvision: code BSD-3-Clause; weights by COCO's and ImageNet's terms",
}
# Every one of them takes any size; a multiple of its deepest stride, in pixels, wastes no border.
STRIDES = {"segformer": 32, "mobilenet": 16, "resnet": 8}
# Families of AutoModelForSemanticSegmentation that the tests train: one checkpoint of each on the Hub, the multiple of
# its input, and the licence in its model card.
CHECKPOINTS = {
    "UperNet": ("openmmlab/upernet-convnext-tiny", "32", "mit"),
    "DPT": ("Intel/dpt-large-ade", "16, squares", "apache-2.0"),
    "BEiT": ("microsoft/beit-base-finetuned-ade-640-640", "16", "apache-2.0"),
    "Data2Vec": ("facebook/data2vec-vision-base", "its own size", "apache-2.0 (encoder alone)"),
    "MobileViT": ("apple/deeplabv3-mobilevit-small", "32", "other (Apple sample code license)"),
}


def main(argv: Sequence[str] | None = None) -> int:
    if argv:
        raise InputError(f"hfseg models takes no options, but {' '.join(argv)} was given.")
    print(f"{'model':42} {'parameters':>10}  {'input multiple':>14}  licence of the usual weights")
    for name in MODELS:
        terms = next((text for key, text in LICENSES.items() if name.startswith(key)), "see where they come from")
        print(f"{name:42} {count_parameters(name) / 1e6:8.1f} M  {find_multiple(name):>14}  {terms}")
    timm_terms = "timm.get_pretrained_cfg(NAME).license; timm.list_models() has the names"
    print(f"{'timm/<encoder>':42} {'':>10}  {'its own':>14}  {timm_terms}")
    for family, (example, multiple, terms) in CHECKPOINTS.items():
        print(f"{example:42} {'':>10}  {multiple:>14}  {terms}; other checkpoints of {family}: see their cards")
    print(f"{'a folder or Hub id':42} {'':>10}  {'':>14}  its model card's; any AutoModelForSemanticSegmentation")
    print(f"Parameters are with {NUM_LABELS} classes. Where an encoder can't take a size, training names one it can.")
    return 0


def find_multiple(name: str) -> str:
    """Height and width of the input should be multiples of it, in pixels."""
    return next((str(stride) for key, stride in STRIDES.items() if key in name), "any")


def count_parameters(name: str, num_labels: int = NUM_LABELS) -> int:
    """Parameters with a head of `num_labels` classes, counted on the built model without its memory."""
    with torch.device("meta"):
        model = build(name, Labels([str(i) for i in range(num_labels)]), weights="scratch")
    return sum(parameter.numel() for parameter in model.parameters())


if __name__ == "__main__":
    sys.exit(show_errors(main))

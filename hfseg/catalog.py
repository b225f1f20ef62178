"""`hfseg models`: what can be trained, how large it is, and what its usual weights allow."""

import sys
from collections.abc import Sequence

import torch

from hfseg.errors import InputError
from hfseg.labels import Labels
from hfseg.logs import show_errors
from hfseg.models import MODELS, build

# Usual weights and their licence. Sources: the model cards of nvidia/mit-b0 ... -b5, torchvision's LICENSE, timm's
# model cards (they differ from encoder to encoder).
LICENSES = {
    "segformer": "nvidia/mit-b*: other (NVIDIA, non-commercial)",
    "fcn": "torchvision: BSD-3-Clause",
    "deeplabv3": "torchvision: BSD-3-Clause",
    "lraspp": "torchvision: BSD-3-Clause",
}
# Every one of them takes any size; a multiple of its deepest stride, in pixels, wastes no border.
STRIDES = {"segformer": 32, "mobilenet": 16, "resnet": 8}


def main(argv: Sequence[str] | None = None) -> int:
    if argv:
        raise InputError(f"hfseg models takes no options, but {' '.join(argv)} was given.")
    print(f"{'model':30} {'parameters':>10}  {'input multiple':>14}  licence of the usual weights")
    for name in MODELS:
        family = next(key for key in LICENSES if name.startswith(key))
        stride = next(value for key, value in STRIDES.items() if key in name)
        print(f"{name:30} {count_parameters(name) / 1e6:8.1f} M  {stride:14}  {LICENSES[family]}")
    print(f"{'timm/<encoder>':30} {'':>10}  {'':>14}  see the encoder's card; timm.list_models() names them")
    print(f"{'a folder or Hub id':30} {'':>10}  {'':>14}  any checkpoint of AutoModelForSemanticSegmentation")
    return 0


def count_parameters(name: str, num_labels: int = 19) -> int:
    """Parameters with a head of `num_labels` classes, counted on the built model without its memory."""
    with torch.device("meta"):
        model = build(name, Labels([str(i) for i in range(num_labels)]), weights="scratch")
    return sum(parameter.numel() for parameter in model.parameters())


if __name__ == "__main__":
    sys.exit(show_errors(main))

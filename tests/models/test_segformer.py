"""How a SegFormer starts."""

import math
from pathlib import Path

import pytest
from torch import nn
from transformers import AutoModelForSemanticSegmentation

from hfseg.labels import Labels
from hfseg.models import build

LABELS = Labels(["background", "boundary", "foreground"])


def test_new_weights_have_the_scale_of_their_layer() -> None:
    model = build("segformer-b0", LABELS)
    counted = 0
    for module in model.segformer.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.out_channels * math.prod(module.kernel_size) / module.groups
            assert module.weight.std().item() == pytest.approx(math.sqrt(2 / fan_out), rel=0.1)
            counted += 1
    assert counted >= 15
    fuse = model.decode_head.linear_fuse.weight
    assert fuse.std().item() == pytest.approx(math.sqrt(2 / fuse.shape[1]), rel=0.02)
    for layer in [model.decode_head.classifier, *model.decode_head.linear_projections.modules()]:
        if isinstance(layer, nn.Linear | nn.Conv2d):
            fans = layer.weight.shape[0] + layer.weight.shape[1]
            assert layer.weight.std().item() == pytest.approx(math.sqrt(2 / fans), rel=0.1)
            assert not layer.bias.any()


def test_the_encoders_linear_layers_stay_as_published() -> None:
    model = build("segformer-b0", LABELS)
    stds = [module.weight.std().item() for module in model.segformer.modules() if isinstance(module, nn.Linear)]
    assert len(stds) >= 40 and max(abs(std - 0.02) for std in stds) < 0.003


@pytest.mark.parametrize("name", ["segformer-b0", "timm/resnet18"])
def test_head_dropout_is_set_and_saved(name: str, tmp_path: Path) -> None:
    model = build(name, LABELS, head_dropout=0.3, image_size=(32, 32))
    model.save_pretrained(tmp_path)
    for one in (model, AutoModelForSemanticSegmentation.from_pretrained(tmp_path)):
        head = one.decode_head if name.startswith("segformer") else one.head
        assert head.dropout.p == 0.3

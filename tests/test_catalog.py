import pytest
import torch
from transformers.models.auto.modeling_auto import MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES

from hfseg.catalog import CHECKPOINTS, count_parameters, find_multiple, main
from hfseg.errors import InputError
from hfseg.labels import Labels
from hfseg.models import MODELS, build
from hfseg.models.encoder import find_encoder


def test_every_model_is_listed_with_its_size_multiple_and_licence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    out = capsys.readouterr().out
    rows = {line.split()[0]: line for line in out.splitlines()}
    assert {*MODELS, "timm/<encoder>", *(example for example, *_ in CHECKPOINTS.values())} <= set(rows)
    for name in MODELS:
        _, number, unit, multiple, *terms = rows[name].split()
        assert float(number) == pytest.approx(count_parameters(name) / 1e6, abs=0.05) and unit == "M"
        assert multiple in ("8", "16", "32") and terms[0] in ("nvidia/mit-b*:", "torchvision:")
    assert "non-commercial" in rows["segformer-b0"] and "code BSD-3-Clause; weights by" in rows["fcn_resnet50"]
    assert "19 classes" in out


@pytest.mark.parametrize("name", ["segformer-b0", "fcn_resnet50", "deeplabv3_mobilenet_v3_large"])
def test_the_multiple_is_the_deepest_stride_of_the_built_model(name: str) -> None:
    """The smallest of the encoder's maps, of an image whose sides are a large multiple."""
    model, side = build(name, Labels(["a", "b"]), weights="scratch").eval(), 128
    sizes: list[int] = []
    for module in find_encoder(model).modules():
        if isinstance(module, torch.nn.Conv2d) and module.kernel_size[0] < 8:
            module.register_forward_hook(lambda _module, _inputs, output: sizes.append(output.shape[-1]))
    with torch.no_grad():
        model(pixel_values=torch.zeros(1, 3, side, side))
    assert find_multiple(name) == str(side // min(size for size in sizes if size > 1))


@pytest.mark.parametrize("family", CHECKPOINTS)
def test_a_model_of_another_family_is_named(family: str) -> None:
    assert any(family.lower() in name for name in MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES)


def test_parameters_are_those_that_were_published() -> None:
    """SegFormer's paper, table 1 (19 or 150 classes): 3.8 M for B0, 13.7 M for B1."""
    assert count_parameters("segformer-b0", 150) == pytest.approx(3.8e6, rel=0.02)
    assert count_parameters("segformer-b1", 150) == pytest.approx(13.7e6, rel=0.02)


def test_options_are_refused() -> None:
    with pytest.raises(InputError, match="takes no options"):
        main(["--all"])

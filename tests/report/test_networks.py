import pytest

from hfseg.labels import Labels
from hfseg.models import build
from hfseg.plots import plot_architectures
from hfseg.report.networks import read_stages


@pytest.mark.parametrize(
    ("name", "encoder", "read"),
    [
        ("segformer-b0", [(32, 16, 24), (64, 8, 12), (160, 4, 6), (256, 2, 3)], [True] * 4),
        (
            "fcn_resnet50",
            [(64, 32, 48), (256, 16, 24), (512, 8, 12), (1024, 8, 12), (2048, 8, 12)],
            [False] * 4 + [True],
        ),
    ],
)
def test_stages_shapes_and_parameters_of_the_built_model(
    name: str, encoder: list[tuple[int, int, int]], read: list[bool]
) -> None:
    model = build(name, Labels(["a", "b", "c"]))
    stages = read_stages(model, (64, 96))
    assert [s.shape for s in stages if s.part == "encoder"] == encoder
    assert [s.to_head for s in stages if s.part == "encoder"] == read
    assert sum(s.parameters for s in stages) == sum(p.numel() for p in model.parameters())
    assert stages[-1].shape[0] == 3 and stages[-1].part == "head"
    assert model.training, "the model is as it was"


@pytest.mark.parametrize("name", ["timm/tf_efficientnet_lite0", "timm/resnet18", "lraspp_mobilenet_v3_large"])
def test_other_networks_are_drawn_as_well(name: str) -> None:
    model = build(name, Labels(["a", "b", "c"]), image_size=(64, 64))
    stages = read_stages(model, (64, 64))
    assert 4 <= sum(s.part == "encoder" for s in stages) <= 8
    assert sum(s.parameters for s in stages) == sum(p.numel() for p in model.parameters())
    texts = [text.get_text() for text in plot_architectures({name: stages}).axes[0].texts]
    assert any("output 3 x" in text for text in texts)

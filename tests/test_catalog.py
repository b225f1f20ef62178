import pytest

from hfseg.catalog import count_parameters, main
from hfseg.errors import InputError
from hfseg.models import MODELS


def test_every_model_is_listed_with_its_licence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    rows = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert set(MODELS) <= set(rows) and "timm/<encoder>" in rows
    assert "non-commercial" in rows["segformer-b0"] and "BSD-3-Clause" in rows["fcn_resnet50"]


def test_parameters_are_those_that_were_published() -> None:
    """SegFormer's paper, table 1 (19 or 150 classes): 3.8 M for B0, 13.7 M for B1."""
    assert count_parameters("segformer-b0", 150) == pytest.approx(3.8e6, rel=0.02)
    assert count_parameters("segformer-b1", 150) == pytest.approx(13.7e6, rel=0.02)


def test_options_are_refused() -> None:
    with pytest.raises(InputError, match="takes no options"):
        main(["--all"])

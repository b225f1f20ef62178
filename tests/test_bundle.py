import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation, pipeline

from hfseg.bundle import read_bundle, read_metrics, recover_bundle, write_bundle
from hfseg.data.transforms import build_processor
from hfseg.errors import InputError
from hfseg.labels import Labels
from hfseg.models import build
from hfseg.segmenter import Segmenter

LABELS = Labels(("sky", "road", "car"), palette=[(1, 2, 3), (40, 50, 60), (7, 8, 9)])
METRICS = {"step": 7, "mean_iou": 0.5}


def write(folder: Path, **changes: object) -> torch.nn.Module:
    model = build("segformer-b0", LABELS, weights="scratch").eval()
    values = dict(recipe={"dataset": "pets"}, metrics=METRICS, card="# a card") | changes
    write_bundle(folder, model, build_processor((64, 96)), **values)  # type: ignore[arg-type]
    return model


def test_a_bundle_comes_back_whole(tmp_path: Path) -> None:
    model = write(tmp_path / "best")
    bundle = read_bundle(tmp_path / "best")
    names = {path.name for path in (tmp_path / "best").iterdir()}
    assert names >= {"model.safetensors", "config.json", "preprocessor_config.json", "recipe.json", "metrics.json"}
    assert (bundle.recipe, bundle.metrics) == ({"dataset": "pets"}, METRICS) and not bundle.model.training
    assert bundle.labels.names == LABELS.names and bundle.labels.palette == LABELS.palette
    for key, value in model.state_dict().items():
        assert torch.equal(bundle.model.state_dict()[key], value), key


def test_plain_transformers_predicts_the_same(tmp_path: Path) -> None:
    write(tmp_path / "best")
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8))
    result = Segmenter.from_pretrained(tmp_path / "best", device="cpu")(image)
    assert result.mask.shape == (50, 70) and result.mask.dtype == np.uint8
    processor = AutoImageProcessor.from_pretrained(tmp_path / "best")
    model = AutoModelForSemanticSegmentation.from_pretrained(tmp_path / "best").eval()
    with torch.no_grad():
        outputs = model(**processor(image, return_tensors="pt"))
    mask = processor.post_process_semantic_segmentation(outputs, target_sizes=[(50, 70)])[0]
    assert np.array_equal(mask.numpy(), result.mask)
    rows = pipeline("image-segmentation", str(tmp_path / "best"), device="cpu")(image)
    assert rows and {row["label"] for row in rows} <= set(LABELS.names)
    for row in rows:
        expected = np.where(result.mask == LABELS.label2id[row["label"]], 255, 0)
        assert np.array_equal(np.array(row["mask"]), expected)


def test_an_older_bundle_is_replaced(tmp_path: Path) -> None:
    write(tmp_path / "best", metrics={"step": 1, "mean_iou": 0.1})
    (tmp_path / "best" / "stale.txt").write_text("old")
    write(tmp_path / "best")
    assert read_metrics(tmp_path / "best") == METRICS
    assert not (tmp_path / "best" / "stale.txt").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["best"]


def test_a_failed_write_leaves_the_old_bundle(tmp_path: Path) -> None:
    write(tmp_path / "best")
    with pytest.raises(ValueError):
        write(tmp_path / "best", metrics={"mean_iou": float("nan")})
    assert read_metrics(tmp_path / "best") == METRICS
    assert [path.name for path in tmp_path.iterdir()] == ["best"]


@pytest.mark.parametrize("cut_at", ["first rename", "second rename"])
def test_a_crash_between_the_renames_loses_nothing(cut_at: str, tmp_path: Path) -> None:
    """The process dies for real, at each of the two renames; the old bundle comes back."""
    write(tmp_path / "best")
    code = f"""
import os, sys
from pathlib import Path
from hfseg.bundle import write_bundle
from hfseg.data.transforms import build_processor
from hfseg.labels import Labels
from hfseg.models import build
calls = []
rename = Path.rename
def dying(self, target):
    calls.append(self)
    if len(calls) == {1 if cut_at == "first rename" else 2}:
        os._exit(9)
    return rename(self, target)
Path.rename = dying
model = build("segformer-b0", Labels(("a", "b")), weights="scratch")
write_bundle(Path(sys.argv[1]), model, build_processor((64, 64)), {{}}, {{"step": 8}}, "")
"""
    result = subprocess.run([sys.executable, "-c", code, str(tmp_path / "best")], capture_output=True, text=True)
    assert result.returncode == 9, result.stderr
    recover_bundle(tmp_path / "best")
    assert read_metrics(tmp_path / "best") == METRICS
    assert read_bundle(tmp_path / "best").model.config.num_labels == 3
    assert [path.name for path in tmp_path.iterdir()] == ["best"]


def test_files_can_be_read_by_others(tmp_path: Path) -> None:
    write(tmp_path / "best")
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "best").iterdir()}
    mask = os.umask(0)
    os.umask(mask)
    assert modes == {0o666 & ~mask}


def test_what_is_no_bundle_gets_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no config.json"):
        read_bundle(tmp_path)
    write(tmp_path / "best")
    with pytest.raises(InputError, match="lies in best/"):
        read_bundle(tmp_path)
    (tmp_path / "best" / "model.safetensors").write_bytes(b"half")
    with pytest.raises(InputError, match="can't be loaded"):
        read_bundle(tmp_path / "best")


def test_the_recipe_in_a_bundle_is_json(tmp_path: Path) -> None:
    write(tmp_path / "best")
    assert json.loads((tmp_path / "best" / "recipe.json").read_text()) == {"dataset": "pets"}

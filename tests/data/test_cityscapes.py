import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hfseg.args import read_recipe
from hfseg.cli import main
from hfseg.data import cityscapes, load
from hfseg.errors import InputError
from hfseg.images import read_mask

# The published table, raw id -> train id, written out by hand: what is not here is ignored.
TRAIN_IDS = {7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10, 24: 11, 25: 12, 26: 13}
TRAIN_IDS |= {27: 14, 28: 15, 31: 16, 32: 17, 33: 18}


RECIPES = Path(__file__).parents[2] / "recipes"
RECIPE_NAMES = ("segformer_cityscapes", "fcn_cityscapes")


def draw_tree(root: Path, label_files: str = "labelIds", ids: int = 34) -> Path:
    """Two cities in each split; each raw id in a number of pixels of its own, and some of 255, as a PNG holds -1."""
    rng = np.random.default_rng(0)
    for split, cities in (("train", ("aachen", "bochum")), ("val", ("frankfurt", "munster"))):
        for city in cities:
            for folder, end in (("leftImg8bit", "leftImg8bit"), ("gtFine", f"gtFine_{label_files}")):
                (root / folder / split / city).mkdir(parents=True)
                name = root / folder / split / city / f"{city}_000000_000019_{end}.png"
                if folder == "gtFine":
                    values = np.repeat(np.arange(ids), np.arange(ids) + 1)
                    values = np.concatenate([np.full(100, 255), np.resize(values, 24 * 32 - 100)])
                    mask = rng.permutation(values).reshape(24, 32)
                    Image.fromarray(mask.astype(np.uint8)).save(name)
                else:
                    Image.fromarray(rng.integers(0, 256, (24, 32, 3), np.uint8)).save(name)
    return root


def test_all_34_raw_ids_map_pixel_by_pixel(tmp_path: Path) -> None:
    dataset, labels = cityscapes.load(str(draw_tree(tmp_path)))
    assert {name: len(part) for name, part in dataset.items()} == {"train": 2, "validation": 2}
    counted = 0
    for part in dataset.values():
        for row in part:
            raw = np.array(row["mask"])
            mask = labels.encode(read_mask(row["mask"]))
            assert len(np.unique(raw)) == 35
            for raw_id in (*range(34), 255):
                assert (mask[raw == raw_id] == TRAIN_IDS.get(raw_id, 255)).all(), raw_id
                counted += int((raw == raw_id).sum())
    assert counted == 4 * 24 * 32
    assert labels.num_labels == 19 and labels.names[0] == "road" and labels.names[18] == "bicycle"


@pytest.mark.parametrize("recipe", [RECIPE_NAMES[0], pytest.param(RECIPE_NAMES[1], marks=pytest.mark.slow)])
def test_recipe_trains_and_is_measured(recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, run, path = draw_tree(tmp_path / "data"), tmp_path / "run", str(RECIPES / f"{recipe}.json")
    data = ["--data_dir", str(root), "--use_cpu", "true"]
    assert main(["train", path, *data, "--max_steps", "1", "--output_dir", str(run)]) == 0
    assert "validation mIoU 0." in capsys.readouterr().out
    assert main(["eval", str(run / "best"), *data, "--split", "validation"]) == 0
    matrix = np.array(json.loads((run / "validation" / "metrics.json").read_text())["confusion_matrix"])
    masks = [np.array(Image.open(path)) for path in (root / "gtFine" / "val").rglob("*.png")]
    assert matrix.sum(1).tolist() == [sum(int((mask == raw).sum()) for mask in masks) for raw in TRAIN_IDS]
    assert main(["eval", str(run / "best"), *data]) == 2
    said = capsys.readouterr().err
    assert "The split 'test' is not in this data set; there are train, validation" in said
    assert "the test images have no public labels" in said


def test_recipes_are_the_base_configuration_of_the_pets() -> None:
    pets, streets, fcn = (read_recipe(RECIPES / f"{n}.json") for n in ("segformer_pets", *RECIPE_NAMES))
    assert streets == pets | {"dataset": "cityscapes", "weights": "scratch"} and streets["image_size"] == 64
    assert fcn == streets | {"model": "fcn_resnet50"}


def test_it_is_loaded_by_name_with_its_option(tmp_path: Path) -> None:
    root = draw_tree(tmp_path, "labelTrainIds", 19)
    dataset, _ = load("cityscapes", data_dir=str(root), label_files="labelTrainIds", validation_fraction=0.1)
    assert len(dataset["train"]) == 2
    with pytest.raises(InputError, match="holds labelTrainIds files alone: give --label_files labelTrainIds"):
        load("cityscapes", data_dir=str(root))
    with pytest.raises(InputError, match="data_dir .*nowhere is no folder"):
        load("cityscapes", data_dir=str(root / "nowhere"))


def test_train_id_files_are_taken_as_they_are(tmp_path: Path) -> None:
    dataset, labels = cityscapes.load(str(draw_tree(tmp_path, "labelTrainIds", 19)), label_files="labelTrainIds")
    raw = np.array(dataset["train"][0]["mask"])
    assert np.array_equal(labels.encode(raw), raw)


def test_splits_pair_by_name(tmp_path: Path) -> None:
    root = draw_tree(tmp_path)
    dataset, _ = cityscapes.load(str(root))
    assert len(dataset["validation"]) == 2 and "test" not in dataset
    (root / "gtFine/train/aachen/aachen_000000_000019_gtFine_labelIds.png").unlink()
    with pytest.raises(InputError, match=r"aachen_000000_000019_leftImg8bit.png has no label file"):
        cityscapes.load(str(root))


def test_mistakes_get_one_line(tmp_path: Path) -> None:
    for data_dir, message in ((None, "without an account"), (str(tmp_path), "has no folder leftImg8bit/")):
        with pytest.raises(InputError, match=message) as error:
            cityscapes.load(data_dir)
        assert "www.cityscapes-dataset.com" in str(error.value)
    with pytest.raises(InputError, match="allowed are labelIds and labelTrainIds"):
        cityscapes.load(str(tmp_path), label_files="color")
    (tmp_path / "leftImg8bit").mkdir()
    (tmp_path / "gtFine").mkdir()
    with pytest.raises(InputError, match="holds no <city>"):
        cityscapes.load(str(tmp_path))


def test_an_unknown_raw_id_is_told(tmp_path: Path) -> None:
    _, labels = cityscapes.load(str(draw_tree(tmp_path)))
    with pytest.raises(InputError, match=r"\[40\]"):
        labels.encode(np.full((2, 2), 40, np.uint8), "x.png")

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hfseg.data import cityscapes
from hfseg.errors import InputError
from hfseg.images import read_mask

# The published table, raw id -> train id, written out by hand: what is not here is ignored.
TRAIN_IDS = {7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10, 24: 11, 25: 12, 26: 13}
TRAIN_IDS |= {27: 14, 28: 15, 31: 16, 32: 17, 33: 18}


def draw_tree(root: Path, label_files: str = "labelIds", ids: int = 34) -> Path:
    """Two cities in each split; raw id i covers i + 1 pixels of a mask, in an order of its own."""
    rng = np.random.default_rng(0)
    for split, cities in (("train", ("aachen", "bochum")), ("val", ("frankfurt", "munster"))):
        for city in cities:
            for folder, end in (("leftImg8bit", "leftImg8bit"), ("gtFine", f"gtFine_{label_files}")):
                (root / folder / split / city).mkdir(parents=True)
                name = root / folder / split / city / f"{city}_000000_000019_{end}.png"
                if folder == "gtFine":
                    values = np.repeat(np.arange(ids), np.arange(ids) + 1)
                    Image.fromarray(rng.permutation(np.resize(values, 24 * 32)).reshape(24, 32).astype(np.uint8)).save(
                        name
                    )
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
            assert len(np.unique(raw)) == 34
            for raw_id in range(34):
                assert (mask[raw == raw_id] == TRAIN_IDS.get(raw_id, 255)).all(), raw_id
                counted += int((raw == raw_id).sum())
    assert counted == 4 * 24 * 32
    assert labels.num_labels == 19 and labels.names[0] == "road" and labels.names[18] == "bicycle"


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

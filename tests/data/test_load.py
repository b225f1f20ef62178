"""Loading by name: options go to the loader that has them, and mistakes are told."""

import numpy as np
import pytest
from datasets import Dataset, DatasetDict

from hfseg.data import DATASETS, find_split, limit, load
from hfseg.errors import InputError


def test_loads_by_name_and_passes_options_on() -> None:
    dataset, labels = load("synthetic", num_images=3, size=(32, 40), data_dir=None, boundary=None)
    assert {name: len(part) for name, part in dataset.items()} == {"train": 3, "validation": 1, "test": 1}
    assert dataset["train"][0]["image"].size == (40, 32)
    assert labels.names == ("background", "boundary", "foreground")


def test_split_options_of_a_recipe_fit_every_data_set() -> None:
    dataset, _ = load("synthetic", num_images=2, size=(32, 32), validation_fraction=0.5, split_seed=3)
    assert len(dataset["train"]) == 2


def test_unknown_names_and_options_are_told() -> None:
    with pytest.raises(InputError, match=r"no data set 'pest'; allowed are .*synthetic.*Did you mean 'pets'\?"):
        load("pest")
    with pytest.raises(InputError, match=r"pets has no option classes; it has data_dir, .*binary\. Leave classes out"):
        load("pets", data_dir="x", classes=["a"])
    with pytest.raises(InputError, match=r"folder has no option mask_glop.*Did you mean 'mask_glob'"):
        load("folder", mask_glop="x")
    assert set(DATASETS) >= {"pets", "folder", "synthetic"}


def make(count: int) -> Dataset:
    return Dataset.from_dict({"image": [f"{i}.png" for i in range(count)]})


def test_splits_are_found_or_named() -> None:
    dataset = DatasetDict(train=make(3), validation=make(1), test=make(0))
    assert len(find_split(dataset, "train")) == 3
    with pytest.raises(InputError, match=r"'trains' is not in this data set; there are train, validation\..*'train'"):
        find_split(dataset, "trains")
    with pytest.raises(InputError, match=r"'test' holds no images; there are train, validation\."):
        find_split(dataset, "test")
    with pytest.raises(InputError, match="there are none"):
        find_split(DatasetDict(), "test")


def test_limit_draws_by_seed_and_keeps_the_order() -> None:
    dataset = make(50)
    picked = [limit(dataset, 10, seed)["image"][:] for seed in (0, 0, 1)]
    assert picked[0] == picked[1] != picked[2]
    numbers = [int(name.split(".")[0]) for name in picked[0]]
    assert len(set(numbers)) == 10 and numbers == sorted(numbers)
    assert limit(dataset, None, 0) is dataset and limit(dataset, 50, 0) is dataset
    hits = np.zeros(50)
    for seed in range(200):
        hits[[int(name.split(".")[0]) for name in limit(dataset, 10, seed)["image"]]] += 1
    assert hits.min() > 15 and hits.max() < 70, "every image has the same chance"
    with pytest.raises(InputError, match="num_samples is 0"):
        limit(dataset, 0, 0)

"""Data sets by name. A loader gives the splits with `image` and `mask`, and the labels that read the masks."""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict

from hfseg.data import cityscapes, folder, hub_dataset, pets, streaming, synthetic
from hfseg.errors import InputError, near_names
from hfseg.labels import Labels

DATASETS: dict[str, Callable[..., tuple[DatasetDict, Labels]]] = {
    "pets": pets.load,
    "cityscapes": cityscapes.load,
    "folder": folder.load,
    "synthetic": synthetic.load,
}

# A recipe may hold these whatever the data set: where its splits are fixed, there is nothing to hold out, and where
# no masks are read while loading, nothing bad to meet.
COMMON_OPTIONS = ("validation_fraction", "split_seed", "on_bad_sample")


def load(name: str, **options: Any) -> tuple[DatasetDict, Labels]:
    """Loads a data set.

    Args:
        name: a key of `DATASETS`, or the id of a data set on the Hub: user/name.
        options: of its loader; those that are None are left to the loader's defaults. `streaming`: its training split
            is not downloaded, see `hfseg.data.streaming.load`.

    Returns:
        The splits (train, validation, test: those there are) with columns `image` and `mask`, and the labels.

    Raises:
        InputError: an unknown name, an option that this data set doesn't have, or what its loader raises.
    """
    loader, given = find_loader(name, options)
    return loader(**given)


def find_loader(name: str, options: Mapping[str, Any]) -> tuple[Callable[..., Any], dict[str, Any]]:
    """The loader of a data set and those of the options that it is given; for both see `load`."""
    loader = partial(streaming.load, name) if options.get("streaming") else _find_loader(name)
    allowed = list(inspect.signature(loader).parameters)
    given = {key: value for key, value in options.items() if value is not None and key != "streaming"}
    for key in [key for key in given if key not in allowed]:
        if key not in COMMON_OPTIONS:
            raise InputError(
                f"The data set {name} has no option {key}; it has {', '.join(allowed)}. Leave {key} out."
                f"{_near(key, allowed)}"
            )
        del given[key]
    return loader, given


def find_split(dataset: DatasetDict, split: str) -> Dataset:
    """One split of a data set.

    Raises:
        InputError: there is no such split, or it is empty; names those that can be used.
    """
    there = [name for name, part in dataset.items() if len(part)]
    if split not in there:
        what = "holds no images" if split in dataset else "is not in this data set"
        raise InputError(
            f"The split {split!r} {what}; there are {', '.join(there) or 'none'}. Give one of them, or add its files."
            f"{_near(split, there)}"
        )
    if not isinstance(dataset[split], Dataset):
        raise InputError(f"The split {split!r} is a stream. Give {' or '.join(n for n in there if n != split)}.")
    return dataset[split]


def limit(dataset: Dataset, num_samples: int | None, seed: int) -> Dataset:
    """A random part of a data set, in its order; all of it when `num_samples` is None or not below its length.

    Raises:
        InputError: `num_samples` below 1.
    """
    if num_samples is None or num_samples >= len(dataset):
        return dataset
    if not isinstance(dataset, Dataset):
        raise InputError("max_train_samples: of a stream no part can be drawn. Leave it or streaming out.")
    if num_samples < 1:
        raise InputError(f"num_samples is {num_samples}; give 1 or more, or leave it out.")
    picked = np.random.default_rng(seed).permutation(len(dataset))[:num_samples]
    return dataset.select(sorted(picked.tolist()))


def _find_loader(name: str) -> Callable[..., tuple[DatasetDict, Labels]]:
    if name in DATASETS:
        return DATASETS[name]
    if name.count("/") == 1 and not name.startswith((".", "/", "~")):
        return partial(hub_dataset.load, name)
    raise InputError(
        f"There is no data set {name!r}; allowed are {', '.join(DATASETS)}, or one on the Hub: user/name."
        f"{_near(name, DATASETS)}"
    )


def _near(name: str, allowed: Any) -> str:
    return near_names(name, list(allowed))

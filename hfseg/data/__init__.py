import numpy as np

from hfseg.data import pets, synthetic
from hfseg.errors import InputError

DATASETS = {"pets": pets.load, "synthetic": synthetic.load}


def load(name, **options):
    return DATASETS[name](**{k: v for k, v in options.items() if v is not None})


def find_split(dataset, split):
    if split not in dataset:
        raise InputError(f"no split {split}: {list(dataset)}")
    return dataset[split]


def limit(dataset, n, seed):
    if n is None or n >= len(dataset):
        return dataset
    return dataset.select(sorted(np.random.default_rng(seed).permutation(len(dataset))[:n].tolist()))

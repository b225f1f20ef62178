from pathlib import Path

import numpy as np
from datasets import Dataset, DatasetDict, Image

from hfseg.labels import Labels


def load(data_dir=None, *, validation_fraction=0.1, split_seed=0):
    root = Path(data_dir)
    rows = lambda name: [l.split() for l in (root / "annotations" / name).read_text().splitlines() if l]
    trainval, test = rows("trainval.txt"), rows("test.txt")
    rng = np.random.default_rng(split_seed)
    held = set()
    for breed in sorted({r[1] for r in trainval}):
        names = [r[0] for r in trainval if r[1] == breed]
        held |= set(rng.permutation(names)[: round(validation_fraction * len(names))])

    def ds(names):
        d = Dataset.from_dict(
            {
                "image": [str(root / "images" / f"{n}.jpg") for n in names],
                "mask": [str(root / "annotations/trimaps" / f"{n}.png") for n in names],
            }
        )
        return d.cast_column("image", Image()).cast_column("mask", Image())

    tv = [r[0] for r in trainval]
    return DatasetDict(
        train=ds([n for n in tv if n not in held]),
        validation=ds([n for n in tv if n in held]),
        test=ds([r[0] for r in test]),
    ), Labels(("background", "boundary", "foreground"), ids={1: 2, 2: 0, 3: 1})

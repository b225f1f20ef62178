"""Run by test_hub_dataset.py with HF_ENDPOINT set: loads data sets as recipes say, and writes down what came.

python load_datasets.py '[[name, options], ...]' OUT.json

The option `as_user` of a case is the token that it is loaded with.
"""

import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

from hfseg.data import load
from hfseg.data.streamed_dataset import Shards
from hfseg.data.transforms import SegTransform, build_processor, prepare
from hfseg.errors import InputError
from hfseg.images import read_image, read_mask


class Keep(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        said.append(f"{record.levelname} {record.getMessage()}")


said: list[str] = []
logging.getLogger("hfseg").addHandler(Keep())
logging.getLogger("hfseg").setLevel("INFO")
results: list[dict[str, Any]] = []
for name, options in json.loads(sys.argv[1]):
    said = []
    os.environ["HF_TOKEN"] = options.pop("as_user", "hf_user")  # which the clients read at each request
    try:
        dataset, labels = load(name, **options)
    except InputError as error:
        results.append({"error": str(error)})
        continue
    rows = {}
    for split, part in dataset.items():
        if isinstance(part, Shards):
            part = [part[i] for i in range(len(part))]
        else:
            assert part.column_names == ["image", "mask"], part.column_names
        masks = [labels.encode(read_mask(row["mask"])).tolist() for row in part]
        rows[split] = [{"image": int(read_image(row["image"]).mean()), "mask": m} for row, m in zip(part, masks)]
    transform = SegTransform(labels, build_processor((12, 16)))
    first = prepare(next(part for part in dataset.values() if not isinstance(part, Shards)), transform)[0]
    fed = {"size": list(first["pixel_values"].shape), "labels": first["labels"].tolist()}
    results.append({"rows": rows, "names": list(labels.names), "said": said, "fed": fed})
Path(sys.argv[2]).write_text(json.dumps(results), encoding="utf-8")

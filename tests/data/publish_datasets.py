"""Run by test_hub_dataset.py with HF_ENDPOINT set: uploads data sets as their owners do, with the genuine clients."""

import io
import json
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, List, Value
from huggingface_hub import HfApi
from PIL import Image as PILImage

NAMES = ["wall", "sky", "tree"]


def draw_mask(i: int, num_values: int) -> np.ndarray:
    """(12, 16) uint8 that holds every value; another one for every i. test_hub_dataset.py draws the same."""
    return ((np.arange(12 * 16).reshape(12, 16) + i) % num_values).astype(np.uint8)


def draw_rows(count: int, columns: tuple[str, str], num_values: int = 3) -> dict[str, list[Any]]:
    images = [PILImage.fromarray(np.full((12, 16, 3), 10 * i, np.uint8)) for i in range(count)]
    masks = [PILImage.fromarray(draw_mask(i, num_values)) for i in range(count)]
    return {columns[0]: images, columns[1]: masks}


def draw(
    count: int, columns: tuple[str, str], more: dict[str, tuple[Any, list[Any]]] | None = None, num_values: int = 3
) -> Dataset:
    more = more or {}
    kinds = {columns[0]: Image(), columns[1]: Image(), **{name: kind for name, (kind, _) in more.items()}}
    rows = draw_rows(count, columns, num_values) | {name: values for name, (_, values) in more.items()}
    return Dataset.from_dict(rows, features=Features(kinds))


def to_png(image: PILImage.Image) -> dict[str, Any]:
    file = io.BytesIO()
    image.save(file, "PNG")
    return {"bytes": file.getvalue(), "path": None}


api = HfApi()

# Names in a list of ClassLabel, and an instance mask that nobody needs; train and val.
listed = {
    "classes_on_image": (List(ClassLabel(names=NAMES)), [[0, 1, 2]] * 6),
    "kind": (ClassLabel(names=["indoor", "outdoor"]), [0] * 6),
}
parts = DatasetDict(train=draw(6, ("image", "mask"), listed), val=draw(6, ("image", "mask"), listed).select([0, 1]))
parts.push_to_hub("user/listed")

# As ADE20K: 0 is no class, names without it in id2label.json; the scene has classes of its own; masks of test withheld.
scenes = {"scene_category": (ClassLabel(names=["street", "kitchen"]), [0, 1, 0, 1])}
ade = draw(4, ("image", "annotation"), scenes, num_values=4)
withheld = Dataset.from_dict({**ade[:], "annotation": [None] * 4}, features=ade.features)
DatasetDict(train=ade, validation=ade.select([0]), test=withheld).push_to_hub("user/ade")
api.upload_file(
    repo_id="user/ade",
    repo_type="dataset",
    path_in_repo="id2label.json",
    path_or_fileobj=json.dumps(dict(enumerate(NAMES))).encode(),
)

# Parquet that says nothing of pictures, one split, columns of other names and other letters.
rows = draw_rows(20, ("Pixel_Values", "Label"))
file = io.BytesIO()
pq.write_table(pa.table({name: [to_png(image) for image in images] for name, images in rows.items()}), file)
api.create_repo("user/plain", repo_type="dataset")
api.upload_file(
    repo_id="user/plain", repo_type="dataset", path_in_repo="data/full-00000.parquet", path_or_fileobj=file.getvalue()
)

# Columns without a telling name; one class an image; a private repo.
odd = {"class": (ClassLabel(names=NAMES), [0, 1, 2]), "note": (Value("string"), ["", "", ""])}
draw(3, ("left", "right"), odd).push_to_hub("user/odd", private=True)

# Two columns that could be the mask; another commit behind a tag; two configurations; a gated repo.
for count in (3, 5):
    two = {"label": (Image(), draw_rows(count, ("image", "mask"))["mask"])}
    draw(count, ("image", "mask"), two).push_to_hub("user/two")
    if count == 3:
        api.create_tag("user/two", tag="v1", repo_type="dataset")
draw(3, ("image", "mask")).push_to_hub("user/configs", "small")
draw(4, ("image", "mask")).push_to_hub("user/configs", "large")
draw(3, ("image", "mask")).push_to_hub("user/gated")
api.update_repo_settings("user/gated", gated="manual", repo_type="dataset")

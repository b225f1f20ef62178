"""Parquet data sets that are larger than the disk: the training split is read as a stream, from the Hub or a folder."""

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Features, Image, load_dataset, load_dataset_builder
from datasets.exceptions import DatasetsError

from hfseg.data import hub_dataset
from hfseg.data.classes import FILES, check_some_masks, read_labels
from hfseg.data.splits import SPLITS
from hfseg.data.streamed_dataset import Shards, count_rows
from hfseg.errors import InputError
from hfseg.labels import Labels

logger = logging.getLogger(__name__)

READERS = 16  # files whose last bytes are asked for at the same time


def load(
    source: str,
    *,
    data_dir: str | None = None,
    image_column: str | None = None,
    mask_column: str | None = None,
    dataset_config: str | None = None,
    dataset_revision: str | None = None,
    classes: Sequence[str] | None = None,
    colors: Mapping[str, Any] | None = None,
    ignore_values: Sequence[int] | None = None,
    label_map: Mapping[str | int, int | str] | None = None,
    reduce_zero_label: bool = False,
    stream_buffer: int = 1000,
    on_bad_sample: str = "stop",
) -> tuple[dict[str, Any], Labels]:
    """Finds the shards of a data set and counts their rows; of the training split no row is read.

    Args:
        source: the id of a data set on the Hub, user/name; or `folder`, for Parquet files in `data_dir` that are named
            as `datasets` knows splits (data/train-*.parquet).
        data_dir: that folder.
        stream_buffer: see `Shards`.
        others: see `hfseg.data.hub_dataset.load`.

    Returns:
        train as `Shards`; validation, and test where there is one, as a `Dataset` of the cache; and the labels.

    Raises:
        InputError: no such data set, no Parquet, no validation split, and all that `hub_dataset.load` raises.
    """
    if stream_buffer < 0:
        raise InputError(f"stream_buffer is {stream_buffer}; give 0 (the order of the files) or more.")
    name, commit, root = _find(source, data_dir, dataset_revision)
    files = _list_files(name, dataset_config, commit or dataset_revision)
    if missing := [split for split in ("train", "validation") if split not in files]:
        raise InputError(
            f"streaming: {name} has no {' and no '.join(missing)} split (it has {', '.join(files) or 'none'}), and a "
            "stream can't be divided. Use a data set that has both, or leave streaming out."
        )
    features = _read_features(files["train"][0], name)
    columns = hub_dataset.find_columns(features, image_column, mask_column, name)
    told = root is not None and any((root / file).is_file() for file in FILES)
    if classes is None and colors is None and not told:
        classes = hub_dataset.find_class_names(features, name)
    tables = dict(colors=colors, ignore_values=ignore_values, label_map=label_map, reduce_zero_label=reduce_zero_label)
    labels = read_labels(root, classes=classes, **tables)  # type: ignore[arg-type]
    with ThreadPoolExecutor(READERS) as threads:
        rows = tuple(threads.map(count_rows, files["train"]))
    dataset: dict[str, Any] = {"train": Shards(tuple(files["train"]), rows, columns, stream_buffer, commit)}
    for split in ("validation", "test"):
        if split in files:
            part: Any = load_dataset("parquet", data_files={split: files[split]}, split=split)
            part = hub_dataset.take_columns(part, columns, f"{name}, split {split}")
            if part is not None:
                check_some_masks(part.cast_column("mask", Image(decode=False))["mask"], labels, on_bad_sample)
                dataset[split] = part
    logger.info(f"{name}: {len(files['train'])} files of training images are read as a stream")
    return dataset, labels


def _find(source: str, data_dir: str | None, revision: str | None) -> tuple[str, str | None, Path | None]:
    """What `datasets` loads, its commit, and a folder with what it says of its classes."""
    if source == "folder":
        if data_dir is None or not Path(data_dir).is_dir():
            raise InputError(f"streaming: data_dir is {data_dir!r}; give the folder that holds the Parquet files.")
        return str(data_dir), None, Path(data_dir)
    if data_dir is not None or source.count("/") != 1 or source.startswith((".", "/", "~")):
        raise InputError(
            f"streaming: {source} is no stream. It reads Parquet files: give dataset the id of a data set on the Hub "
            "(user/name), or folder with data_dir; or leave streaming out."
        )
    commit = hub_dataset.find_commit(source, revision)
    return source, commit, hub_dataset.download_class_files(source, revision)


def _list_files(name: str, config: str | None, revision: str | None) -> dict[str, list[str]]:
    """The Parquet files of train, validation and test: those there are."""
    try:
        builder: Any = load_dataset_builder(name, config, revision=revision)
    except (DatasetsError, OSError, ValueError, RuntimeError) as error:
        reason = hub_dataset.one_line(error.__cause__ or error)
        raise InputError(f"streaming: {name} can't be read: {reason}") from error
    found: Mapping[Any, Sequence[str]] = builder.config.data_files or {}
    lower = {str(split).lower(): list(files) for split, files in found.items()}
    splits = {split: lower[a] for split, aliases in SPLITS.items() for a in reversed(aliases) if a in lower}
    others = [file for files in splits.values() for file in files if not file.lower().endswith(".parquet")]
    if others or not splits:
        what = f"as {Path(others[0]).name}" if others else "and no splits"
        raise InputError(f"streaming: {name} has files {what}; only Parquet is read as a stream. Leave streaming out.")
    return splits


def _read_features(file: str, name: str) -> Features:
    try:
        with fsspec.open(file, "rb") as opened:
            return Features.from_arrow_schema(pq.ParquetFile(opened).schema_arrow)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"streaming: {name}: {file} is no Parquet file that can be read: {error}") from error

"""Images and masks that are read and resized once: a fingerprinted file of `datasets`, in fixed-size uint8.

The file's name is a digest of all that its content depends on: the data set, size and time of its files, how labels
are read, how images are resized, and the versions of what does it. What has changed is never read from an older file.
"""

import logging
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import datasets
import numpy as np
import pyarrow as pa
from datasets import Dataset, Features, List, Value
from datasets.fingerprint import Hasher
from filelock import FileLock

import hfseg
from hfseg.data.bad_samples import GuardedTransform
from hfseg.data.cached_dataset import CachedDataset
from hfseg.data.streamed_dataset import Shards, StreamedDataset
from hfseg.data.transforms import SegTransform, prepare, select_sources
from hfseg.errors import InputError

logger = logging.getLogger(__name__)

LAYOUT = 1  # of a file; another number makes all older ones unused
AUTOMATIC_BYTES = 2**30  # without a word from the user, caches stay below this, and below this share of the free disk
AUTOMATIC_SHARE = 0.1
BATCH_BYTES = 2**26  # of a record batch


def prepare_cached(
    dataset: Dataset | Shards,
    transform: SegTransform,
    cache: Literal["none", "resized"] | None = None,
    guarded: GuardedTransform | None = None,
) -> Dataset | CachedDataset | StreamedDataset:
    """A data set whose rows are what a model is fed, like `prepare`, from a cache where there is use and room for one.

    Args:
        dataset: with columns `image` and `mask`; see `prepare`.
        transform: what its processor and its labels do is cached; what it draws at random is done anew each epoch.
        cache: none: files are read and resized each time; resized: once. Unset: resized, where that takes no more
            than 1 GiB and a tenth of the free disk.
        guarded: the transform with what is to be done about bad samples; what it leaves out is never cached.

    Raises:
        InputError: no room on the disk or no right to write there, and what `transform` raises for a file.
    """
    reading: Any = guarded or transform
    if isinstance(dataset, Shards):
        return StreamedDataset(dataset, reading, seed=transform.seed)
    if cache == "none" or len(dataset) == 0 or (guarded is not None and guarded.skip):
        return prepare(dataset, reading)
    if (reason := _reason_against(transform)) is not None:
        if cache == "resized":
            logger.info(f"cache: {reason}, so that these {len(dataset)} images are read anew each time")
        return prepare(dataset, reading)
    assert transform.size is not None
    num_bytes = len(dataset) * 4 * transform.size[0] * transform.size[1]
    path = cache_path(dataset, transform)
    if cache is None and not path.is_file() and not _fits_easily(num_bytes, path):
        logger.info(f"with cache: resized, {num_bytes / 1e6:,.0f} MB in {path.parent}, images are read only once")
        return prepare(dataset, reading)
    rows = read_or_build(dataset, reading, path, num_bytes)
    return CachedDataset(rows, transform, _sample_indices(dataset), _list_paths(dataset) if transform.train else None)


def is_cached(dataset: Any) -> bool:
    """Whether a data set of `prepare_cached` reads from its cache."""
    return isinstance(dataset, CachedDataset)


def _reason_against(transform: SegTransform) -> str | None:
    if not transform.plain:
        return f"a {type(transform.processor).__name__} gives images of several sizes"
    if transform.augmentation.scale_jitter is not None:
        return "scale_jitter resizes images differently each time"
    return "masks at native resolution differ in size" if transform.resolution != "input" else None


def cache_path(dataset: Dataset, transform: SegTransform) -> Path:
    """The file that holds this data set as this transform resizes it."""
    labels, settings = transform.labels, transform.processor.to_dict()
    content = {
        "layout": LAYOUT,
        "versions": [hfseg.__version__, *(version(name) for name in ("pillow", "torch", "torchvision"))],
        "processor": sorted((key, repr(value)) for key, value in settings.items()),
        "size": transform.size,
        "labels": [len(labels.names), labels.lookup.tobytes(), sorted((labels.colors or {}).items())],
        "dataset": dataset._fingerprint,  # also of bytes that are part of it
        "files": _describe_files(dataset),
    }
    return Path(datasets.config.HF_DATASETS_CACHE) / "hfseg" / f"resized-{Hasher.hash(content)}.arrow"


def _describe_files(dataset: Dataset) -> str:
    """A digest of path, size and time of every file that the rows name."""
    hasher = Hasher()
    for rows in select_sources(dataset).with_format("arrow").iter(1000):
        for name in ("image", "mask"):
            for source in rows.column(name).combine_chunks().field("path").to_pylist():
                if source is not None and os.path.isfile(source):
                    stat = os.stat(source)
                    hasher.m.update(f"{source}\0{stat.st_size}\0{stat.st_mtime_ns}\0".encode())
    return hasher.hexdigest()


def read_or_build(dataset: Dataset, transform: SegTransform | GuardedTransform, path: Path, num_bytes: int) -> Dataset:
    """The cache file, written first where it is not there; of several processes, one writes and the others wait."""
    problem = f"The cache of {len(dataset)} resized images needs {num_bytes / 1e6:,.0f} MB in {path.parent}"
    advice = "Make room, set HF_DATASETS_CACHE to a folder on another disk, or set cache to none."
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            if (cached := _read(path, len(dataset))) is not None:
                return cached
            if (free := _free_bytes(path)) < 1.05 * num_bytes:
                raise InputError(f"{problem}, where {free / 1e6:,.0f} MB are free. {advice}")
            logger.info(
                f"{len(dataset)} images are resized once: a cache of {num_bytes / 1e6:,.1f} MB in {path.parent}"
            )
            with TemporaryDirectory(dir=path.parent) as folder:  # nothing half-written stays
                unfinished = Path(folder) / path.name
                _write(dataset, transform, unfinished)
                os.replace(unfinished, path)
            cached = _read(path, len(dataset))
            assert cached is not None
            return cached
    except OSError as error:
        raise InputError(f"{problem}, but it can't be written ({error}). {advice}") from error


def _read(path: Path, num_rows: int) -> Dataset | None:
    """The file where it is whole, from memory-mapped pages."""
    if not path.is_file():
        return None
    try:
        cached = Dataset.from_file(str(path))
    except (pa.ArrowInvalid, OSError):
        cached = None
    if cached is None or len(cached) != num_rows:
        logger.warning(f"{path} is damaged and made anew.")
        return None
    return cached


def _write(dataset: Dataset, transform: SegTransform | GuardedTransform, path: Path) -> None:
    size = (transform.transform if isinstance(transform, GuardedTransform) else transform).size
    assert size is not None
    pixels = size[0] * size[1]
    rows = max(1, min(1000, BATCH_BYTES // (4 * pixels)))
    uint8 = Value("uint8")
    with _progress_bar():
        select_sources(dataset).map(
            _resize_rows,
            fn_kwargs={"transform": transform},
            batched=True,
            batch_size=rows,
            writer_batch_size=rows,
            input_columns=["image", "mask"],
            remove_columns=["image", "mask"],
            features=Features({"image": List(uint8, length=3 * pixels), "mask": List(uint8, length=pixels)}),
            cache_file_name=str(path),
            new_fingerprint=path.stem,
            desc="Resizing images",
        )


def _resize_rows(images: list[Any], masks: list[Any], transform: SegTransform | GuardedTransform) -> pa.Table:
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads:  # decoding and resizing leave the interpreter free
        pairs = list(threads.map(transform.read_resized, images, masks))
    return pa.table(
        [_to_column(np.stack([pair[i].numpy() for pair in pairs])) for i in range(2)],
        names=["image", "mask"],
    )


def _to_column(values: np.ndarray) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values[0].size)


def _list_paths(dataset: Dataset) -> pa.ChunkedArray:
    """Of each row's image, in Arrow's memory; null where there is none."""
    rows = select_sources(dataset).select_columns("image").with_format("arrow").iter(1000)
    return pa.chunked_array([r.column("image").combine_chunks().field("path") for r in rows], pa.string())


def _sample_indices(dataset: Dataset) -> np.ndarray:
    """(N,) int64: the numbers that seed each sample's random changes, as `prepare` gives them."""
    if "sample_index" in dataset.column_names:
        return np.asarray(dataset["sample_index"], np.int64)
    return np.arange(len(dataset))


def _fits_easily(num_bytes: int, path: Path) -> bool:
    room = min(AUTOMATIC_BYTES, AUTOMATIC_SHARE * _free_bytes(path))
    return num_bytes <= room and os.access(_existing_folder(path), os.W_OK)


def _free_bytes(path: Path) -> int:
    return shutil.disk_usage(_existing_folder(path)).free


def _existing_folder(path: Path) -> Path:
    return next(parent for parent in path.parents if parent.is_dir())


@contextmanager
def _progress_bar() -> Iterator[None]:
    """The bar of `datasets`, which hfseg's log turns off elsewhere; of the process that logs."""
    disabled = datasets.are_progress_bars_disabled()
    if logger.isEnabledFor(logging.INFO):
        datasets.enable_progress_bars()
    try:
        yield
    finally:
        if disabled:
            datasets.disable_progress_bars()

"""What is cached is what was read before, bit for bit; what has changed is read anew; nothing half-written stays."""

import logging
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image
from torch.utils.data import DataLoader

import hfseg.data.cache as cache_file
from hfseg.data import load
from hfseg.data.augment import Augmentation
from hfseg.data.cache import cache_path, is_cached, prepare_cached
from hfseg.data.transforms import SegTransform, build_processor, class_pixels, collate, finish_batch, prepare
from hfseg.errors import InputError
from hfseg.labels import Labels

LABELS = Labels(("zero", "one", "two", "three"))
COLORED = Augmentation(horizontal_flip=0.5, photometric_distortion=True)
CROPPED = Augmentation(None, (12, 20), 0.75, 0.5, True)
OPTIONS = [{}, {"train": True, "augmentation": COLORED}, {"train": True, "augmentation": CROPPED, "seed": 3}]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "caches")
    return tmp_path / "caches" / "hfseg"


@pytest.fixture
def drawn(tmp_path: Path) -> Dataset:
    return draw_files(tmp_path)


def draw_files(folder: Path, num: int = 11) -> Dataset:
    rng = np.random.default_rng(0)
    rows: dict[str, list[str]] = {"image": [], "mask": []}
    for i in range(num):
        size = (20 + i, 40 - i)
        for name, channels, top in (("image", (3,), 256), ("mask", (), 4)):
            rows[name].append(str(folder / f"{name}{i}.png"))
            Image.fromarray(rng.integers(0, top, (*size, *channels), np.uint8)).save(rows[name][-1])
    return Dataset.from_dict(rows).cast_column("image", datasets.Image()).cast_column("mask", datasets.Image())


def transform_of(size: tuple[int, int] = (16, 24), labels: Labels = LABELS, **options: Any) -> SegTransform:
    return SegTransform(labels, build_processor(size), **options)


def read_all(dataset: Any, transform: SegTransform, epoch: int = 0, **options: Any) -> dict[str, Any]:
    transform.set_epoch(epoch)
    loader = DataLoader(dataset, collate_fn=collate, **({"batch_size": 4} | options))
    batches = [finish_batch(batch) for batch in loader]
    read: dict[str, Any] = {name: [value for batch in batches for value in batch[name]] for name in batches[0]}
    return {name: values if name == "files" else torch.stack(values) for name, values in read.items()}


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return a.keys() == b.keys() and all(
        a[name] == b[name] if name == "files" else torch.equal(a[name], b[name]) for name in a
    )


def pick(samples: dict[str, Any], order: list[int]) -> dict[str, Any]:
    return {name: [v[i] for i in order] if name == "files" else v[order] for name, v in samples.items()}


@pytest.mark.parametrize("options", OPTIONS, ids=["evaluation", "colours", "crops"])
def test_a_cached_set_gives_what_files_give(
    options: dict[str, Any], drawn: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_file, "BATCH_BYTES", 4 * 4 * 16 * 24)  # several record batches
    transform = transform_of(**options)
    cached, plain = prepare_cached(drawn, transform), prepare(drawn, transform)
    assert is_cached(cached) and len(cached) == 11 and len(cached.rows.data.column("image").chunks) == 3
    for epoch in (0, 1):
        expected = read_all(plain, transform, epoch)
        assert same(read_all(cached, transform, epoch), expected)
        assert same(read_all(cached, transform, epoch, num_workers=2, batch_size=3), expected)
    order = [10, 0, 7, 3]
    picked = pick(expected, order)
    assert same(read_all(cached, transform, 1, sampler=order, batch_size=1), picked)
    assert sorted(cached[3]) == sorted(plain[3]) and torch.equal(cached[-1]["labels"], cached[10]["labels"])
    assert class_pixels(cached, 4).tolist() == class_pixels(plain, 4).tolist()


@pytest.mark.slow
def test_workers_that_are_spawned_map_the_cache_themselves(drawn: Dataset) -> None:
    transform = transform_of(**OPTIONS[1])
    cached = prepare_cached(drawn, transform)
    there = read_all(cached, transform, 2, num_workers=1, multiprocessing_context="spawn")
    assert same(there, read_all(cached, transform, 2))


def test_samples_keep_the_numbers_that_seed_them(drawn: Dataset) -> None:
    transform = transform_of(**OPTIONS[1])
    numbered = drawn.add_column("sample_index", list(range(100, 111)))
    whole = read_all(prepare_cached(numbered, transform), transform)
    assert same(
        read_all(prepare_cached(numbered.select([2, 5]), transform), transform),
        pick(whole, [2, 5]),
    )
    other = read_all(prepare_cached(drawn, transform), transform)
    assert not same(other | {"files": whole["files"]}, whole)


def test_files_are_read_once(drawn: Dataset, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="hfseg")
    first = prepare_cached(drawn, transform_of())
    assert "11 images are resized once: a cache of 0.0 MB in" in caplog.text
    monkeypatch.setattr(SegTransform, "read_resized", None)
    for options in OPTIONS:  # what is random is no part of the cache
        again = prepare_cached(drawn, transform_of(**options))
        assert torch.equal(again._images.gather(range(11)), first._images.gather(range(11)))
    for i in range(11):  # masks and images are read from the cache alone
        again[i]
    assert caplog.text.count("resized once") == 1


def test_what_has_changed_is_never_read_from_an_older_cache(drawn: Dataset, tmp_path: Path) -> None:
    processor = build_processor((16, 24))
    processor.resample = 0
    coarse = SegTransform(LABELS, processor)
    others = [
        *(transform_of((24, 16)), coarse),
        *(
            transform_of(labels=Labels(LABELS.names, ids=ids))
            for ids in (dict(enumerate(range(4))), {0: 1, 1: 0, 2: 2, 3: 3})
        ),
        transform_of(labels=Labels(LABELS.names, colors={(0, 0, 0): 0})),
    ]
    paths = [cache_path(drawn, transform) for transform in (transform_of(), *others)]
    paths += [
        cache_path(drawn.select(range(5)), transform_of()),
        cache_path(drawn.select(range(5, 10)), transform_of()),
    ]
    assert len(set(paths)) == len(paths)
    before = read_all(prepare_cached(drawn, transform_of()), transform_of())
    stat = os.stat(tmp_path / "mask3.png")
    Image.fromarray(np.zeros((23, 37), np.uint8)).save(tmp_path / "mask3.png")
    os.utime(tmp_path / "mask3.png", ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    after = read_all(prepare_cached(drawn, transform_of()), transform_of())
    assert before["labels"][3].any() and not after["labels"][3].any()
    assert torch.equal(before["labels"][4:], after["labels"][4:])


def test_pictures_in_memory_are_told_apart_by_their_bytes() -> None:
    sets = [load("synthetic", num_images=4, seed=seed)[0]["train"] for seed in (0, 0, 1)]
    paths = [cache_path(part, transform_of()) for part in sets]
    assert paths[0] == paths[1] != paths[2]


CHILD = """
import sys, logging
from datasets import Dataset, Image
import hfseg.data.cache as cache
from hfseg.data.transforms import SegTransform, build_processor
from hfseg.labels import Labels
logging.basicConfig(level="INFO")
names = [f"{sys.argv[1]}/{kind}{i}.png" for kind in ("image", "mask") for i in range(11)]
rows = Dataset.from_dict({"image": names[:11], "mask": names[11:]})
rows = rows.cast_column("image", Image()).cast_column("mask", Image())
transform = SegTransform(Labels(("zero", "one", "two", "three")), build_processor((16, 24)))
print(cache.read_or_build(rows, transform, cache.cache_path(rows, transform), 0).cache_files[0]["filename"])
"""


@pytest.mark.slow
def test_of_several_processes_one_writes(drawn: Dataset, tmp_path: Path, folder: Path) -> None:
    environment = os.environ | {"HF_DATASETS_CACHE": str(folder.parent)}
    command = [sys.executable, "-c", CHILD, str(tmp_path)]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    ended = [child.communicate(timeout=300) for child in [subprocess.Popen(command, **pipes) for _ in range(3)]]
    assert {out.strip() for out, _ in ended} == {str(cache_path(drawn, transform_of()))}, ended
    assert sum("resized once" in log for _, log in ended) == 1


def left_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.suffix != ".lock"]


def test_a_full_disk_is_told_before_anything_is_written(
    drawn: Dataset, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(drawn[:1]["image"][0].filename)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10_000))
    with pytest.raises(
        InputError, match=r"11 resized images needs 0 MB in .*hfseg, where 0 MB are free.*cache to none"
    ):
        prepare_cached(drawn, transform_of(), "resized")
    assert left_in(folder) == []
    assert not is_cached(prepare_cached(drawn, transform_of()))  # without a word, nothing is asked for


def test_a_disk_that_fills_up_leaves_nothing_half_written(drawn: Dataset, folder: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(InputError, match="can't be written.*HF_DATASETS_CACHE") as error:
            prepare_cached(drawn, transform_of(), "resized")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "\n" not in str(error.value) and left_in(folder) == []
    assert is_cached(prepare_cached(drawn, transform_of()))


def test_a_bad_file_is_named_and_leaves_no_cache(drawn: Dataset, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "image7.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"image7\.png"):
        prepare_cached(drawn, transform_of())
    assert left_in(folder) == []


def test_a_damaged_cache_is_made_anew(drawn: Dataset, caplog: pytest.LogCaptureFixture) -> None:
    expected = read_all(prepare_cached(drawn, transform_of()), transform_of())
    path = cache_path(drawn, transform_of())
    path.write_bytes(path.read_bytes()[:2000])
    assert same(read_all(prepare_cached(drawn, transform_of()), transform_of()), expected)
    assert "damaged" in caplog.text


def test_there_is_no_cache_without_use_or_room(
    drawn: Dataset, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="hfseg")
    jitter = transform_of(train=True, augmentation=Augmentation(scale_jitter=(0.5, 2.0)))
    for transform, word in ((jitter, "scale_jitter"), (transform_of(resolution="native"), "native")):
        assert not is_cached(prepare_cached(drawn, transform, "resized"))
        assert word in caplog.records[-1].message
    assert not is_cached(prepare_cached(drawn, transform_of(), "none"))
    monkeypatch.setattr(cache_file, "AUTOMATIC_BYTES", 11 * 4 * 16 * 24 - 1)
    assert not is_cached(prepare_cached(drawn, transform_of())) and not folder.exists()
    assert is_cached(prepare_cached(drawn, transform_of(), "resized"))

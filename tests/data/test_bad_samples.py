"""on_bad_sample: stop names the file; skip goes on without a hundredth, the same with any number of workers."""

import copy
import logging
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image
from torch.utils.data import DataLoader

from hfseg.cli import main
from hfseg.data import load
from hfseg.data.augment import Augmentation
from hfseg.data.bad_samples import BadSamples
from hfseg.data.transforms import SegTransform, build_processor, collate, prepare
from hfseg.errors import InputError
from hfseg.labels import Labels
from hfseg.losses import cross_entropy

ROOT = Path(__file__).parents[2]
LABELS = Labels(["ground", "thing"])
BAD = 50  # not among the masks that are looked at while a folder is loaded


def write_folder(root: Path, train: int, validation: int, *bad: str) -> Path:
    rng = np.random.default_rng(0)
    for split, count in (("train", train), ("validation", validation)):
        for kind in ("images", "masks"):
            (root / kind / split).mkdir(parents=True)
        for i in range(count):
            image, mask = rng.integers(0, 256, (12, 10, 3), np.uint8), rng.integers(0, 2, (12, 10), np.uint8)
            Image.fromarray(image).save(root / "images" / split / f"{i:03}.png")
            Image.fromarray(mask).save(root / "masks" / split / f"{i:03}.png")
    for name in bad:
        (root / name).write_bytes(b"")
    (root / "classes.txt").write_text("ground\nthing\n")
    return root


def guarded(root: Path, skip: bool, *, train: bool = True) -> tuple[BadSamples, Dataset]:
    dataset, labels = load("folder", data_dir=str(root))
    augmentation = Augmentation(scale_jitter=(0.5, 2.0), crop_size=(16, 24), horizontal_flip=0.5)
    transform = SegTransform(labels, build_processor((16, 16)), train=train, augmentation=augmentation)
    bad = BadSamples("skip" if skip else "stop", dataset)
    return bad, prepare(dataset["train"], bad.guard(transform, "train"))


def read_all(dataset: Any, workers: int) -> tuple[torch.Tensor, torch.Tensor]:
    loader = DataLoader(dataset, batch_size=16, collate_fn=collate, num_workers=workers)
    batches = list(loader)
    return torch.cat([b["pixel_values"] for b in batches]), torch.cat([b["labels"] for b in batches])


def test_the_sample_is_replaced_by_one_that_counts_nowhere(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "bad", 110, 1, f"images/train/{BAD:03}.png")
    clean = write_folder(tmp_path / "clean", 110, 1)
    images, labels = read_all(guarded(clean, False)[1], 0)
    for workers in (0, 2):
        bad, dataset = guarded(root, True)
        found_images, found_labels = read_all(dataset, workers)
        rest = torch.arange(110) != BAD
        assert torch.equal(found_images[rest], images[rest]) and torch.equal(found_labels[rest], labels[rest])
        assert found_images.shape == images.shape == (110, 3, 16, 24) and (found_labels[BAD] == 255).all()
        assert bad.flags["train"].nonzero().flatten().tolist() == [BAD], "the workers' find is known here"
    logits = torch.randn(1, 2, 16, 24, requires_grad=True)
    loss = cross_entropy(logits, found_labels[BAD][None])
    loss.backward()
    assert loss == 0 and logits.grad is not None and (logits.grad == 0).all()


def test_without_it_the_run_stops_with_the_name_and_the_advice(tmp_path: Path) -> None:
    root = write_folder(tmp_path, 110, 1, f"images/train/{BAD:03}.png")
    with pytest.raises(InputError, match=rf"{BAD:03}\.png can't be read.*0 bytes.*hfseg check.*on_bad_sample skip"):
        read_all(guarded(root, False)[1], 0)


@pytest.mark.parametrize("workers", [0, 2])
def test_more_than_a_hundredth_stops(tmp_path: Path, workers: int) -> None:
    root = write_folder(tmp_path, 110, 1, *(f"masks/train/{BAD + i:03}.png" for i in range(2)))
    with pytest.raises(InputError, match=r"2 of 110 train images can't be used, more than the 1%.*051\.png"):
        read_all(guarded(root, True)[1], workers)


def test_what_was_left_out_is_told_once_and_at_the_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bad, dataset = guarded(write_folder(tmp_path, 110, 1, f"masks/train/{BAD:03}.png"), True)
    usable = bad.usable("train")
    assert len(usable) == 110
    with caplog.at_level(logging.WARNING):
        read_all(dataset, 0)
        read_all(dataset, 0)
        bad.share(torch.device("cpu"))
        bad.report()
    first, last = (record.message for record in caplog.records)
    assert f"masks/train/{BAD:03}.png can't be read" in first
    assert "1 of 110 train images were left out" in last and f"images/train/{BAD:03}.png" in last
    assert len(usable) == 109 and usable[BAD]["image"].size == (10, 12), "the next one"


def test_native_masks_and_other_processors(tmp_path: Path) -> None:
    from transformers import ConvNextImageProcessor

    root = write_folder(tmp_path, 110, 1, f"images/train/{BAD:03}.png")
    dataset, labels = load("folder", data_dir=str(root))
    processor = ConvNextImageProcessor(size={"shortest_edge": 32}, crop_pct=1.0)
    for options in ({"processor": build_processor((16, 16)), "resolution": "native"}, {"processor": processor}):
        bad = BadSamples("skip", dataset)
        row = prepare(dataset["train"], bad.guard(SegTransform(labels, **options), "train"))[BAD]
        good = prepare(dataset["train"], bad.guard(SegTransform(labels, **options), "train"))[0]
        assert row["pixel_values"].dtype == good["pixel_values"].dtype and (row["labels"] == 255).all()
        assert row["pixel_values"].shape == good["pixel_values"].shape


@pytest.mark.parametrize("duplicate", [lambda t: pickle.loads(pickle.dumps(t)), copy.deepcopy])
def test_a_copy_works_as_well(duplicate: Any, tmp_path: Path) -> None:
    transform = SegTransform(LABELS, build_processor((16, 16)))
    guard = duplicate(BadSamples("skip", {"train": Dataset.from_dict({"x": range(100)})}).guard(transform, "train"))
    row = guard({"image": [{"bytes": b"", "path": None}], "mask": [{"bytes": b"", "path": None}], "sample_index": [7]})
    assert (row["labels"][0] == 255).all() and guard.flags.is_shared()


def test_a_bad_mask_among_those_that_are_looked_at_first(tmp_path: Path) -> None:
    root = write_folder(tmp_path, 110, 1, "masks/train/000.png")
    with pytest.raises(InputError, match="hfseg check"):
        load("folder", data_dir=str(root))
    assert len(load("folder", data_dir=str(root), on_bad_sample="skip")[0]["train"]) == 110
    for path in (root / "masks" / "train").iterdir():
        path.write_bytes(b"")
    with pytest.raises(InputError, match="hfseg check"):
        load("folder", data_dir=str(root), on_bad_sample="skip")


def test_a_run_goes_on_and_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_folder(tmp_path / "data", 110, 101, f"images/train/{BAD:03}.png", "images/validation/000.png")
    recipe = str(ROOT / "recipes" / "segformer_folder.json")
    small = ["--image_size", "32", "--crop_size", "32", "--weights", "scratch", "--num_train_epochs", "1"]
    small += ["--per_device_train_batch_size", "55", "--use_cpu", "true", "--dataloader_num_workers", "2"]
    command = ["train", recipe, "--data_dir", str(root), *small, "--output_dir", str(tmp_path / "run")]
    assert main([*command, "--on_bad_sample", "skip"]) == 0
    told = capsys.readouterr().err
    for split, name in (("train", f"{BAD:03}"), ("validation", "000")):
        assert f"{split} images were left out: {root}/images/{split}/{name}.png" in told
    assert (tmp_path / "run" / "best" / "model.safetensors").is_file()


def share_of_one(rank: int, folder: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    bad = BadSamples("skip", {"train": Dataset.from_dict({"x": range(150)})})
    bad.flags["train"][rank] = 1
    told = ""
    try:
        bad.share(torch.device("cpu"))
    except InputError as error:
        told = str(error)
    Path(folder, f"{rank}.txt").write_text(f"{bad.flags['train'].nonzero().flatten().tolist()} {told}")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_processes_tell_each_other(tmp_path: Path) -> None:
    """Each has found one of 150; together they are more than a hundredth, and both stop."""
    torch.multiprocessing.start_processes(share_of_one, (str(tmp_path),), nprocs=2, start_method="fork")
    for rank in (0, 1):
        assert (tmp_path / f"{rank}.txt").read_text().startswith("[0, 1] 2 of 150 train images can't be used")

"""Parquet read as a stream: every row once, apart for each reader, and a broken run goes on exactly."""

import io
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from hfseg.callbacks import EpochCallback
from hfseg.checkpoints import find_checkpoint
from hfseg.data import find_split, limit, load
from hfseg.data.augment import Augmentation
from hfseg.data.cache import prepare_cached
from hfseg.data.streamed_dataset import Shards, StreamedDataset
from hfseg.data.transforms import SegTransform, build_processor, collate
from hfseg.errors import InputError
from hfseg.labels import Labels
from hfseg.provenance import describe_data
from hfseg.trainer import SegTrainer

sys.path.insert(0, str(Path(__file__).parents[1]))
from test_resume import BreakOff, Broken, comparable
from test_trainer import NAMES, arguments, tiny_segformer


def to_png(pixels: np.ndarray) -> dict[str, Any]:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return {"bytes": file.getvalue(), "path": None}


def write_shards(folder: Path, split: str, rows: list[int]) -> None:
    """Files of so many rows each; a row's picture is of one grey, its number in the split."""
    (folder / "data").mkdir(parents=True, exist_ok=True)
    number = 0
    for shard, count in enumerate(rows):
        images, masks = [], []
        for _ in range(count):
            images.append(to_png(np.full((24, 32, 3), number, np.uint8)))
            masks.append(to_png(np.random.default_rng(number).integers(0, 3, (24, 32)).astype(np.uint8)))
            number += 1
        name = f"{split}-{shard:05d}-of-{len(rows):05d}.parquet"
        pq.write_table(pa.table({"image": images, "mask": masks, "note": ["x"] * count}), folder / "data" / name)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parquet")
    write_shards(folder, "train", [4, 5, 3, 4, 4, 4])
    write_shards(folder, "val", [5])
    (folder / "classes.txt").write_text("\n".join(NAMES))
    return folder


@pytest.fixture(scope="module")
def stream(folder: Path) -> tuple[dict[str, Any], Labels]:
    return load("folder", data_dir=str(folder), streaming=True, stream_buffer=5)


class Numbers:
    """Stands for a transform: a sample is its row's number and grey."""

    def __init__(self, epoch: int = 0) -> None:
        self.epoch = epoch

    def __call__(self, batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        return {"number": batch["sample_index"], "grey": [batch["image"][0]["bytes"]]}


def read(shards: Shards, rank: int = 0, world: int = 1, workers: int = 0, batch: int = 4, epoch: int = 0) -> list[Any]:
    dataset = StreamedDataset(shards, Numbers(epoch), seed=7)
    dataset.divide(rank, world, batch)
    loader: Any = DataLoader(dataset, batch, num_workers=workers, collate_fn=lambda samples: samples)
    batches = [[int(sample["number"]) for sample in part] for part in loader]
    assert len(batches) == len(loader) and sum(map(len, batches)) == len(dataset)
    assert all(len(part) == batch for part in batches[:-1]), "only the last batch is smaller"
    return [number for part in batches for number in part]


def test_what_lies_there(stream: tuple[dict[str, Any], Labels]) -> None:
    dataset, labels = stream
    train = dataset["train"]
    assert labels.names == NAMES and len(train) == 24 and len(dataset["validation"]) == 5
    assert train.num_rows == (4, 5, 3, 4, 4, 4) and set(dataset) == {"train", "validation"}
    for i in (0, 3, 4, 23):
        assert np.asarray(Image.open(io.BytesIO(train[i]["image"]["bytes"])))[0, 0, 0] == i
        assert train[i]["sample_index"] == i
    with pytest.raises(IndexError):
        train[24]
    facts = describe_data({"dataset": "folder"}, dataset)  # type: ignore[arg-type]
    assert facts.sizes == {"train": 24, "validation": 5} and facts.revision.startswith("files-")


@pytest.mark.parametrize("workers", [0, 2, 3])
def test_one_process_reads_each_row_once(workers: int, stream: tuple[dict[str, Any], Labels]) -> None:
    train = stream[0]["train"]
    first, again, second = (read(train, workers=workers, epoch=epoch) for epoch in (0, 0, 1))
    assert first == again != second and first != sorted(first)
    if workers == 0:
        assert sorted(first) == sorted(second) == list(range(24))
    else:  # 24 rows, dealt out in whole files of 3 to 5
        assert len(set(first)) >= 20


@pytest.mark.parametrize(("world", "workers"), [(2, 0), (2, 2), (3, 0), (3, 3), (5, 2)])
def test_processes_and_workers_read_apart(world: int, workers: int, stream: tuple[dict[str, Any], Labels]) -> None:
    """Six files for up to ten readers: whole files where they suffice, else parts of each."""
    train = stream[0]["train"]
    parts = [read(train, rank, world, workers, batch=2) for rank in range(world)]
    assert len({len(part) for part in parts}) == 1, "as many steps for each"
    for i, one in enumerate(parts):
        for other in parts[i + 1 :]:
            assert not set(one) & set(other)
    everything = Counter(number for part in parts for number in part)
    assert len(everything) >= (19 if world * max(workers, 1) <= 6 else 14)  # with ten readers, some lack a batch


def test_without_a_buffer_the_order_is_that_of_the_files(folder: Path) -> None:
    train: Any = load("folder", data_dir=str(folder), streaming=True, stream_buffer=0)[0]["train"]
    assert read(train) == list(range(24))


def test_a_buffer_mixes_files(folder: Path) -> None:
    train: Any = load("folder", data_dir=str(folder), streaming=True)[0]["train"]
    order = read(train)
    assert sorted(order) == list(range(24)) and np.abs(np.diff(order)).mean() > 4


def test_fewer_rows_than_readers(tmp_path: Path) -> None:
    write_shards(tmp_path, "train", [2])
    train = Shards(tuple(map(str, (tmp_path / "data").iterdir())), (2,), ("image", "mask"))
    parts = [read(train, rank, 5, 2, batch=1) for rank in range(5)]
    assert all(len(part) == 1 and part[0] in (0, 1) for part in parts)


def build_trainer(output: Path, stream: tuple[dict[str, Any], Labels], **settings: Any) -> SegTrainer:
    dataset, labels = stream
    processor = build_processor((32, 32))
    augmentation = Augmentation((0.5, 2.0), (32, 32), 1.0, 0.5, True)
    transform = SegTransform(labels, processor, train=True, augmentation=augmentation, seed=5)
    defaults: dict[str, Any] = dict(num_train_epochs=2, max_steps=-1, per_device_train_batch_size=4, seed=3)
    defaults |= dict(learning_rate=1e-2, logging_strategy="epoch", eval_strategy="epoch")
    return SegTrainer(
        tiny_segformer(),
        arguments(output, **(defaults | settings)),
        train_dataset=prepare_cached(dataset["train"], transform),
        eval_dataset=prepare_cached(dataset["validation"], SegTransform(labels, processor)),
        processing_class=processor,
        callbacks=[EpochCallback(transform.set_epoch)],
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_run_goes_on_exactly(workers: int, stream: tuple[dict[str, Any], Labels], tmp_path: Path) -> None:
    settings = dict(dataloader_num_workers=workers, save_strategy="steps", save_steps=4, save_total_limit=1)
    whole = build_trainer(tmp_path / "whole", stream, **settings)
    whole.train()
    assert whole.state.max_steps == 12
    broken = build_trainer(tmp_path / "broken", stream, **settings)
    broken.add_callback(BreakOff(9))
    with pytest.raises(Broken):
        broken.train()
    torch.manual_seed(99)
    resumed = build_trainer(tmp_path / "broken", stream, **settings)
    resumed.train(resume_from_checkpoint=find_checkpoint(tmp_path / "broken", "auto"))
    assert comparable(resumed.state.log_history) == comparable(whole.state.log_history)
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name]), name


CHILD = """
import sys, json
from pathlib import Path
sys.path[:0] = [sys.argv[1], str(Path(sys.argv[1]).parent)]
from test_streaming import build_trainer
from hfseg.data import load
trainer = build_trainer(Path(sys.argv[2]), load("folder", data_dir=sys.argv[3], streaming=True), num_train_epochs=2)
numbers, step = [], trainer.training_step
def look(model, inputs, *rest, **kwargs):
    numbers.extend(int(name.split("(")[-1][:-1]) for name in inputs["files"])
    return step(model, inputs, *rest, **kwargs)
trainer.training_step = look
trainer.train()
result = json.dumps([trainer.args.world_size, trainer.state.global_step, numbers])
Path(sys.argv[2], f"result_{trainer.args.process_index}.json").write_text(result)
"""


@pytest.mark.slow
def test_two_processes_train_on_rows_of_their_own(folder: Path, tmp_path: Path) -> None:
    child = tmp_path / "child.py"
    child.write_text(CHILD, encoding="utf-8")
    options = ("--multi_gpu", "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no")
    command = [sys.executable, "-m", "accelerate.commands.launch", *options, str(child), str(Path(__file__).parent)]
    done = subprocess.run([*command, str(tmp_path), str(folder)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    results = [json.loads((tmp_path / f"result_{rank}.json").read_text()) for rank in (0, 1)]
    assert [result[:2] for result in results] == [[2, 6], [2, 6]]  # 12 rows of each process in batches of 4
    one, other = (set(numbers[:12]) for _, _, numbers in results)
    assert not one & other and len(one | other) >= 22


def test_a_stream_gives_what_files_give(stream: tuple[dict[str, Any], Labels]) -> None:
    """The same row in the same epoch is augmented alike, whoever reads it."""
    dataset, labels = stream
    augmentation = Augmentation((0.5, 2.0), (32, 32), 1.0, 0.5, True)
    transform = SegTransform(labels, build_processor((32, 32)), train=True, augmentation=augmentation, seed=5)
    samples: dict[str, Any] = {
        sample["files"].split("(")[-1]: sample for sample in prepare_cached(dataset["train"], transform)
    }
    assert len(samples) == 24
    for number in (0, 11, 23):
        row = dataset["train"][number]
        expected = {name: column[0] for name, column in transform({k: [v] for k, v in row.items()}).items()}
        got = samples[f"{number})"]
        batch, wanted = collate([got]), collate([expected])
        assert torch.equal(batch["pixel_values"], wanted["pixel_values"]) and torch.equal(
            batch["labels"], wanted["labels"]
        )


def test_mistakes_get_one_line(folder: Path, tmp_path: Path, stream: tuple[dict[str, Any], Labels]) -> None:
    write_shards(tmp_path / "alone", "train", [3])
    (tmp_path / "pictures" / "train").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "pictures" / "train" / "a.png")
    write_shards(tmp_path / "broken", "train", [3])
    write_shards(tmp_path / "broken", "validation", [3])
    (tmp_path / "broken" / "data" / "train-00000-of-00001.parquet").write_bytes(b"PAR1 no table")
    given: dict[str, Any] = {"streaming": True, "classes": list(NAMES)}
    for name, options, words in (
        ("folder", {"data_dir": str(tmp_path / "alone")}, "has no validation split"),
        ("folder", {"data_dir": str(tmp_path / "pictures")}, "only Parquet is read as a stream"),
        ("folder", {"data_dir": str(tmp_path / "broken")}, "is no Parquet file that can be read"),
        ("folder", {"data_dir": str(tmp_path / "nowhere")}, "give the folder that holds the Parquet files"),
        ("folder", {}, "give the folder that holds the Parquet files"),
        ("folder", {"data_dir": str(folder), "stream_buffer": -1}, "stream_buffer is -1"),
        ("folder", {"data_dir": str(folder), "mask_column": "note"}, "holds no pictures"),
        ("folder", {"data_dir": str(folder), "image_glob": "*"}, "has no option image_glob"),
        ("pets", {}, "pets is no stream"),
    ):
        with pytest.raises(InputError, match=words) as e:
            load(name, **given | options)
        assert "\n" not in str(e.value)
    with pytest.raises(InputError, match="'train' is a stream"):
        find_split(stream[0], "train")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="max_train_samples"):
        limit(stream[0]["train"], 3, 0)

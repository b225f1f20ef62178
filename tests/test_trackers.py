"""The real trackers, without a network: what a run sent is read back from their own stores."""

import json
import os
import sqlite3
import struct
import subprocess
import sys
from collections.abc import Iterator
from importlib.machinery import PathFinder
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from hfseg.errors import InputError
from hfseg.trackers import PredictionPictures, prepare_trackers

ROOT = Path(__file__).parents[1]
QUICK = ["recipes/segformer_quickstart.json", "--num_images", "16", "--image_size", "32", "--num_train_epochs", "2"]
QUICK += ["--eval_every_epochs", "1", "--use_cpu", "true"]
WANTED = {
    *("train/loss", "train/train_mean_iou", "train/learning_rate", "train/grad_norm", "train/images_per_second"),
    *("eval/loss", "eval/mean_iou", "eval/iou_background", "eval/iou_boundary", "eval/iou_foreground"),
    "test/mean_iou",
}
PICTURE = "eval/predictions"


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One run that reports to all three."""
    folder = tmp_path_factory.mktemp("tracked")
    environment = os.environ | {
        "WANDB_MODE": "offline",
        "WANDB_DIR": str(folder),
        "TRACKIO_DIR": str(folder / "trackio"),
    }
    command = [sys.executable, "-m", "hfseg.cli", "train", *QUICK, "--output_dir", str(folder / "run")]
    command += ["--report_to", "wandb", "tensorboard", "trackio"]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-3000:]
    return folder


def logged(folder: Path) -> dict[str, list[float]]:
    """What the run's own files have under each of the names wanted."""
    log = json.loads((folder / "run" / "trainer_state.json").read_text())["log_history"]
    test = json.loads((folder / "run" / "test_metrics.json").read_text())
    values = {"test/mean_iou": [test["mean_iou"]]}
    for name in WANTED - values.keys():
        part, key = name.split("/")
        mark, key = ("loss", key) if part == "train" else ("eval_loss", f"eval_{key}")
        values[name] = [entry[key] for entry in log if mark in entry]
    assert len(values["train/loss"]) == len(values["eval/loss"]) == 2
    return values


def check_values(found: dict[str, list[Any]], folder: Path) -> None:
    for name, values in logged(folder).items():
        assert found[name] == pytest.approx(values, rel=1e-6), name


def test_tensorboard_has_the_numbers_and_the_pictures(tracked: Path) -> None:
    scalars: dict[str, list[float]] = {}
    images = []
    for path in sorted((tracked / "run").rglob("events.out.tfevents.*")):
        events = EventAccumulator(str(path)).Reload()
        for tag in events.Tags()["scalars"]:
            scalars.setdefault(tag, []).extend(event.value for event in events.Scalars(tag))
        images += [event for tag in events.Tags()["images"] if tag == PICTURE for event in events.Images(tag)]
    check_values(scalars, tracked)
    assert len(images) == 2 and min(images[0].width, images[0].height) > 300


def read_records(path: Path) -> Iterator[bytes]:
    """The records of a .wandb file: a LevelDB log (blocks of 32 KiB; checksum, length, type; parts 2, 3, 4 of one)."""
    data, at, parts = path.read_bytes(), 7, b""
    assert data[:4] == b":W&B"
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        length, kind = struct.unpack("<HB", data[at + 4 : at + 7])
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            yield parts
            parts = b""


def test_weights_and_biases_offline_run_reads_back(tracked: Path) -> None:
    from wandb.proto import wandb_internal_pb2

    (path,) = tracked.rglob("run-*.wandb")
    history: dict[str, list[Any]] = {}
    for data in read_records(path):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        for item in record.history.item:
            key = item.key or "/".join(item.nested_key)
            history.setdefault(key, []).append(json.loads(item.value_json))
    check_values(history, tracked)
    pictures = history[f"{PICTURE}/path"]
    assert len(pictures) == 2 and history[f"{PICTURE}/_type"] == ["image-file"] * 2
    for name in pictures:
        assert Image.open(path.parent / "files" / name).size[0] > 300


def test_trackio_store_reads_back(tracked: Path) -> None:
    with sqlite3.connect(tracked / "trackio" / "hfseg.db") as store:
        rows = [json.loads(row[0]) for row in store.execute("select metrics from metrics order by id")]
    check_values({name: [row[name] for row in rows if name in row] for name in WANTED}, tracked)
    assert sum(PICTURE in row for row in rows) == 2
    assert len(list((tracked / "trackio" / "media").rglob("*.png"))) == 2


def test_the_picture_shows_four_predictions_from_all_of_the_split() -> None:
    dataset = [{"image": i, "mask": i} for i in range(10)]
    labels: Any = None
    assert [row["image"] for row in PredictionPictures(None, dataset, labels).rows] == [0, 3, 6, 9]
    assert len(PredictionPictures(None, dataset[:3], labels).rows) == 3


def test_a_tracker_that_is_not_installed_gets_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    find = PathFinder.find_spec
    monkeypatch.setattr(
        PathFinder, "find_spec", lambda name, *rest: None if name == "trackio" else find(name, *rest), raising=True
    )
    monkeypatch.delitem(sys.modules, "trackio", raising=False)
    args = SimpleNamespace(report_to=["trackio"], run_name=None, output_dir="run", project="huggingface")
    with pytest.raises(InputError, match=r"trackio is not installed. pip install 'hfseg\[trackio\]'"):
        prepare_trackers(args)


def test_without_a_tracker_there_is_a_log_file_and_the_curves(tmp_path: Path) -> None:
    """No tracker is importable, as where none of the extras was installed."""
    blocked = "import sys; sys.modules.update(dict.fromkeys(['wandb', 'tensorboard', 'trackio']))"
    code = f"{blocked}; from hfseg.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "train", *QUICK, "--output_dir", str(tmp_path)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-3000:]
    lines = (tmp_path / "train.log").read_text().splitlines()
    assert sum(" epoch " in line and "val mIoU" in line for line in lines) == 2
    assert any("test mIoU" in line for line in lines)
    assert Image.open(tmp_path / "curves.png").size[0] > 500
    facts = json.loads((tmp_path / "run.json").read_text())
    assert facts["trained_parameters"] == facts["parameters"] > 3e6
    assert facts["train_seconds"] > 0 and facts["images_per_second"] > 0 and facts["peak_memory_mb"] > 100
    assert facts["test"]["mean_iou"] == json.loads((tmp_path / "test_metrics.json").read_text())["mean_iou"]
    assert facts["split_sizes"]["train"] == 16 and "CPU cores" in facts["hardware"]

"""Every way that images take to the model gives the same training, bit for bit on a CPU, and resumes as exactly."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from datasets import Dataset, DatasetDict

import hfseg.inputs
from hfseg.callbacks import EpochCallback
from hfseg.checkpoints import find_checkpoint
from hfseg.data import load
from hfseg.data.augment import Augmentation
from hfseg.data.cache import is_cached, prepare_cached
from hfseg.data.transforms import SegTransform, build_processor, collate, finish_batch, prepare
from hfseg.errors import InputError
from hfseg.inputs import plan_loading
from hfseg.labels import Labels
from hfseg.trainer import SegTrainer

sys.path.insert(0, str(Path(__file__).parent))
from test_resume import BreakOff, Broken, comparable
from test_trainer import arguments, tiny_segformer

SIZE = (32, 32)
SLOW_CASES = (("files", 2), ("resident", 0))
COLORED = Augmentation(horizontal_flip=0.5, photometric_distortion=True)
CROPPED = Augmentation((0.5, 2.0), (32, 40), 0.75, 0.5, True)


class SampleBySample(torch.utils.data.Dataset):
    """Samples that are finished one at a time on the host, normalised too, as the stock path does."""

    def __init__(self, dataset: Dataset, processor: Any) -> None:
        self.dataset, self.processor = dataset, processor

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        batch = finish_batch(collate([self.dataset[index]]), self.processor)
        return {name: column[0] for name, column in batch.items()}


@pytest.fixture(scope="module")
def drawn() -> tuple[DatasetDict, Labels]:
    return load("synthetic", num_images=14, num_validation=5, size=(40, 48))


def build_trainer(
    folder: Path, drawn: tuple[DatasetDict, Labels], way: str, augmentation: Augmentation = COLORED, **settings: Any
) -> SegTrainer:
    dataset, labels = drawn
    processor = build_processor(SIZE)
    transform = SegTransform(labels, processor, train=True, augmentation=augmentation, seed=5)
    evaluation = SegTransform(labels, processor)
    read = prepare_cached if way in ("cache", "resident") else prepare
    train_set: Any = read(dataset["train"], transform)
    validation_set: Any = read(dataset["validation"], evaluation)
    assert is_cached(validation_set) == (way in ("cache", "resident"))
    if way == "resident":
        train_set.keep_on(torch.device("cpu"))
        validation_set.keep_on(torch.device("cpu"))
    if way == "samples":
        train_set, validation_set = (SampleBySample(part, processor) for part in (train_set, validation_set))
    defaults: dict[str, Any] = dict(
        num_train_epochs=2,
        max_steps=-1,
        per_device_train_batch_size=4,
        learning_rate=1e-2,
        logging_strategy="epoch",
        eval_strategy="epoch",
        seed=3,
    )
    return SegTrainer(
        tiny_segformer(),
        arguments(folder, **(defaults | settings)),
        train_dataset=train_set,
        eval_dataset=validation_set,
        processing_class=processor,
        callbacks=[EpochCallback(transform.set_epoch)],
    )


def curve(trainer: SegTrainer) -> list[dict[str, Any]]:
    trainer.train()
    entries = comparable(trainer.state.log_history)
    assert len(entries) == 4 and entries[0]["loss"] != entries[2]["loss"]
    return entries


@pytest.mark.parametrize(
    "augmentation",
    [COLORED, CROPPED, pytest.param(Augmentation(crop_size=(32, 40)), marks=pytest.mark.slow)],
    ids=["colours", "jitter", "crops"],
)
def test_batches_from_files_train_as_samples_do(
    augmentation: Augmentation, drawn: tuple[DatasetDict, Labels], tmp_path: Path
) -> None:
    expected = curve(build_trainer(tmp_path, drawn, "samples", augmentation, dataloader_num_workers=0))
    assert curve(build_trainer(tmp_path, drawn, "files", augmentation)) == expected
    assert curve(build_trainer(tmp_path, drawn, "files", augmentation, dataloader_num_workers=2)) == expected
    if augmentation.scale_jitter is None:
        assert curve(build_trainer(tmp_path, drawn, "cache", augmentation)) == expected


@pytest.mark.parametrize("way", ["cache", "resident"])
def test_batches_from_a_cache_or_the_device_train_as_samples_do(
    way: str, drawn: tuple[DatasetDict, Labels], tmp_path: Path
) -> None:
    expected = curve(build_trainer(tmp_path, drawn, "samples"))
    assert curve(build_trainer(tmp_path, drawn, way)) == expected
    if way == "cache":
        assert curve(build_trainer(tmp_path, drawn, way, dataloader_num_workers=2)) == expected


@pytest.mark.parametrize(
    ("way", "workers"), [("cache", 2), *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW_CASES)]
)
def test_a_broken_run_resumes_exactly(
    way: str, workers: int, drawn: tuple[DatasetDict, Labels], tmp_path: Path
) -> None:
    settings = dict(dataloader_num_workers=workers, save_strategy="steps", save_steps=3, save_total_limit=1)
    whole = build_trainer(tmp_path / "whole", drawn, way, **settings)
    expected = curve(whole)
    broken = build_trainer(tmp_path / "broken", drawn, way, **settings)
    broken.add_callback(BreakOff(7))
    with pytest.raises(Broken):
        broken.train()
    torch.manual_seed(99)
    resumed = build_trainer(tmp_path / "broken", drawn, way, **settings)
    resumed.train(resume_from_checkpoint=find_checkpoint(tmp_path / "broken", "auto"))
    assert comparable(resumed.state.log_history) == expected
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name]), name


CHILD = """
import sys, json
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_inputs import build_trainer, curve
from hfseg.data import load
drawn = load("synthetic", num_images=14, num_validation=5, size=(40, 48))
for way in ("samples", "cache", "resident"):
    trainer = build_trainer(Path(sys.argv[2]) / way, drawn, way, per_device_train_batch_size=2)
    entries = curve(trainer)
    if trainer.is_world_process_zero():
        print("RESULT", json.dumps([trainer.args.world_size, entries]), flush=True)
"""


@pytest.mark.slow
def test_two_processes_read_the_cache_and_the_device_alike(drawn: tuple[DatasetDict, Labels], tmp_path: Path) -> None:
    child = tmp_path / "child.py"
    child.write_text(CHILD, encoding="utf-8")
    options = ("--multi_gpu", "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no")
    command = [sys.executable, "-m", "accelerate.commands.launch", *options, str(child), str(Path(__file__).parent)]
    done = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    results = [json.loads(line[7:]) for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    assert [size for size, _ in results] == [2, 2, 2]
    assert results[0] == results[1] == results[2]


# ---- workers ----


def plan(dataset: Any, monkeypatch: pytest.MonkeyPatch, cores: int = 16, free: int = 2**34, **given: Any) -> Any:
    monkeypatch.setattr(hfseg.inputs, "count_cores", lambda: cores)
    monkeypatch.setattr(hfseg.inputs, "free_bytes", lambda: free)
    settings: dict[str, Any] = dict(chooses_workers=True, dataloader_num_workers=0, dataloader_prefetch_factor=None)
    settings |= dict(dataloader_pin_memory=True, dataloader_persistent_workers=False, world_size=1)
    args = SimpleNamespace(**(settings | {"device": torch.device("cuda")} | given))
    return plan_loading(dataset, 10, True, args)


def test_workers_follow_cores_memory_and_the_number_of_files(
    drawn: tuple[DatasetDict, Labels], monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset, labels = drawn
    many = dataset["train"].select([0] * 1000)
    transform = SegTransform(labels, build_processor((50, 50)))
    files, cached = prepare(many, transform), prepare_cached(dataset["train"], transform)
    assert vars(plan(files, monkeypatch)) == dict(
        num_workers=8, prefetch_factor=4, pin_memory=True, persistent_workers=True
    )
    assert plan(files, monkeypatch, cores=3).num_workers == 3
    assert plan(files, monkeypatch, cores=8, world_size=2).num_workers == 4
    assert plan(files, monkeypatch, cores=2, world_size=2).num_workers == 0  # it would take the model's own core
    assert plan(files.select(range(200)), monkeypatch).num_workers == 3
    assert not plan(files, monkeypatch, device=torch.device("cpu")).pin_memory
    batch = 10 * 4 * 50 * 50
    assert plan(files, monkeypatch, free=20 * batch).prefetch_factor == 2
    assert plan(files, monkeypatch, free=5 * batch).num_workers == 5
    assert plan(files, monkeypatch, free=batch - 1).num_workers == 0
    for no_files in (cached, [{}] * 1000):
        assert plan(no_files, monkeypatch).num_workers == 0


def test_what_the_user_gives_comes_first(
    drawn: tuple[DatasetDict, Labels], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    dataset, labels = drawn
    transform = SegTransform(labels, build_processor(SIZE))
    files, cached = prepare(dataset["train"], transform), prepare_cached(dataset["train"], transform)
    given = dict(chooses_workers=False, dataloader_num_workers=3, dataloader_prefetch_factor=7)
    for part in (files, cached):
        assert plan(part, monkeypatch, **given).num_workers == 3
        assert plan(part, monkeypatch, **given).prefetch_factor == 7
    cached.keep_on(torch.device("cpu"))
    assert plan(cached, monkeypatch, **given).num_workers == 0 and not plan(cached, monkeypatch, **given).pin_memory
    assert arguments(tmp_path).chooses_workers and arguments(tmp_path).dataloader_num_workers == 0
    args = arguments(tmp_path, dataloader_num_workers=0)
    assert not args.chooses_workers
    assert arguments(tmp_path, dataloader_prefetch_factor=3).dataloader_prefetch_factor == 3
    with pytest.raises(InputError, match="resident_fraction"):
        arguments(tmp_path, resident_fraction=2.0)


def test_settings_of_one_loader_leave_the_arguments_alone(drawn: tuple[DatasetDict, Labels], tmp_path: Path) -> None:
    trainer = build_trainer(tmp_path, drawn, "files", dataloader_num_workers=1, dataloader_persistent_workers=True)
    before = trainer.args.to_dict()
    train, evaluation = trainer.get_train_dataloader(), trainer.get_eval_dataloader()
    assert (train.num_workers, train.persistent_workers) == (1, True)
    assert (evaluation.num_workers, evaluation.persistent_workers) == (1, False)
    assert trainer.get_eval_dataloader(trainer.train_dataset).dataset is not evaluation.dataset
    assert trainer.args.to_dict() == before

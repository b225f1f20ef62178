"""A run that is broken off and resumed gives the same log and the same weights, bit for bit, on a CPU."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from hfseg.checkpoints import find_checkpoint
from hfseg.data.transforms import build_processor
from hfseg.trainer import SegTrainer

sys.path.insert(0, str(Path(__file__).parent))
from test_trainer import arguments, batch_of, tiny_segformer

TIMES = ("train_seconds", "images_per_second", "peak_memory_mb", "eval_runtime", "train_runtime")


class Broken(Exception):
    pass


class BreakOff(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            raise Broken


def build_trainer(folder: Path, **settings: Any) -> SegTrainer:
    defaults: dict[str, Any] = dict(
        num_train_epochs=3,
        max_steps=-1,
        per_device_train_batch_size=2,
        learning_rate=1e-2,
        logging_strategy="epoch",
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=1,
        seed=3,
    )
    args = arguments(folder, **(defaults | settings))
    model = tiny_segformer(hidden_dropout_prob=0.2, classifier_dropout_prob=0.2)  # resuming has to restore its draws
    return SegTrainer(
        model,
        args,
        train_dataset=batch_of(8),
        eval_dataset=batch_of(4, seed=1),
        processing_class=build_processor((32, 32)),
    )


def comparable(log: list[dict[str, Any]]) -> list[dict[str, Any]]:
    keep = [entry for entry in log if "loss" in entry or "eval_loss" in entry]
    return [{k: v for k, v in entry.items() if k not in TIMES and "per_second" not in k} for entry in keep]


@pytest.mark.parametrize("saving", [{}, {"save_strategy": "steps", "save_steps": 3}], ids=["epochs", "within epochs"])
def test_a_broken_run_goes_on_as_if_nothing_had_happened(saving: dict[str, Any], tmp_path: Path) -> None:
    whole = build_trainer(tmp_path / "whole", **saving)
    whole.train()
    broken = build_trainer(tmp_path / "broken", **saving)
    broken.add_callback(BreakOff(8))
    with pytest.raises(Broken):
        broken.train()
    torch.manual_seed(99)  # whatever a new process draws before
    resumed = build_trainer(tmp_path / "broken", **saving)
    checkpoint = find_checkpoint(tmp_path / "broken", "auto")
    assert checkpoint is not None and checkpoint.endswith("-4" if not saving else "-6")
    resumed.train(resume_from_checkpoint=checkpoint)
    one, two = comparable(whole.state.log_history), comparable(resumed.state.log_history)
    assert len(one) == 6 and one == two
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name]), name


def test_time_and_memory_of_a_resumed_run_count_both_parts(tmp_path: Path) -> None:
    broken = build_trainer(tmp_path)
    broken.add_callback(BreakOff(10))
    with pytest.raises(Broken):
        broken.train()
    before = [entry for entry in broken.state.log_history if "train_seconds" in entry]
    resumed = build_trainer(tmp_path)
    resumed.train(resume_from_checkpoint=find_checkpoint(tmp_path, "auto"))
    timed = [entry for entry in resumed.state.log_history if "train_seconds" in entry]
    assert [entry["train_seconds"] for entry in timed[:2]] == [entry["train_seconds"] for entry in before]
    assert timed[2]["train_seconds"] > timed[1]["train_seconds"] > timed[0]["train_seconds"] > 0
    assert all(entry["images_per_second"] > 0 for entry in timed)
    assert timed[2]["peak_memory_mb"] >= timed[0]["peak_memory_mb"] > 50

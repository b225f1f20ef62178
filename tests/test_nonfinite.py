"""Steps with NaN or inf: skipped, counted, and many in a row end the run."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from hfseg.errors import RunError
from hfseg.trainer import SegTrainer

sys.path.insert(0, str(Path(__file__).parent))
from small_run import list_differences
from test_trainer import KeepGradients, arguments, batch_of, tiny_segformer


class KeepState(TrainerCallback):
    """Everything that a step changes, after each step."""

    def __init__(self) -> None:
        self.states: list[Any] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        optimizer = getattr(kwargs["optimizer"], "optimizer", kwargs["optimizer"])
        moments = [{k: v.clone() for k, v in optimizer.state[p].items()} for p in kwargs["model"].parameters()]
        self.states.append(({k: v.clone() for k, v in kwargs["model"].state_dict().items()}, moments))


def train(folder: Path, broken: dict[int, str], defer: bool = False, **settings: Any) -> tuple[SegTrainer, KeepState]:
    """Four steps of two images; those named in `broken` have a pixel, a loss or a gradient that is not finite."""
    samples = [{**sample, "files": f"{i}.jpg"} for i, sample in enumerate(batch_of(8))]
    defaults = dict(max_steps=4, per_device_train_batch_size=2, learning_rate=1e-2, logging_steps=4, seed=1)
    keep = KeepState()
    model = tiny_segformer()
    args = arguments(folder, **(defaults | settings))
    trainer = SegTrainer(model, args, train_dataset=samples, callbacks=[keep])
    trainer.defer_flag = defer
    compute_loss = trainer.compute_loss

    def compute_broken_loss(model: Any, inputs: Any, *rest: Any, **kwargs: Any) -> torch.Tensor:
        how = broken.get(trainer.state.global_step)
        if how == "pixel":
            inputs["pixel_values"][0, 0, 0, 0] = float("nan")
        loss = compute_loss(model, inputs, *rest, **kwargs)
        if how == "loss":  # without a gradient of its own
            return loss + float("inf")
        if how == "gradient":
            loss.register_hook(lambda gradient: gradient * float("inf"))
        return loss

    trainer.compute_loss = compute_broken_loss  # type: ignore[method-assign]
    trainer.train()
    return trainer, keep


@pytest.mark.parametrize("defer", [False, True], ids=["at once", "a step later"])
@pytest.mark.parametrize("how", ["pixel", "loss", "gradient"])
def test_a_step_that_is_not_finite_changes_nothing_and_is_counted(how: str, defer: bool, tmp_path: Path) -> None:
    trainer, keep = train(tmp_path, {1: how}, defer)
    (after_first, after_bad, after_third) = keep.states[:3]
    if not defer:
        tracked = {k for k in after_bad[0] if k.endswith("num_batches_tracked")}
        assert {k for k in after_bad[0] if not torch.equal(after_bad[0][k], after_first[0][k])} <= tracked
    assert not list_differences(after_first[1], after_bad[1])
    assert list_differences(after_bad[1], after_third[1])
    weights = {k: v for k, v in after_bad[0].items() if not k.endswith("num_batches_tracked")}
    assert all(torch.equal(v, after_first[0][k]) for k, v in weights.items())
    assert all(v.isfinite().all() for v in trainer.model.state_dict().values())
    entry = next(entry for entry in trainer.state.log_history if "loss" in entry)
    assert entry["skipped_steps"] == 1 and 0.5 < entry["loss"] < 3
    assert trainer.state.global_step == 4


@pytest.mark.parametrize("defer", [False, True], ids=["at once", "a step later"])
def test_many_in_a_row_end_the_run_with_the_files_names(defer: bool, tmp_path: Path) -> None:
    broken = {1: "pixel", 2: "loss"}
    train(tmp_path / "three", broken, defer, max_nonfinite_steps=3)
    with pytest.raises(RunError, match=r"in 2 steps in a row, up to step 3, .*: \d\.jpg, \d\.jpg\. ") as e:
        train(tmp_path / "two", broken, defer, max_nonfinite_steps=2)
    assert e.value.everywhere and "\n" not in str(e.value)


def test_with_accumulation_the_whole_step_is_skipped(tmp_path: Path) -> None:
    settings = dict(per_device_train_batch_size=1, gradient_accumulation_steps=2)
    _, keep = train(tmp_path, {1: "gradient"}, **settings)
    assert not list_differences(keep.states[0][1], keep.states[1][1])
    assert list_differences(keep.states[1][1], keep.states[2][1])


@pytest.mark.parametrize("clip", [0.0, 0.01])
def test_the_norm_in_the_log_is_that_of_the_gradients_before_clipping(clip: float, tmp_path: Path) -> None:
    keep = KeepGradients()
    args = arguments(tmp_path, max_steps=1, max_grad_norm=clip)
    trainer = SegTrainer(tiny_segformer(), args, train_dataset=batch_of(4), callbacks=[keep])
    trainer.train()
    norm = torch.cat([gradient.flatten() for gradient in keep.gradients.values()]).norm().item()
    logged = trainer.state.log_history[0]["grad_norm"]
    assert logged > 0.1 and norm == pytest.approx(clip or logged, rel=1e-3)

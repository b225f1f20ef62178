"""What makes a step faster changes nothing but rounding, and no step waits for the device."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters
from torch.profiler import ProfilerActivity, profile
from transformers import TrainerCallback

from hfseg.checkpoints import unwrap
from hfseg.data import load
from hfseg.data.augment import Augmentation
from hfseg.data.cache import prepare_cached
from hfseg.data.transforms import SegTransform, build_processor
from hfseg.errors import InputError
from hfseg.labels import Labels
from hfseg.models import build
from hfseg.trainer import SegTrainer

sys.path.insert(0, str(Path(__file__).parent))
from test_trainer import NAMES, arguments, batch_of, tiny_segformer

TRAINED: dict[str, Any] = dict(max_steps=4, learning_rate=1e-3, max_grad_norm=1.0, per_device_train_batch_size=4)


def train(folder: Path, model: Any = None, samples: int = 10, **settings: Any) -> SegTrainer:
    trainer = SegTrainer(
        model=model or tiny_segformer(),
        args=arguments(folder, **(TRAINED | settings)),
        train_dataset=batch_of(samples),
        eval_dataset=batch_of(6, seed=1),
        processing_class=build_processor((32, 32)),
    )
    trainer.train()
    return trainer


def losses(trainer: SegTrainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def weights(trainer: SegTrainer) -> dict[str, torch.Tensor]:
    return unwrap(trainer.model).state_dict()


def convolutions() -> Any:
    torch.manual_seed(0)
    return build("lraspp_mobilenet_v3_large", Labels(NAMES), weights="scratch")


@pytest.mark.parametrize("make", [tiny_segformer, convolutions])
def test_channels_last_changes_no_more_than_rounding(make: Any, tmp_path: Path) -> None:
    plain = train(tmp_path / "plain", make())
    fast = train(tmp_path / "fast", make(), channels_last=True)
    kernels = [p for p in unwrap(fast.model).parameters() if p.ndim == 4 and p.shape[1] > 1 and p.shape[2] > 1]
    assert kernels and all(kernel.is_contiguous(memory_format=torch.channels_last) for kernel in kernels)
    assert losses(fast) == pytest.approx(losses(plain), rel=1e-3)
    assert fast.evaluate()["eval_loss"] == pytest.approx(plain.evaluate()["eval_loss"], rel=1e-3)
    fast.save_model(str(tmp_path / "saved"))
    again = type(unwrap(fast.model)).from_pretrained(tmp_path / "saved")
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, weights(fast)[name]), name


def test_gradient_checkpointing_changes_nothing(tmp_path: Path) -> None:
    def model() -> Any:
        return tiny_segformer(hidden_dropout_prob=0.1, drop_path_rate=0.1)

    plain, saving = train(tmp_path / "a", model()), train(tmp_path / "b", model(), gradient_checkpointing=True)
    assert any(getattr(module, "gradient_checkpointing", False) for module in unwrap(saving.model).modules())
    assert losses(saving) == losses(plain)
    for name, tensor in weights(saving).items():
        assert torch.equal(tensor, weights(plain)[name]), name


def test_a_network_without_gradient_checkpointing_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="gradient_checkpointing: Torchvision.* gradient_accumulation_steps"):
        train(tmp_path, convolutions(), gradient_checkpointing=True)


class GraphsOfEpochs(TrainerCallback):
    """Number of graphs that were compiled by the end of each epoch."""

    def __init__(self) -> None:
        self.graphs: list[int] = []

    def on_evaluate(self, *args: Any, **kwargs: Any) -> None:
        self.graphs.append(counters["stats"]["unique_graphs"])


def test_nothing_is_compiled_anew_after_the_first_epoch(tmp_path: Path) -> None:
    """Of two batch sizes, in training and evaluation: each epoch ends with a smaller batch."""
    settings: dict[str, Any] = dict(max_steps=-1, num_train_epochs=3, eval_strategy="epoch", samples=10)
    plain = train(tmp_path / "plain", **settings)
    torch._dynamo.reset()
    counters.clear()
    count = GraphsOfEpochs()
    trainer = SegTrainer(
        model=tiny_segformer(),
        args=arguments(
            tmp_path / "compiled",
            **(TRAINED | dict(max_steps=-1, num_train_epochs=3, eval_strategy="epoch", torch_compile_backend="eager")),
        ),
        train_dataset=batch_of(10),
        eval_dataset=batch_of(6, seed=1),
        processing_class=build_processor((32, 32)),
        callbacks=[count],
    )
    trainer.train()
    assert isinstance(trainer.model_wrapped, torch._dynamo.OptimizedModule)
    assert count.graphs[0] >= 2 and count.graphs == [count.graphs[0]] * 3
    assert losses(trainer) == pytest.approx(losses(plain), rel=1e-5)
    for name, tensor in weights(trainer).items():
        assert torch.allclose(tensor, weights(plain)[name], atol=1e-5), name


def scalars_read(folder: Path, steps: int) -> int:
    """How often the host asks for a number of a tensor: on a GPU, it would wait for all that is under way."""
    trainer = SegTrainer(
        model=tiny_segformer(),
        args=arguments(folder, **(TRAINED | dict(max_steps=steps, logging_steps=steps))),
        train_dataset=batch_of(48),
        processing_class=build_processor((32, 32)),
    )
    trainer.defer_flag = True  # as on a GPU
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        trainer.train()
    reads = [event for event in profiler.events() if event.name in ("aten::_local_scalar_dense", "aten::nonzero")]
    return sum(not on_the_host(event) for event in reads)


def on_the_host(event: Any) -> bool:
    """Within AdamW, whose kernels on a GPU read nothing: on a CPU its own step counters are read."""
    while event is not None:
        if event.name.startswith("Optimizer.step"):
            return True
        event = event.cpu_parent
    return False


def test_a_step_reads_nothing_but_the_flag_of_the_step_before(tmp_path: Path) -> None:
    few, many = (scalars_read(tmp_path / str(steps), steps) for steps in (4, 12))
    assert few > 0, "the profiler sees no read at all"
    assert many - few == 8


def test_the_profiler_sees_a_step_that_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = SegTrainer.training_step

    def reading(self: SegTrainer, *args: Any, **kwargs: Any) -> torch.Tensor:
        loss = step(self, *args, **kwargs)
        loss.item()
        return loss

    monkeypatch.setattr(SegTrainer, "training_step", reading)
    few, many = (scalars_read(tmp_path / str(steps), steps) for steps in (4, 12))
    assert many - few == 16


class NoWaiting(TrainerCallback):
    """Any wait of the host for the GPU is an error, from the start of the third step to the end of the sixth."""

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 2:
            torch.cuda.set_sync_debug_mode("error")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 6:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(
    "settings",
    [{}, {"bf16": True}, {"max_grad_norm": 0.0}, {"resident_fraction": 0.0}, {"dataloader_num_workers": 2}],
    ids=["fp32", "bf16", "no clipping", "not resident", "workers"],
)
@pytest.mark.parametrize("make", [tiny_segformer, convolutions])
def test_a_gpu_is_not_waited_for(make: Any, settings: dict[str, Any], tmp_path: Path) -> None:
    dataset, labels = load("synthetic", num_images=64)
    processor = build_processor((32, 32))
    augmentation = Augmentation(horizontal_flip=0.5, photometric_distortion=True)
    transform = SegTransform(labels, processor, train=True, augmentation=augmentation)
    cache = "none" if "dataloader_num_workers" in settings else "resized"
    trainer = SegTrainer(
        model=make(),
        args=arguments(tmp_path, **(TRAINED | dict(use_cpu=False, max_steps=8, logging_steps=8) | settings)),
        train_dataset=prepare_cached(dataset["train"], transform, cache),
        processing_class=processor,
        callbacks=[NoWaiting()],
    )
    try:
        trainer.train()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert trainer.state.global_step == 8
    if settings == {}:  # the test sees a step that waits
        with pytest.raises(RuntimeError, match="synchroniz"):
            try:
                torch.cuda.set_sync_debug_mode("error")
                next(trainer.model.parameters()).sum().item()
            finally:
                torch.cuda.set_sync_debug_mode("default")


def test_adamw_is_fused_by_default(tmp_path: Path) -> None:
    optimizer: Any = train(tmp_path).optimizer
    inner: Any = getattr(optimizer, "optimizer", optimizer)
    assert isinstance(inner, torch.optim.AdamW) and inner.defaults["fused"]

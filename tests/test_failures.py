"""Known failures become one line that says what to change."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from hfseg.errors import InputError, RunError
from hfseg.failures import explain_failures
from hfseg.global_batch import keep_global_batch
from hfseg.manifest import MANIFEST


def trainer(training: bool = True, **settings: Any) -> Any:
    defaults = dict(per_device_train_batch_size=6, per_device_eval_batch_size=8, gradient_accumulation_steps=2)
    defaults |= dict(bf16=False, fp16=False, gradient_checkpointing=False, world_size=2, output_dir=".")
    model = SimpleNamespace(training=training, supports_gradient_checkpointing=True)
    return SimpleNamespace(args=SimpleNamespace(**(defaults | settings)), model=model)


def explain(error: BaseException, at: Any, size: tuple[int, int] = (512, 384)) -> RunError:
    with pytest.raises(RunError) as caught, explain_failures(at, "image_size", size):
        raise error
    assert "\n" not in str(caught.value) and caught.value.exit_code == 1
    assert "--resume_from_checkpoint auto" in str(caught.value)
    return caught.value


def allocate() -> None:
    torch.empty(2**50, dtype=torch.uint8)


def test_out_of_memory_names_the_keys_and_their_values() -> None:
    with pytest.raises(RuntimeError) as real:
        allocate()
    for error in (real.value, MemoryError(), torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")):
        text = str(explain(error, trainer()))
        assert "training step" in text
        assert "--per_device_train_batch_size 3 --gradient_accumulation_steps 4 (the same global batch)" in text
        assert "--image_size 384 288" in text and "--bf16 true" in text and "--gradient_checkpointing true" in text
    text = str(explain(MemoryError(), trainer(training=False)))
    assert "validation" in text and "--per_device_eval_batch_size 4" in text and "bf16" not in text
    one = trainer(per_device_train_batch_size=1, bf16=True, gradient_checkpointing=True)
    assert "take a smaller model" in str(explain(MemoryError(), one, (32, 32)))


def test_each_known_failure_has_its_line_and_others_keep_their_traceback() -> None:
    worker = RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")
    assert "data worker died" in str(explain(worker, trainer()))
    assert "Make room" in str(explain(OSError(28, "No space left on device"), trainer()))
    peer = RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:32765")
    assert explain(peer, trainer()).told
    for error in (RuntimeError("a bug"), InputError("given"), OSError(2, "No such file"), peer):
        with pytest.raises(type(error)), explain_failures(trainer(world_size=1), "image_size", (64, 64)):
            raise error


@pytest.mark.parametrize(
    ("processes", "batch", "accumulation", "expected"),
    [
        (1, 4, 1, (4, 4)),
        (4, 4, 1, (4, 1)),
        (8, 4, 1, (2, 1)),
        (2, 8, 1, (8, 1)),
        (1, 6, 1, (4, 4)),
        (1, 16, 1, (16, 1)),
    ],
)
def test_the_global_batch_stays_with_another_number_of_processes(
    processes: int, batch: int, accumulation: int, expected: tuple[int, int], tmp_path: Any
) -> None:
    about = '{"num_processes": 2, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}'
    (tmp_path / MANIFEST).write_text(about)
    args = SimpleNamespace(world_size=processes, per_device_train_batch_size=batch)
    args.gradient_accumulation_steps = accumulation
    keep_global_batch(args, tmp_path)
    assert (args.per_device_train_batch_size, args.gradient_accumulation_steps) == expected
    args.world_size = 3
    with pytest.raises(InputError, match="global batch of 16, which 3 processes can.t share"):
        keep_global_batch(args, tmp_path)

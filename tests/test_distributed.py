"""Two processes against one, and mixed precision: started by accelerate, as a user does.

On a CPU `--cpu --num_processes 2` silently starts one process; `--multi_gpu` with `--use_cpu` starts two, on gloo.
"""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

CHILD = Path(__file__).with_name("two_processes.py")


def launch(folder: Path, batch_size: int, *options: str) -> dict[str, Any]:
    folder.mkdir()
    out = folder / "result.pt"
    assert "world_size=" in run_child([*options, str(CHILD), str(out), str(batch_size)])
    return torch.load(out, weights_only=True)


def run_child(words: list[str]) -> str:
    command = [sys.executable, "-m", "accelerate.commands.launch", *words]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


ONE = ("--cpu", "--num_processes", "1", "--mixed_precision", "no")
TWO = ("--multi_gpu", "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no")


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return launch(tmp_path_factory.mktemp("one") / "run", 8, *ONE)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return launch(tmp_path_factory.mktemp("two") / "run", 4, *TWO)


def test_two_processes_are_two(one: dict[str, Any], two: dict[str, Any]) -> None:
    assert (one["world_size"], two["world_size"]) == (1, 2)
    assert two["distributed_type"] in ("DistributedType.MULTI_CPU", "MULTI_CPU", "DistributedType.MULTI_GPU")


def test_loss_and_gradient_are_those_of_one_process(one: dict[str, Any], two: dict[str, Any]) -> None:
    assert two["loss"] == pytest.approx(one["loss"], rel=1e-5)
    assert two["train_mean_iou"] == pytest.approx(one["train_mean_iou"], abs=1e-9)
    assert set(one["gradients"]) == set(two["gradients"]) and len(one["gradients"]) > 50
    for name, gradient in one["gradients"].items():
        torch.testing.assert_close(two["gradients"][name], gradient, rtol=1e-5, atol=1e-6)


def test_evaluation_is_that_of_one_process(one: dict[str, Any], two: dict[str, Any]) -> None:
    """Seven images of seven sizes on two processes: none counted twice, none lost."""
    assert two["matrix"].tolist() == one["matrix"].tolist()
    assert two["eval_loss"] == pytest.approx(one["eval_loss"], rel=1e-6)


def test_mixed_precision_of_accelerate_reaches_the_model(one: dict[str, Any], tmp_path: Path) -> None:
    low = launch(tmp_path / "bf16", 8, "--cpu", "--num_processes", "1", "--mixed_precision", "bf16")
    assert low["mixed_precision"] == "bf16" and low["weights"] == "torch.float32"
    assert one["activations"] == ["torch.float32"] and low["activations"] == ["torch.bfloat16"]
    assert low["loss"] == pytest.approx(one["loss"], rel=5e-2) and low["loss"] != one["loss"]


@pytest.mark.slow
def test_all_processes_evaluate_with_the_norms_of_the_first(tmp_path: Path) -> None:
    """Each has counted those of its own images; the first's are the ones that are saved."""
    run_child([*TWO, str(CHILD.with_name("two_processes_norms.py")), str(tmp_path)])
    first, second = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    name = "decode_head.batch_norm.running_mean"
    assert first["before"][name].std() > 0 and not torch.equal(first["before"][name], second["before"][name])
    seen = [*first["seen"], *second["seen"]]
    assert len(seen) == 2
    for buffers in seen:
        assert buffers and all(torch.equal(buffer, first["before"][key]) for key, buffer in buffers.items())


@pytest.mark.slow
def test_a_step_that_is_not_finite_on_one_process_is_skipped_on_both(tmp_path: Path) -> None:
    run_child([*TWO, str(CHILD.with_name("two_processes_nan.py")), str(tmp_path)])
    first, second = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    for how in ("pixel", "loss", "gradient"):
        assert first[how]["skipped"] == second[how]["skipped"] == 1 and 0.5 < first[how]["loss"] < 3
        for number, (one, other) in enumerate(zip(first[how]["weights"], second[how]["weights"])):
            for name, tensor in one.items():
                learned = "running" not in name and "num_batches" not in name  # each process has statistics of its own
                assert not learned or torch.equal(tensor, other[name]) and tensor.isfinite().all(), (how, number, name)
        before, after, third = first[how]["weights"][:3]
        moved = [name for name in before if not torch.equal(before[name], after[name])]
        assert all(name.endswith("num_batches_tracked") for name in moved)
        assert any(not torch.equal(third[name], after[name]) for name in after)
    for end in (first["end"], second["end"]):
        assert end["everywhere"] and "in 2 steps in a row, up to step 3" in end["message"]
        assert end["message"].count(".jpg") == 4  # of both processes


LEAVING = """
import sys
sys.setswitchinterval(1000)  # Python's lock changes hands only where a thread waits

import torch
from accelerate import Accelerator
from hfseg.workers import leave

accelerator = Accelerator(cpu=True)
for _ in range(20):
    gathered = accelerator.gather(torch.ones(1000))
leave(accelerator)
"""


def test_gloo_frees_what_it_gathered_before_python_ends(tmp_path: Path) -> None:
    """Without `leave`, every other such pair of processes aborts (Python 3.11, torch 2.14)."""
    script = tmp_path / "leaving.py"
    script.write_text(LEAVING)
    run_child([*TWO, str(script)])

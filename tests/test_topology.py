"""accelerate's files in recipes/accelerate: what is asked for is what starts."""

import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import yaml

from hfseg.cli import main
from hfseg.errors import InputError
from hfseg.topology import plan_topology

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "recipes" / "accelerate"
QUICK = ["recipes/segformer_quickstart.json", "--num_images", "8", "--image_size", "32", "--max_steps", "1"]
GPUS = torch.cuda.device_count()
DEVICE = "cuda" if GPUS else "cpu"
# File, processes asked for -> processes, device and distributed type that are active.
EXPECTED = {
    ("cpu", None): (1, "cpu", "NO"),
    ("cpu", 2): (2, "cpu", "MULTI_CPU"),
    ("single_gpu", None): (1, DEVICE, "NO"),
    ("multi_gpu", None): (2, DEVICE, "MULTI_GPU" if GPUS else "MULTI_CPU"),
}


def start(*options: object) -> list[str]:
    return [sys.executable, "-m", "hfseg.cli", "train", *QUICK, *map(str, options)]


@pytest.mark.parametrize(
    ("name", "count"),
    [pytest.param(*case, marks=pytest.mark.slow if case[0] != "multi_gpu" else ()) for case in EXPECTED],
)
def test_what_is_asked_for_is_active(name: str, count: int | None, tmp_path: Path) -> None:
    processes, device, kind = EXPECTED[name, count]
    if device == "cuda" and processes > GPUS:
        pytest.skip(f"{name}.yaml needs {processes} GPUs, here are {GPUS}")
    options = ["--config_file", FOLDER / f"{name}.yaml", "--output_dir", tmp_path / "run"]
    options += [] if count is None else ["--num_processes", count]
    done = subprocess.run(start(*options), cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    active = re.search(r"trained in \d+ s on (\d+) x (\w+) \((\w+)\)", done.stderr)
    assert active is not None and active.groups() == (str(processes), device, kind)
    assert ("there is no GPU here" in done.stderr) == ("gpu" in name and not GPUS)
    assert (tmp_path / "run" / "best" / "model.safetensors").is_file()


@pytest.mark.slow
def test_stock_accelerate_starts_one_of_two(tmp_path: Path) -> None:
    """The same file and number given to accelerate itself: one process, without a word."""
    out = tmp_path / "result.pt"
    options = ["--config_file", str(FOLDER / "cpu.yaml"), "--num_processes", "2"]
    command = [sys.executable, "-m", "accelerate.commands.launch", *options]
    command += [str(ROOT / "tests" / "two_processes.py"), str(out), "8"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert torch.load(out, weights_only=True)["world_size"] == 1, "accelerate starts both now: --multi_gpu can go"


def test_every_file_is_planned() -> None:
    files = sorted(FOLDER.glob("*.yaml"))
    assert {path.stem for path in files} >= {name for name, _ in EXPECTED}
    for path in files:
        text = path.read_text(encoding="utf-8")
        assert f"--config_file recipes/accelerate/{path.name}" in text, "its command stands at its head"
        plan = plan_topology(None if not GPUS else 1, str(path))
        assert plan.num_processes == (1 if GPUS else yaml.safe_load(text)["num_processes"])
        if path.stem in ("fsdp", "deepspeed_zero2"):
            assert "not run here" in text, "it needs GPUs, and says that nobody has tried it"


def test_a_machine_is_told_its_place() -> None:
    file = str(FOLDER / "two_nodes.yaml")
    plan = plan_topology(None, file, {"machine_rank": "1", "main_process_ip": "10.0.0.1", "main_process_port": "2000"})
    words = " ".join(plan.launcher)
    assert "--machine_rank 1 --main_process_ip 10.0.0.1 --main_process_port 2000" in words
    with pytest.raises(InputError, match="machine_rank is '2'; give 0 to 1"):
        plan_topology(None, file, {"machine_rank": "2"})
    with pytest.raises(InputError, match="main_process_port is 'x'; give a port's number"):
        plan_topology(None, file, {"main_process_port": "x"})
    with pytest.raises(InputError, match="machine_rank needs --config_file"):
        plan_topology(None, None, {"machine_rank": "1"})


def test_fsdp_of_version_1_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "fsdp.yaml"
    file.write_text((FOLDER / "fsdp.yaml").read_text().replace("fsdp_version: 2", "fsdp_version: 1"))
    with pytest.raises(InputError, match="give fsdp_version 2"):
        plan_topology(2, str(file))


def test_mistakes_get_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    broken = tmp_path / "broken.yaml"
    for text, message in (
        ("distributed_type: 'NO'\ngpus: 3", "unknown keys"),
        ("[1, 2]", "is no accelerate"),
        ("a: [", "is no accelerate"),
    ):
        broken.write_text(text)
        with pytest.raises(InputError, match=message) as error:
            plan_topology(None, str(broken))
        assert "\n" not in str(error.value)
    monkeypatch.chdir(ROOT)
    assert main(["train", *QUICK, "--config_file", "recipes/accelerate/cpus.yaml"]) == 2
    assert "There is no accelerate configuration recipes/accelerate/cpus.yaml" in capsys.readouterr().err
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(InputError, match="starts 2 processes, one a GPU, and there are 1 GPUs: give --num_processes 1"):
        plan_topology(None, str(FOLDER / "multi_gpu.yaml"))
    assert plan_topology(1, str(FOLDER / "multi_gpu.yaml")).num_processes == 1


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2])
def test_a_signal_ends_all_processes(count: int, tmp_path: Path) -> None:
    options = ["--config_file", FOLDER / "cpu.yaml", "--num_processes", count, "--max_steps", 100000]
    command = start(*options, "--output_dir", tmp_path / "run")
    with (tmp_path / "log").open("w") as log:
        process = psutil.Popen(command, cwd=ROOT, stdout=log, stderr=log)
    trainers: list[psutil.Process] = []
    for _ in range(600):
        children = process.children(recursive=True)
        trainers = [child for child in children if any(part.endswith("train.py") for part in child.cmdline())]
        if "pixels" in (tmp_path / "log").read_text() or process.poll() is not None:
            break
        time.sleep(0.2)
    everyone = process.children(recursive=True)
    assert len(trainers) >= count, (tmp_path / "log").read_text()
    process.send_signal(signal.SIGTERM)
    _, alive = psutil.wait_procs([process, *everyone], timeout=90)
    for child in alive:
        child.kill()
    assert not alive and process.returncode != 0

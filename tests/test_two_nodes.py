"""Two machines for real, as two network namespaces with addresses of their own: they train, one dies, both go on."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from small_run import ROOT, command, list_differences, read_run, write_recipe
from test_faults import Run, assert_gone

from hfseg.checkpoints import find_checkpoint

pytestmark = pytest.mark.slow

CONFIG = ROOT / "recipes" / "accelerate" / "two_nodes.yaml"
NAMES = ("hfseg0", "hfseg1")
ADDRESSES = ("10.213.7.1", "10.213.7.2")


def ip(*words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["ip", *words], check=check, capture_output=True, text=True)


@pytest.fixture(scope="module")
def machines() -> Iterator[list[list[str]]]:
    """How a command is started on each: in a namespace of its own, or, where none can be made, side by side here."""
    made = False
    if shutil.which("ip") and os.geteuid() == 0:
        for name in NAMES:
            ip("netns", "del", name, check=False)
        made = all(ip("netns", "add", name, check=False).returncode == 0 for name in NAMES)
    if not made:
        yield [[], []]
        return
    try:
        ip("link", "add", NAMES[0], "netns", NAMES[0], "type", "veth", "peer", "name", NAMES[1], "netns", NAMES[1])
        for name, address in zip(NAMES, ADDRESSES):
            ip("-n", name, "address", "add", f"{address}/24", "dev", name)
            for device in ("lo", name):
                ip("-n", name, "link", "set", device, "up")
        yield [["ip", "netns", "exec", name] for name in NAMES]
    finally:
        for name in NAMES:
            ip("netns", "del", name, check=False)


class Machine(Run):
    """`hfseg train` as its owner starts it on one of the two machines."""

    def __init__(self, prefix: list[str], rank: int, recipe: Path, folder: Path, *options: Any) -> None:
        self.folder, self.log = folder, folder.with_name(f"{folder.name}_{rank}.log")
        address = ADDRESSES[0] if prefix else "127.0.0.1"
        where = ("--config_file", CONFIG, "--main_process_ip", address, "--main_process_port", 29517)
        words = [*prefix, *command(recipe, folder, *where, "--machine_rank", rank, *options)]
        environment = os.environ | {"GLOO_SOCKET_IFNAME": NAMES[rank] if prefix else "lo", "OMP_NUM_THREADS": "1"}
        with self.log.open("a") as file:
            self.process = psutil.Popen(
                words, cwd=ROOT, stdout=file, stderr=file, env=environment, start_new_session=True
            )
        self.seen = [self.process]


def start(machines: list[list[str]], recipe: Path, folder: Path, *options: Any) -> list[Machine]:
    return [Machine(prefix, rank, recipe, folder, *options) for rank, prefix in enumerate(machines)]


def finish(runs: list[Machine]) -> None:
    for run in runs:
        assert run.end(600) == 0, run.text()[-3000:]


def test_one_of_two_machines_dies_and_both_go_on(machines: list[list[str]], tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, per_device_train_batch_size=2)
    whole = start(machines, recipe, tmp_path / "whole")
    finish(whole)
    assert "on 2 x cpu (MULTI_CPU)" in whole[0].text()

    runs = start(machines, recipe, tmp_path / "run")
    runs[0].wait_for_step(6)
    everyone = [process for run in runs for process in run.everyone()]
    for process in runs[1].seen:  # the power of the second machine
        process.send_signal(signal.SIGKILL)
    assert runs[0].end(60) != 0, runs[0].text()[-3000:]
    assert_gone(everyone, 10)
    assert len(runs[0].told()) == 1 and "Traceback" not in runs[0].text(), runs[0].text()[-3000:]
    assert find_checkpoint(tmp_path / "run", "auto")

    both = start(machines, recipe, tmp_path / "run", "--resume_from_checkpoint", "auto")
    finish(both)
    assert not any("can't be read" in run.text() for run in both)
    assert not list_differences(read_run(tmp_path / "whole"), read_run(tmp_path / "run"))

"""Runs a baseline and ours in turn, and says how they compare.

A benchmark is a file with `run(options) -> list of comparisons`; each ends with `main(run)`. The samples of a
comparison alternate, so that what else the machine does falls on both.
"""

import argparse
import contextlib
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Sample = Callable[[], float]  # one measurement, in the unit of its comparison
ROOT = Path(__file__).parents[1]


@dataclass
class Options:
    """How a benchmark is run.

    Attributes:
        rounds: samples of each side.
        quick: small sizes, for a look at whether it runs; its numbers mean nothing.
        trace: file for a torch.profiler trace of ours, opened by chrome://tracing or Perfetto.
    """

    rounds: int = 5
    quick: bool = False
    trace: Path | None = None


def compare(
    name: str,
    baseline: Sample | float,
    ours: Sample,
    *,
    unit: str,
    target: float | None = None,
    limit: Sample | float | None = None,
    rounds: int = 5,
) -> dict[str, Any]:
    """Measures both, and the limit where there is one, in turn; prints medians, spread, ratio.

    Args:
        name: as the results list it.
        baseline: stock behaviour, or a number that must be held.
        ours: what is compared with it.
        unit: `.../s` means more is better; of all others (s, MB) less is.
        target: least ratio.
        limit: the best there can be, as the model's own forward and backward.
        rounds: samples of each.

    Returns:
        name, baseline, ours, unit, ratio (how many times better, higher is better), target, share_of_limit (0 to 1).
    """
    sides = {"baseline": baseline, "ours": ours, "limit": limit}
    samples: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(rounds):
        for side, sample in sides.items():
            if sample is not None:
                samples[side].append(sample() if callable(sample) else sample)
    middle = {side: statistics.median(values) for side, values in samples.items() if values}

    def gain(one: str, other: str) -> float:
        """How many times better `other` is."""
        return middle[other] / middle[one] if unit.endswith("/s") else middle[one] / middle[other]

    row = {
        "name": name,
        "baseline": middle["baseline"],
        "ours": middle["ours"],
        "unit": unit,
        "ratio": gain("baseline", "ours"),
        "target": target,
        "share_of_limit": gain("limit", "ours") if limit is not None else None,
    }
    print(describe(row, samples), flush=True)
    return row


def describe(row: dict[str, Any], samples: dict[str, list[float]]) -> str:
    """A comparison as one paragraph: each side's median and its range."""
    lines = [row["name"]]
    for side, values in samples.items():
        if values:
            spread = f"  ({min(values):.4g} to {max(values):.4g}, {len(values)} runs)" if len(set(values)) > 1 else ""
            lines.append(f"  {side:9} {statistics.median(values):10.4g} {row['unit']}{spread}")
    verdict = f"  ratio     {row['ratio']:10.3f}"
    if row["target"] is not None:
        verdict += f" (target {row['target']:.3f}: {'met' if row['ratio'] >= row['target'] else 'not met'})"
    if row["share_of_limit"] is not None:
        verdict += f"  {100 * row['share_of_limit']:.0f} % of the limit"
    return "\n".join([*lines, verdict])


def seconds(function: Callable[[], object], warm_up: int = 1) -> Sample:
    """A sample that takes a call's time, after `warm_up` calls that are not measured."""
    state = {"left": warm_up}

    def sample() -> float:
        while state["left"] > 0:
            state["left"] -= 1
            function()
        _wait()
        start = time.perf_counter()
        function()
        _wait()
        return time.perf_counter() - start

    return sample


def rate(function: Callable[[], object], count: int, warm_up: int = 1) -> Sample:
    """A sample in things per second: a call handles `count` of them."""
    once = seconds(function, warm_up)
    return lambda: count / once()


def in_process(module: str, *arguments: str, key: str) -> Sample:
    """A sample from a process of its own, where memory or imports matter.

    Args:
        module, arguments: see `Recorded`.
        key: which of the process's numbers is taken.
    """
    return lambda: Recorded(module, *arguments).sample(key)()


class Recorded:
    """A process of its own whose numbers several comparisons share: it runs once a round.

    Args:
        module: run as `python -m module arguments`; prints one JSON object in its last line (see `report`).
    """

    def __init__(self, module: str, *arguments: str) -> None:
        self.command = [sys.executable, "-m", module, *arguments]
        self.rounds: list[dict[str, float]] = []

    def sample(self, key: str) -> Sample:
        """One of its numbers, from the first round on."""
        places = itertools.count()

        def take() -> float:
            place = next(places)
            while len(self.rounds) <= place:
                self.rounds.append(self._run())
            return self.rounds[place][key]

        return take

    def _run(self) -> dict[str, float]:
        result = subprocess.run(self.command, cwd=ROOT, capture_output=True, text=True)
        if result.returncode:
            raise RuntimeError(f"{' '.join(self.command)} ended with {result.returncode}:\n{result.stderr[-2000:]}")
        return json.loads(result.stdout.splitlines()[-1])


def report(**numbers: float) -> None:
    """What a process of its own prints last for `in_process`."""
    print(json.dumps({"peak_mb": peak_mb(), **numbers}))


def peak_mb() -> float:
    """The largest memory of this process so far, in 2**20 bytes; on a CUDA device that of its tensors.

    From /proc where there is one: ru_maxrss of a child begins at what its parent had when it was started.
    """
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / 2**20
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 2**10
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


@contextlib.contextmanager
def tracing(path: Path | None) -> Iterator[None]:
    """Writes a torch.profiler trace of what runs inside, where a file is given."""
    if path is None:
        yield
        return
    from torch.profiler import profile

    with profile(record_shapes=True, profile_memory=True) as profiler:
        yield
    profiler.export_chrome_trace(str(path))
    print(profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=20))


def test_data(name: str) -> Path:
    """Folder of real images, below HFSEG_TEST_DATA; the benchmark stops where there is none."""
    folder = Path(os.environ.get("HFSEG_TEST_DATA", "")).resolve() / name
    if not os.environ.get("HFSEG_TEST_DATA") or not folder.is_dir():
        sys.exit(f"Set HFSEG_TEST_DATA to a folder that holds {name}/ (see CONTRIBUTING.md).")
    return folder


def main(run: Callable[[Options], list[dict[str, Any]]], argv: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """The command line of a benchmark file."""
    parser = argparse.ArgumentParser(description=sys.modules[run.__module__].__doc__)
    parser.add_argument("--rounds", type=int, help="samples of each side")
    parser.add_argument("--quick", action="store_true", help="small sizes, one sample: does it run?")
    parser.add_argument("--trace", type=Path, help="write a torch.profiler trace of ours to this file")
    parser.add_argument("--json", type=Path, help="write the comparisons to this file")
    given = parser.parse_args(argv)
    rounds = given.rounds or (1 if given.quick else Options.rounds)
    print(f"{Path(sys.argv[0]).stem}: {machine()}", flush=True)
    rows = run(Options(rounds, given.quick, given.trace))
    if given.json is not None:
        given.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return rows


def machine() -> str:
    """What the numbers depend on: threads, cores, how busy the machine is."""
    import torch

    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    return f"{device}, {torch.get_num_threads()} threads on {os.cpu_count()} cores{load}, torch {torch.__version__}"


def _wait() -> None:
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.synchronize()

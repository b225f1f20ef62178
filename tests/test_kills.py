"""SIGKILL at random moments; `make faults` does fifty."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_killed_runs_end_bit_equal(tmp_path: Path) -> None:
    script = [sys.executable, str(ROOT / "benchmarks" / "faults.py"), "--kills", "3", "--in_saves", "1"]
    folders = ["--output_dir", str(tmp_path / "runs"), "--results", str(tmp_path)]
    result = subprocess.run([*script, *folders], capture_output=True, text=True, timeout=900)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
    assert "3 of 3 killed runs resumed and ended bit-equal" in (tmp_path / "faults.md").read_text()

"""Runs every benchmark in a process of its own and writes benchmarks/results.json.

python -m benchmarks [--gpu] [--quick]   # --gpu: also those that need one
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.measure import ROOT

# In the order of the table in results/benchmarks.md.
BENCHMARKS = ("study_run", "input_cached", "input_crops", "evaluation", "loss", "inference", "scale", "import_time")
ON_GPU = ("large",)


def main() -> int:
    rows, failed = [], []
    options = [word for word in sys.argv[1:] if word != "--gpu"]
    for name in (*BENCHMARKS, *(ON_GPU if "--gpu" in sys.argv else ())):
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "rows.json"
            command = [sys.executable, "-m", f"benchmarks.{name}", "--json", str(file), *options]
            if subprocess.run(command, cwd=ROOT).returncode:
                failed.append(name)
            else:
                rows += json.loads(file.read_text())
    path = ROOT / "benchmarks" / "results.json"
    path.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    print(f"\n{'':72} {'baseline':>10} {'ours':>10} unit       ratio  target")
    for row in rows:
        target = "     -" if row["target"] is None else f"{row['target']:6.2f}"
        numbers = f"{row['baseline']:10.4g} {row['ours']:10.4g} {row['unit']:8} {row['ratio']:7.2f}  {target}"
        print(f"{row['name'][:72]:72} {numbers}")
    print(f"\nwritten to {path}" + (f"; these failed: {', '.join(failed)}" if failed else ""))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

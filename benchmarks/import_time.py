"""How long `hfseg --help` and `import hfseg` take: at most 0.3 s, the start of Python included."""

import subprocess
import sys
from typing import Any

from benchmarks.measure import ROOT, Options, compare, main, seconds

AT_MOST = 0.3  # seconds
COMMANDS = {
    "hfseg --help": ["-m", "hfseg.cli", "--help"],
    "import hfseg": ["-c", "import hfseg"],
}


def run(options: Options) -> list[dict[str, Any]]:
    rows = []
    for name, arguments in COMMANDS.items():

        def start(arguments: list[str] = arguments) -> None:
            subprocess.run([sys.executable, *arguments], cwd=ROOT, check=True, capture_output=True)

        bare = seconds(lambda: subprocess.run([sys.executable, "-c", "pass"], check=True))
        rows.append(
            compare(name, AT_MOST, seconds(start), unit="s", target=1.0, limit=bare, rounds=2 * options.rounds + 1)
        )
    return rows


if __name__ == "__main__":
    main(run)

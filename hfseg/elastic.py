"""`accelerate launch` in a process of its own, run by `hfseg train`: where a process fails, it says so in one line."""

import logging
import os
import signal
import sys
from pathlib import Path
from subprocess import CalledProcessError

from hfseg.errors import EXIT_CODE_FILE, GO_ON


def main() -> int:
    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    try:
        launch_command(launch_command_parser().parse_args())
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        return report(f"Process {rank}", failure.exitcode)
    except CalledProcessError as error:
        return report("The process", error.returncode)
    except SignalException as error:
        return 128 + error.sigval
    return 0


def report(who: str, code: int) -> int:
    """Says how a process ended, unless it has said so itself; the exit code as a shell gives it."""
    if not Path(os.environ.get(EXIT_CODE_FILE, "")).is_file():
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        # The process may have ended within its bar's line.
        print(f"\nhfseg: error: {who} {how}, and the training with it. {GO_ON}", file=sys.stderr)
    return 128 - code if code < 0 else code


if __name__ == "__main__":
    sys.exit(main())

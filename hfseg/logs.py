"""What a command prints: our own lines, warnings of the libraries, and a user's mistake as one line."""

import logging
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from hfseg.errors import InputError, first_line


def show_errors(command: Callable[..., int], argv: Sequence[str] | None = None) -> int:
    """Runs a command; a user's mistake becomes one line on stderr and exit code 2."""
    try:
        return command(argv)
    except InputError as error:
        if int(os.environ.get("RANK", "0")) == 0:
            tqdm.write(f"hfseg: error: {first_line(error)}", file=sys.stderr)  # on a line of its own, below a bar
        return 2
    except KeyboardInterrupt:
        print("hfseg: interrupted", file=sys.stderr)
        return 130


FILE_LOGGER = "hfseg.file"  # what the log file has and the screen shows in another way


def start_log(args: Any = None) -> None:
    """Our INFO lines from the main process, everybody's warnings, on stderr."""
    main = args is None or args.process_index == 0
    logging.basicConfig(format="%(message)s", level=logging.WARNING, force=True)
    logging.getLogger("hfseg").setLevel(logging.INFO if main else logging.ERROR)
    # Remarks that a user of this package can't act on.
    warnings.filterwarnings("ignore", message=".*pin_memory.*")
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    logging.getLogger("transformers.trainer_utils").setLevel(logging.ERROR)  # "mtime may not be reliable"
    import datasets
    import transformers

    transformers.utils.logging.disable_progress_bar()
    datasets.utils.logging.disable_progress_bar()
    if not main:
        transformers.utils.logging.set_verbosity_error()


def start_log_file(path: str | Path) -> None:
    """Everything that is logged from here on also goes to a file, with the time; an older one is continued."""
    root = logging.getLogger()
    for old in [handler for handler in root.handlers if isinstance(handler, logging.FileHandler)]:
        root.removeHandler(old)
        old.close()
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, encoding="utf-8", delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s  %(message)s", datefmt="%Y-%m-%d %H:%M:%S"))
    root.addHandler(handler)
    only_file = logging.getLogger(FILE_LOGGER)
    only_file.handlers, only_file.propagate = [handler], False

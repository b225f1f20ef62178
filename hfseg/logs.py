"""What a command prints: our own lines, warnings of the libraries, and a user's mistake as one line."""

import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
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
    warnings.filterwarnings("ignore", message="Image size .* exceeds limit")  # hfseg.images refuses such a picture
    logging.getLogger("transformers.trainer_utils").setLevel(logging.ERROR)  # "mtime may not be reliable"
    import datasets
    import transformers

    transformers.utils.logging.disable_progress_bar()
    datasets.utils.logging.disable_progress_bar()
    if not main:
        transformers.utils.logging.set_verbosity_error()


@contextmanager
def log_file(folder: Path | None) -> Iterator[None]:
    """Everything that is logged within also goes to train.log in the folder, with the time; an older one is continued.

    Args:
        folder: None writes nothing. Where a mistake ends the run before its first entry in trainer_state.json, the log
            is gone again, so that the folder counts as unused.
    """
    if folder is None:
        yield
        return
    path, root, only_file = folder / "train.log", logging.getLogger(), logging.getLogger(FILE_LOGGER)
    folder.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, encoding="utf-8", delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s  %(message)s", datefmt="%Y-%m-%d %H:%M:%S"))
    root.addHandler(handler)
    only_file.handlers, only_file.propagate = [handler], False
    try:
        yield
    except InputError:
        if not (folder / "trainer_state.json").is_file():
            handler.close()
            path.unlink(missing_ok=True)
        raise
    finally:
        root.removeHandler(handler)
        only_file.removeHandler(handler)
        handler.close()

"""What a command prints: our own lines, warnings of the libraries, and a user's mistake as one line."""

import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from hfseg.errors import EXIT_CODE_FILE, InputError, RunError, Stopped, first_line
from hfseg.workers import let_gloo_finish


def show_errors(command: Callable[..., int], argv: Sequence[str] | None = None) -> int:
    """Runs a command; a user's mistake becomes one line on stderr and exit code 2, a run that ended early its own."""
    previous = _handle_sigterm()
    try:
        return command(argv)
    except InputError as error:
        return _end(first_line(error), 2)
    except RunError as error:
        return _end(str(error), error.exit_code, everywhere=error.everywhere, told=error.told)
    except KeyboardInterrupt:
        print("hfseg: interrupted", file=sys.stderr)
        return 130
    finally:
        if previous is not None:
            signal.signal(signal.SIGTERM, previous)


def _handle_sigterm() -> Any:
    """SIGTERM ends a command as Ctrl-C does; training has handlers of its own (see `hfseg.stops`)."""
    if threading.current_thread() is not threading.main_thread():
        return None

    def stop(number: int, frame: object) -> None:
        raise Stopped("Stopped by SIGTERM.", number)

    return signal.signal(signal.SIGTERM, stop)


def _end(line: str, code: int, *, everywhere: bool = False, told: bool = False) -> int:
    """Prints a command's last line, once; the exit code.

    Of several processes, accelerate keeps no exit code, and prints a traceback for one that is not 0. Those that all
    end at the same step give theirs in a file; one that ends alone must fail, so that the others don't wait for it.
    """
    path = os.environ.get(EXIT_CODE_FILE)
    if int(os.environ.get("RANK", "0")) == 0 and not (told and path):
        tqdm.write(f"hfseg: error: {line}", file=sys.stderr)  # on a line of its own, below a bar
    tell = path is not None and not told
    if tell:
        Path(str(path)).write_text(str(code), encoding="utf-8")
    if everywhere:  # one that ends alone gets a SIGTERM of the launcher meanwhile
        let_gloo_finish()
    return 0 if tell and everywhere else code


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


class _LogFile(logging.FileHandler):
    def handleError(self, record: logging.LogRecord) -> None:
        """A full disk costs lines of the log, and no traceback for each of them."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)


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
    handler = _LogFile(path, encoding="utf-8", delay=True)
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
    except RunError as error:
        only_file.error(str(error))
        raise
    finally:
        root.removeHandler(handler)
        only_file.removeHandler(handler)
        handler.close()

"""Exceptions whose message is one line for the user: mistakes that a user can mend, and runs that ended early."""


class InputError(ValueError):
    """Something that a user gave can't be used.

    The message is one line: what was given, what is allowed, what to do. Commands print it and end with exit
    code 2; every other exception keeps its traceback, since it is our mistake.
    """


GO_ON = "Go on with the same command and --resume_from_checkpoint auto."

# In the environment of processes that `hfseg train` started: a file for the exit code, which accelerate does not keep.
EXIT_CODE_FILE = "HFSEG_EXIT_CODE_FILE"


class RunError(Exception):
    """A run that ended early, through no mistake in what was given; its checkpoints stay.

    The message is one line: what happened, what is lost, how to go on. Commands print it and end with `exit_code`.
    """

    exit_code = 1
    everywhere = False  # all processes raise it at the same step
    told = False  # who started this process has more to say of it


class Stopped(RunError):
    """A run that a signal ended, after its checkpoint was written.

    Args:
        message: the line.
        number: of the signal; the exit code is 128 + this, as a shell gives it.
    """

    everywhere = True

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + number


def first_line(error: BaseException) -> str:
    """The message of an InputError, also of one that a DataLoader worker wrapped in its traceback.

    Line breaks and control characters, which a file's name may hold, are written as escapes.
    """
    text = str(error).rsplit("InputError: ", 1)[-1].strip()
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def near_names(name: str, allowed: list[str] | tuple[str, ...]) -> str:
    """' Did you mean "x"?' for a mistyped name, or an empty string when nothing is near."""
    import difflib

    near = difflib.get_close_matches(name, allowed, n=3, cutoff=0.6)
    return f" Did you mean {' or '.join(repr(n) for n in near)}?" if near else ""

"""The one exception for mistakes that a user can mend."""


class InputError(ValueError):
    """Something that a user gave can't be used.

    The message is one line: what was given, what is allowed, what to do. Commands print it and end with exit
    code 2; every other exception keeps its traceback, since it is our mistake.
    """


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

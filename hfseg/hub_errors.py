"""What the Hub's errors mean to a user: one line each, without a traceback and without a token."""

import re
from collections.abc import Iterator

from huggingface_hub import errors


def describe_hub_error(error: BaseException, repo_id: str, revision: str | None = None) -> str | None:
    """One sentence on what went wrong and what to do, or None where the Hub has no part in it.

    Args:
        error: what huggingface_hub or transformers raised; the causes behind it are looked at as well.
        repo_id: the repo that was asked for.
        revision: the branch, tag or commit that was asked for.
    """
    for cause in _causes(error):
        if isinstance(cause, errors.HFValidationError):
            return (
                f"{repo_id!r} is no name of a repo on the Hub: give user/name, of letters, digits, '-', '_' and '.', "
                "without '..' or '--'."
            )
        if isinstance(cause, errors.LocalTokenNotFoundError):
            return "There is no token: log in with `hf auth login`, or set HF_TOKEN."
        if isinstance(cause, errors.GatedRepoError):
            return (
                f"{repo_id} is gated: ask for access on its page on the Hub, and log in with `hf auth login` or set "
                "HF_TOKEN."
            )
        if isinstance(cause, errors.RevisionNotFoundError):
            return f"{repo_id} has no revision {revision or 'main'!r}: give one of its branches, tags or commits."
        status = status_of(cause)
        if status == 401 and re.search("invalid (credentials|user token)", str(cause), re.IGNORECASE):
            return "The Hub does not know this token: log in anew with `hf auth login`, or correct HF_TOKEN."
        if isinstance(cause, errors.RepositoryNotFoundError):
            return (
                f"The Hub has no repo {repo_id}, or it is private and asked for without a token that may read it: "
                "correct the name, or log in with `hf auth login` or set HF_TOKEN."
            )
        if status in (401, 403):
            return (
                f"The Hub refuses {repo_id} to this token ({status}): give one with write access to it, by "
                "`hf auth login` or HF_TOKEN."
            )
        if status is not None and is_transient(cause):
            return f"The Hub answers {status} at the moment; try again later."
        if status is not None:
            return f"The Hub answers {status}: {_first_line(cause)}"
        if isinstance(cause, errors.HTTPError | ConnectionError | TimeoutError | errors.OfflineModeIsEnabled):
            return f"The Hub can't be reached ({type(cause).__name__}); check the network, or try again later."
    return None


def is_transient(error: BaseException) -> bool:
    """Whether trying again may help: 5xx, rate limits, cut connections, a commit that came in between.

    What refuses for good is known; everything else (a Xet upload's RuntimeError, a proxy's page in the place of JSON)
    is worth another try.
    """
    if isinstance(error, errors.HFValidationError | errors.LocalTokenNotFoundError | FileNotFoundError):
        return False
    status = status_of(error)
    return status is None or status >= 500 or status in (408, 409, 412, 425, 429)


def status_of(error: BaseException) -> int | None:
    """The HTTP status behind an error."""
    response = getattr(error, "response", None)
    return getattr(response, "status_code", None)


def seconds_to_wait(error: BaseException, at_most: float = 300.0) -> float:
    """What the Hub asks to wait before the next try: its Retry-After, or the end of its rate limit's window."""
    response = getattr(error, "response", None)
    headers = getattr(response, "headers", None) or {}
    found = re.fullmatch(r"\s*(\d+)\s*", headers.get("Retry-After", ""))
    if found is None and status_of(error) == 429:
        found = re.search(r"\bt=(\d+)", headers.get("RateLimit", ""))
    return min(float(found[1]), at_most) if found else 0.0


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what stands behind it, the nearest first."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)

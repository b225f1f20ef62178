"""What a run says of its pushes at the end."""

import shlex
from types import SimpleNamespace
from typing import Any

import pytest

from hfseg.publish import report_broken_push, report_push


def queue_of(commit: str | None = None, failure: str | None = None, arrived: str | None = None) -> Any:
    repo = SimpleNamespace(repo_id="user/m", url="https://hub/user/m")
    return SimpleNamespace(commit=commit, failure=failure, arrived=arrived, repo=repo)


@pytest.mark.parametrize("private", [None, False, True])
def test_the_command_that_pushes_again_can_be_typed_and_keeps_a_repo_private(
    private: bool | None, capsys: pytest.CaptureFixture[str]
) -> None:
    queue = queue_of(failure="The Hub can't be reached.")
    args: Any = SimpleNamespace(output_dir="my runs/a", hub_private_repo=private, hub_required=True)
    assert report_push(queue, args) == 1
    line = capsys.readouterr().out.splitlines()[-1].removeprefix("push again")
    flags = ["--hub_private_repo", "true"] if private else []
    assert shlex.split(line) == ["hfseg", "push", "my runs/a", "user/m", *flags]


ARGS: Any = SimpleNamespace(output_dir="run", hub_private_repo=None, hub_required=False)


@pytest.mark.parametrize(
    ("queue", "lines"),
    [
        (None, []),
        (queue_of(), []),  # before there was a model
        (
            queue_of(commit="c" * 40, arrived="Epoch 2"),
            ["on the Hub   https://hub/user/m (commit cccccccc, read back)"],
        ),
        (
            queue_of(failure="It is down.", arrived="Epoch 1"),
            ["NOT pushed   It is down.", "the Hub has  Epoch 1", "push again   hfseg push run user/m"],
        ),
    ],
)
def test_a_run_that_fails_says_whether_its_best_model_is_on_the_hub(
    queue: Any, lines: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(RuntimeError, match="boom"), report_broken_push(queue, ARGS):
        raise RuntimeError("boom")
    assert capsys.readouterr().out.splitlines() == lines

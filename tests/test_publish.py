"""What a run says of its pushes at the end."""

import shlex
from types import SimpleNamespace
from typing import Any

import pytest

from hfseg.publish import report_push


@pytest.mark.parametrize("private", [None, False, True])
def test_the_command_that_pushes_again_can_be_typed_and_keeps_a_repo_private(
    private: bool | None, capsys: pytest.CaptureFixture[str]
) -> None:
    queue: Any = SimpleNamespace(failure="The Hub can't be reached.", repo=SimpleNamespace(repo_id="user/m"))
    args: Any = SimpleNamespace(output_dir="my runs/a", hub_private_repo=private, hub_required=True)
    assert report_push(queue, args) == 1
    line = capsys.readouterr().out.splitlines()[-1].removeprefix("push again")
    flags = ["--hub_private_repo", "true"] if private else []
    assert shlex.split(line) == ["hfseg", "push", "my runs/a", "user/m", *flags]

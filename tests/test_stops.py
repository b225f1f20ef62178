"""SIGTERM and SIGINT: the step is finished and saved, and the run goes on from there as if nothing had happened."""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from hfseg.checkpoints import find_checkpoint, is_whole
from hfseg.errors import Stopped
from hfseg.logs import show_errors
from hfseg.stops import StopRequest, stop_between_steps
from hfseg.trainer import SegTrainer

sys.path.insert(0, str(Path(__file__).parent))
from small_run import list_differences
from test_resume import build_trainer, comparable


class SignalAt(TrainerCallback):
    """Sends this process a signal at an event of a step."""

    def __init__(self, event: str, step: int, number: int) -> None:
        self.event, self.step, self.number = event, step, number

    def send(self, event: str, state: Any) -> None:
        if event == self.event and state.global_step == self.step:
            self.step = -1
            os.kill(os.getpid(), self.number)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.send("step_begin", state)

    def on_prediction_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.send("evaluation", state)


def train(trainer: SegTrainer, checkpoint: str | None = None) -> SegTrainer:
    with stop_between_steps(trainer):
        trainer.train(resume_from_checkpoint=checkpoint)
    return trainer


BY_STEPS = dict(logging_strategy="steps", logging_steps=2, eval_strategy="steps", eval_steps=3)
SETTINGS: dict[str, dict[str, Any]] = {"epochs": {}, "steps": BY_STEPS}
Run = tuple[dict[str, Any], SegTrainer]


@pytest.fixture(scope="module")
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that nothing broke off, validated after each epoch or at every third step."""
    settings = SETTINGS[request.param]
    return settings, train(build_trainer(tmp_path_factory.mktemp("whole"), per_device_eval_batch_size=2, **settings))


# 4 steps an epoch, 12 in all; state.global_step counts the finished ones, so that step_begin of 5 is in the sixth.
@pytest.mark.parametrize(
    ("whole", "event", "step", "saved"),
    [
        ("epochs", "step_begin", 7, 8),  # the last step of an epoch: its log and validation are still to come
        ("epochs", "evaluation", 8, 8),  # in the middle of a validation
        pytest.param("epochs", "step_begin", 4, 5, marks=pytest.mark.slow),
        pytest.param("epochs", "step_begin", 11, 12, marks=pytest.mark.slow),  # the last step of all
        pytest.param("steps", "step_begin", 5, 6, marks=pytest.mark.slow),  # a step with a validation to come
        pytest.param("steps", "evaluation", 6, 6, marks=pytest.mark.slow),
    ],
    indirect=["whole"],
)
def test_a_stopped_run_goes_on_bit_for_bit(event: str, step: int, saved: int, whole: Run, tmp_path: Path) -> None:
    settings, one = whole
    settings = settings | {"per_device_eval_batch_size": 2}
    broken = build_trainer(tmp_path, **settings)
    broken.add_callback(SignalAt(event, step, signal.SIGTERM))
    with pytest.raises(Stopped, match=f"Stopped by SIGTERM after step {saved} of 12, which checkpoint-{saved} holds"):
        train(broken)
    checkpoint = find_checkpoint(tmp_path, "auto")
    assert checkpoint == str(tmp_path / f"checkpoint-{saved}") and is_whole(Path(checkpoint))
    torch.manual_seed(99)
    two = train(build_trainer(tmp_path, **settings), checkpoint)
    assert comparable(one.state.log_history) == comparable(two.state.log_history)
    assert not list_differences(one.model.state_dict(), two.model.state_dict())
    assert not list_differences(one.optimizer.state_dict(), two.optimizer.state_dict())
    assert one.lr_scheduler.state_dict() == two.lr_scheduler.state_dict()


def test_a_second_ctrl_c_ends_at_once_but_not_one_that_a_launcher_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[int] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: killed.append(number))
    monkeypatch.setattr(signal, "signal", lambda number, handler: None)
    request = StopRequest()
    request.receive(signal.SIGINT)
    request.receive(signal.SIGINT)
    assert request.agree() == signal.SIGINT and not killed
    request._since -= 2
    request.receive(signal.SIGTERM)
    assert not killed
    request.receive(signal.SIGINT)
    assert killed == [signal.SIGINT]


def test_exit_codes_are_those_of_a_shell(capsys: pytest.CaptureFixture[str]) -> None:
    def stopped(argv: Any) -> int:
        raise Stopped("Stopped by SIGINT after step 3.", signal.SIGINT)

    def terminated(argv: Any) -> int:
        os.kill(os.getpid(), signal.SIGTERM)
        return 0

    before = signal.getsignal(signal.SIGTERM)
    assert show_errors(stopped) == 130 and show_errors(terminated) == 143
    told = capsys.readouterr().err.splitlines()
    assert told == ["hfseg: error: Stopped by SIGINT after step 3.", "hfseg: error: Stopped by SIGTERM."]
    assert signal.getsignal(signal.SIGTERM) == before

"""Whole trainings that push to a Hub with faults, in processes of their own, with Xet on and off side by side."""

import json
import shlex
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import ModelCard

from hfseg import Segmenter
from tests.hub_client import (
    COMMAND,
    QUICK,
    TOKEN,
    XET,
    Child,
    commits,
    environment,
    files_in,
    files_on_hub,
    hfseg,
    recipe,
    start,
)
from tests.loopback_hub import LoopbackHub

pytestmark = pytest.mark.slow
REPO = "user/m"


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same training without a Hub."""
    folder = tmp_path_factory.mktemp("reference")
    hub = LoopbackHub(folder / "hub").start()
    output = hfseg("train", recipe(folder), "--output_dir", folder / "run", folder=folder, hub=hub).wait()
    hub.stop()
    assert "best model" in output, output
    assert not hub.log, "the Hub was asked"
    rows = [
        r for r in json.loads((folder / "run" / "trainer_state.json").read_text())["log_history"] if "eval_loss" in r
    ]
    scores = [row["eval_mean_iou"] for row in rows]
    assert len(scores) == 4 and scores == sorted(set(scores)), "four new bests are needed here"
    return folder / "run"


def train(hub: LoopbackHub, folder: Path, *words: object, disable_xet: str = "1", **settings: object) -> Child:
    options = ["--output_dir", folder / "run", "--push_to_hub", "true", "--hub_model_id", REPO, *words]
    return hfseg("train", recipe(folder), *options, folder=folder, hub=hub, disable_xet=disable_xet, **settings)


def check_run(hub: LoopbackHub, folder: Path, output: str, child: Child, reference: Path, arrives: bool) -> None:
    """What holds after every fault."""
    run = folder / "run"
    assert child.process.returncode == 0, output
    assert "Traceback" not in output, output
    # The same weights as without a Hub, in a whole bundle.
    best, expected = files_in(run / "best"), files_in(reference / "best")
    assert best["model.safetensors"] == expected["model.safetensors"]
    assert set(best) == set(expected)
    assert json.loads(best["metrics.json"])["mean_iou"] == json.loads(expected["metrics.json"])["mean_iou"]
    assert {p.name for p in run.iterdir() if p.name.startswith(".")} == set(), "left over"
    # No commit twice: titles differ, and each changes something.
    line = commits(hub, REPO) if ("model", REPO) in hub.repos else []
    assert len({c["title"] for c in line}) == len(line), [c["title"] for c in line]
    for older, newer in zip(line, line[1:]):
        assert older["files"] != newer["files"], newer["title"]
    steps = [int(c["title"].split("step ")[1].split(":")[0]) for c in line]
    assert steps == sorted(steps), "overtaken"
    # The last line is true.
    if arrives:
        assert files_on_hub(hub, REPO) == best
        assert f"on the Hub   {hub.url}/{REPO} (commit {line[-1]['id'][:8]}, read back)" in output, output
        assert line[-1]["title"].startswith("Test mIoU 0.") and "validation mIoU 0." in line[-1]["title"]
    else:
        assert "NOT pushed   " in output and f"push again   hfseg push {run} {REPO}" in output, output
        assert "on the Hub" not in output
        assert not line or files_on_hub(hub, REPO) != best
    check_no_token(folder, output)


# hfseg is not to be had here: -S leaves out what makes an editable install visible.
ANYWHERE = """
import importlib.util, sys
assert importlib.util.find_spec("hfseg") is None, "hfseg is on the path"
import numpy as np
from huggingface_hub import ModelCard
from transformers import pipeline

card = ModelCard.load(sys.argv[1])
exec(card.text.split("```python\\n")[1].split("```")[0], names := {})
np.savez("parts.npz", **{row["label"]: np.array(row["mask"]) > 0 for row in names["segments"]})
assert "hfseg" not in {name.split(".")[0] for name in sys.modules}
"""


def check_anywhere(hub: LoopbackHub, folder: Path, disable_xet: str) -> None:
    """On a machine with an empty cache and without hfseg, the card's snippet gives what `hfseg predict` gives here."""
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    settings = environment(hub, elsewhere, disable_xet, token=None) | {"PYTHONPATH": sysconfig.get_path("purelib")}
    command = [sys.executable, "-S", "-c", ANYWHERE, REPO]
    done = subprocess.run(command, cwd=elsewhere, env=settings, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    best = folder / "run" / "best"
    segmenter = Segmenter.from_pretrained(best, device="cpu")
    mask = segmenter(best / "example.jpg").mask
    with np.load(elsewhere / "parts.npz") as parts:
        assert set(parts) == {segmenter.names[i] for i in np.unique(mask)}
        for label in parts:
            assert np.array_equal(parts[label], mask == segmenter.names.index(label)), label


def check_card(run: Path) -> None:
    """What the card of a real run says is what the run measured."""
    card, tests = ModelCard.load(run / "best" / "README.md"), json.loads((run / "best/test_metrics.json").read_text())
    results = {(r.dataset_split, r.metric_config, r.metric_type): r.metric_value for r in card.data.eval_results}
    metrics = json.loads((run / "best" / "metrics.json").read_text())
    for row in [metrics, *tests]:
        assert results[row["split"], row["resolution"], "mean_iou"] == row["mean_iou"]
    assert {row["resolution"] for row in tests} == {"input", "native"}
    log = [line for line in card.text.splitlines() if line.startswith(("| 1 |", "| 2 |", "| 3 |", "| **4** |"))]
    assert len(log) == 4 and f"**{metrics['mean_iou']:.4f}**" in log[3]
    assert "128 train" in card.text and f'model_id = "{REPO}"' in card.text
    pixels = np.array([row["pixels"] for row in tests[0]["per_class"].values()])
    for name, share in zip(tests[0]["per_class"], 100 * pixels / pixels.sum()):
        row = next(line for line in card.text.splitlines() if line.startswith(f"| {name} |"))
        assert row.endswith(f"{share:.1f} % |"), row


def check_no_token(folder: Path, output: str) -> None:
    assert TOKEN not in output
    for path in folder.rglob("*"):
        if path.is_file() and "hub" not in path.relative_to(folder).parts:
            assert TOKEN.encode() not in path.read_bytes(), path


def once(condition: Callable[[], bool], action: Callable[[], None]) -> Callable[[], None]:
    done: list[bool] = []

    def look() -> None:
        if not done and condition():
            done.append(True)
            action()

    return look


def num_bests(hub: LoopbackHub) -> int:
    return len(commits(hub, REPO)) if ("model", REPO) in hub.repos else 0


UPLOAD = ("PUT|GET", "/_lfs/|xet-write-token")  # where a large file's bytes go without Xet, and with it


def nothing(hub: LoopbackHub) -> None:
    """No fault."""


def commit_fails(status: int, times: int) -> Callable[[LoopbackHub], None]:
    return lambda hub: hub.fail("POST", "/commit/", status=status, times=times)


def commit_is_cut(late: bool, skip: int = 0) -> Callable[[LoopbackHub], None]:
    return lambda hub: hub.fail("POST", "/commit/", drop=True, late=late, skip=skip)


def upload_is_refused(times: int) -> Callable[[LoopbackHub], None]:
    return lambda hub: hub.fail(*UPLOAD, status=403, times=times)


def token_is_revoked(hub: LoopbackHub) -> Callable[[], None]:
    return once(lambda: num_bests(hub) >= 1, hub.tokens.clear)


def goes_down(after: int) -> Callable[[LoopbackHub], Callable[[], None]]:
    return lambda hub: once(lambda: num_bests(hub) >= after, hub.stop)


def goes_down_for_a_while(hub: LoopbackHub) -> Callable[[], None]:
    port = hub.server.server_address[1]

    def come_back() -> None:
        hub.down = False
        hub.start(port)

    down = once(lambda: num_bests(hub) >= 1, hub.stop)
    seen: list[int] = []

    def look() -> None:
        down()
        if hub.down:
            seen.append(1)
            if len(seen) == 50:  # half a second of looks
                come_back()

    return look


def starts_late(hub: LoopbackHub) -> Callable[[], None]:
    hub.stop()
    return nothing_to_do


def nothing_to_do() -> None:
    pass


def is_slow(hub: LoopbackHub) -> None:
    hub.delays.append(("POST", "/commit/main", 3))


FOREVER = 10_000
FAULTS = {
    "none": (nothing, True),
    "500 once": (commit_fails(500, 1), True),
    "503 once": (commit_fails(503, 1), True),
    "500 thrice": (commit_fails(500, 3), True),
    "503 thrice": (commit_fails(503, 3), True),
    "500 forever": (commit_fails(500, FOREVER), False),
    "503 forever": (commit_fails(503, FOREVER), False),
    "429 twice": (commit_fails(429, 2), True),
    "cut before the commit": (commit_is_cut(late=False), True),
    "cut after the commit": (commit_is_cut(late=True), True),
    "cut after a later commit": (commit_is_cut(late=True, skip=2), True),
    "upload refused once": (upload_is_refused(1), True),
    "upload refused forever": (upload_is_refused(FOREVER), False),
    "token revoked": (token_is_revoked, False),
    "down from the start": (starts_late, False),
    "down in the middle": (goes_down(1), False),
    "down for a while": (goes_down_for_a_while, True),
    "down at the end": (goes_down(4), False),
    "3 s latency": (is_slow, True),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_training_pushes_its_best_through_faults(fault: str, tmp_path: Path, reference: Path) -> None:
    inject, arrives = FAULTS[fault]
    runs = []
    for disable_xet in XET:
        folder = tmp_path / f"xet_off_{disable_xet}"
        hub = LoopbackHub(folder / "hub").start()
        watch = inject(hub)
        runs.append((hub, folder, train(hub, folder, disable_xet=disable_xet), watch))
    for (hub, folder, child, _), disable_xet in zip(runs, XET):
        watches = [w for *_, w in runs if w is not None]
        output = child.wait(lambda watches=watches: [w() for w in watches] and None)
        check_run(hub, folder, output, child, reference, arrives)
        if arrives and fault not in ("upload refused once", "down for a while"):  # these may cost an older best
            assert num_bests(hub) == 5, [c["title"] for c in commits(hub, REPO)]
        if fault == "none":
            check_anywhere(hub, folder, disable_xet)
            check_card(folder / "run")
        if not hub.down:
            hub.stop()


@pytest.mark.parametrize("disable_xet", XET)
def test_the_command_that_pushes_again_does_so(disable_xet: str, tmp_path: Path, reference: Path) -> None:
    """The Hub goes down in mid-run and comes back after it; what the run printed is then typed."""
    hub = LoopbackHub(tmp_path / "hub").start()
    port = hub.server.server_address[1]
    child = train(hub, tmp_path, "--hub_required", "true", disable_xet=disable_xet)
    output = child.wait(goes_down(1)(hub))
    assert child.process.returncode == 1 and "NOT pushed" in output, output
    hub.down = False
    hub.start(port)
    line = next(line for line in output.splitlines() if line.startswith("push again"))
    words = shlex.split(line.removeprefix("push again").strip())
    again = hfseg(*words[1:], folder=tmp_path, hub=hub, disable_xet=disable_xet)
    output = again.wait()
    assert again.process.returncode == 0 and "on the Hub" in output, output
    assert files_on_hub(hub, REPO) == files_in(tmp_path / "run" / "best")
    number = num_bests(hub)
    assert hfseg(*words[1:], folder=tmp_path, hub=hub, disable_xet=disable_xet).wait()
    assert num_bests(hub) == number, "the same commit twice"
    check_no_token(tmp_path, output)
    hub.stop()


def test_a_fresh_machine_goes_on_from_the_hub(tmp_path: Path, reference: Path) -> None:
    """The first machine is killed in mid-run; the second has nothing but the recipe, and ends with the same weights."""
    hub = LoopbackHub(tmp_path / "hub").start()
    first = train(hub, tmp_path / "first")
    repo = None

    def kill_after_two_checkpoints() -> None:
        nonlocal repo
        repo = hub.repos.get(("model", REPO))
        if repo and "checkpoint" in repo.branches and len(commits(hub, REPO, "checkpoint")) >= 2 + num_bests(hub) - 1:
            first.process.kill()

    first.wait(kill_after_two_checkpoints)
    assert first.process.returncode == -9, "it ended before it was killed"
    second = train(hub, tmp_path / "second", "--resume_from_hub", "true")
    output = second.wait()
    assert second.process.returncode == 0, output
    assert "training goes on from step" in output, output
    assert (tmp_path / "second" / "run" / "best" / "model.safetensors").read_bytes() == (
        reference / "best" / "model.safetensors"
    ).read_bytes()
    assert files_on_hub(hub, REPO) == files_in(tmp_path / "second" / "run" / "best")
    names = {p.name for p in (tmp_path / "second" / "run").rglob("training_args.bin")}
    assert "training_args.bin" not in files_on_hub(hub, REPO, "checkpoint"), names
    hub.stop()
    # A Hub that can't be asked is an end here: training afresh would replace what it holds.
    third = train(hub, tmp_path / "third", "--resume_from_hub", "true")
    output = third.wait()
    assert third.process.returncode == 2 and "resume_from_hub: " in output, output


def test_a_run_that_is_stopped_tells_of_its_push_and_brings_it_later(tmp_path: Path, reference: Path) -> None:
    """The Hub is down when a signal comes; it is back when the run goes on, and has the best so far before the next."""
    hub = LoopbackHub(tmp_path / "hub").start()
    port = hub.server.server_address[1]
    hub.delays.append(("POST", "/commit/", 1))
    go_down = goes_down(1)(hub)

    def is_second_best() -> bool:
        metrics = tmp_path / "run" / "best" / "metrics.json"
        return hub.down and metrics.is_file() and json.loads(metrics.read_text())["epoch"] >= 2

    stop = once(is_second_best, lambda: child.process.send_signal(signal.SIGTERM))
    child = train(hub, tmp_path)
    output = child.wait(lambda: [look() for look in (go_down, stop)] and None)
    assert child.process.returncode == 128 + signal.SIGTERM, output
    assert "NOT pushed" in output and f"push again   hfseg push {tmp_path / 'run'} {REPO}" in output, output
    kept = json.loads((tmp_path / "run" / "best" / "metrics.json").read_text())
    assert num_bests(hub) < kept["epoch"]
    hub.down = False
    hub.start(port)
    child = train(hub, tmp_path, "--resume_from_checkpoint", "auto")
    check_run(hub, tmp_path, child.wait(), child, reference, arrives=True)
    assert any(f"step {kept['step']}:" in c["title"] for c in commits(hub, REPO)[:-1])


def test_no_traceback_holds_the_token_of_the_command_line(tmp_path: Path) -> None:
    """One process, which has the token in its own command line and fails by a mistake of ours."""
    hub = LoopbackHub(tmp_path / "hub").start()
    boom = "import hfseg.train; hfseg.train.report_best = lambda *args: 1 / 0; "
    words = ["--output_dir", tmp_path / "run", "--push_to_hub", "true", "--hub_model_id", REPO, "--hub_token", TOKEN]
    words += ["--num_train_epochs", 1, "--report_to", "tensorboard"]
    child = start(QUICK + boom + COMMAND, ["train", recipe(tmp_path), *words], tmp_path, hub=hub, token=None)
    output = child.wait()
    assert child.process.returncode == 1 and "ZeroDivisionError" in output and "on the Hub" in output, output
    check_no_token(tmp_path, output)
    hub.stop()


def test_two_processes_push_once_from_the_main_one(tmp_path: Path) -> None:
    hub = LoopbackHub(tmp_path / "hub").start()
    # The token comes by the command line, which accelerate would print.
    options = ["--num_processes", "2", "--hub_token", TOKEN, "--num_train_epochs", "2", "--hub_required", "true"]
    child = train(hub, tmp_path, *options, token=None)
    output = child.wait()
    assert child.process.returncode == 0 and "on 2 x cpu" in output, output
    line = commits(hub, REPO)
    assert len({c["title"] for c in line}) == len(line) >= 2
    assert files_on_hub(hub, REPO) == files_in(tmp_path / "run" / "best")
    assert sum("/api/repos/create" in entry["path"] for entry in hub.log) == 2, "one check before the launch, one after"
    check_no_token(tmp_path, output)
    hub.fail("POST", "/commit/", status=503, times=FOREVER)
    child = train(hub, tmp_path / "required", *options, token=None)
    output = child.wait()
    assert child.process.returncode == 1 and "NOT pushed" in output and "Traceback" not in output, output
    hub.stop()


def test_the_real_back_off_outlasts_a_short_fault(tmp_path: Path, reference: Path) -> None:
    hub = LoopbackHub(tmp_path / "hub").start()
    hub.fail("POST", "/commit/", status=503, times=2)
    child = train(hub, tmp_path, waits="")
    check_run(hub, tmp_path, child.wait(), child, reference, arrives=True)
    hub.stop()

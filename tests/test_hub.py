"""The genuine client against the loopback Hub, in processes of their own; whole trainings are in test_pushes.py."""

import json
import subprocess
import sys
import sysconfig
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hfseg import Segmenter
from hfseg.args import parse
from hfseg.bundle import write_bundle
from hfseg.card import RunRecord, build_card, name_model
from hfseg.card_text import log_rows
from hfseg.cli import main
from hfseg.data.transforms import build_processor
from hfseg.labels import Labels
from hfseg.models import build
from hfseg.pictures import draw_curves, to_jpeg, to_png
from tests.hub_client import (
    COMMAND,
    QUICK,
    TOKEN,
    XET,
    commits,
    environment,
    files_in,
    files_on_hub,
    fill,
    hfseg,
    recipe,
    start,
)
from tests.loopback_hub import LoopbackHub, Repo, regular_file

LABELS = Labels(("sky", "road", "car"), palette=[(1, 2, 3), (40, 50, 60), (7, 8, 9)])


def bundle(folder: Path, model: str = "segformer-b0", step: int = 7) -> Path:
    """A bundle as a run leaves it, in folder/run/best."""
    torch.manual_seed(step)
    network = build(model, LABELS, image_size=(32, 48)).eval()
    metrics = {"step": step, "epoch": float(step), "mean_iou": step / 100, "split": "validation"}
    log = [{"eval_loss": 1.0, "eval_mean_iou": step / 100, "epoch": float(step), "step": step}]
    rng = np.random.default_rng(0)
    example = Image.fromarray(rng.integers(0, 256, (40, 50, 3), np.uint8))
    files = {"curves.png": to_png(draw_curves(log_rows(log), step)), "example.jpg": to_jpeg(example)}
    card = build_card(network, RunRecord(options={"model": model}), metrics, log, list(files))
    write_bundle(folder / "run" / "best", network, build_processor((32, 48)), {"model": model}, metrics, card, files)
    return folder / "run"


PUSHES = """
from hfseg.cli import main
first, second = sys.argv[1:]
for run in (first, first, second):
    assert main(["push", run, "user/m"]) == 0
"""


@pytest.mark.parametrize("disable_xet", XET)
def test_push_writes_one_commit_and_never_the_same_again(disable_xet: str, tmp_path: Path) -> None:
    hub = LoopbackHub(tmp_path / "hub").start()
    first, second = bundle(tmp_path / "first", step=7), bundle(tmp_path / "second", step=9)
    hub.fail("POST", "/commit/", drop=True, late=True)  # applied, and cut off
    hub.fail("POST", "/commit/", status=503, skip=1)
    child = start(QUICK + PUSHES, [first, second], tmp_path, hub=hub, disable_xet=disable_xet)
    output = child.wait()
    assert child.process.returncode == 0 and output.count("on the Hub") == 3, output
    assert [c["title"] for c in commits(hub, "user/m")] == [
        "Epoch 7, step 7: validation mIoU 0.0700",
        "Epoch 9, step 9: validation mIoU 0.0900",
    ]
    older = commits(hub, "user/m")[0]["id"]
    assert files_on_hub(hub, "user/m", older) == files_in(first / "best")
    assert files_on_hub(hub, "user/m") == files_in(second / "best")
    assert 'model_id = "user/m"' in (second / "best" / "README.md").read_text()
    assert TOKEN not in output
    hub.stop()


def test_what_older_pushes_left_goes_and_the_rest_stays(tmp_path: Path) -> None:
    hub = LoopbackHub(tmp_path / "hub").start()
    run = bundle(tmp_path)
    repo = fill(hub, "user/m", run / "best")
    old = ("pytorch_model.bin", "model-00001-of-00002.safetensors", "test_metrics.json", "notes.txt")
    repo.write("main", {**repo.at("main")[1], **{name: regular_file(b"old") for name in old}}, "somebody else's commit")
    output = hfseg("push", run, "user/m", folder=tmp_path, hub=hub).wait()
    assert "on the Hub" in output, output
    assert files_on_hub(hub, "user/m") == {**files_in(run / "best"), "notes.txt": b"old"}
    hub.stop()


@pytest.mark.slow
def test_what_comes_out_other_than_sent_is_sent_again_once(tmp_path: Path) -> None:
    hub = LoopbackHub(tmp_path / "hub").start()
    run = bundle(tmp_path)
    hub.damages = ["metrics.json"]
    output = hfseg("push", run, "user/m", "--hub_private_repo", "true", folder=tmp_path, hub=hub).wait()
    assert "on the Hub" in output and len(commits(hub, "user/m")) == 2, output
    assert files_on_hub(hub, "user/m") == files_in(run / "best")
    assert hub.repos["model", "user/m"].private
    hub.damages = ["metrics.json"] * 9
    (run / "best" / "metrics.json").write_text("{}")
    child = hfseg("push", run, "user/m", folder=tmp_path, hub=hub)
    output = child.wait()
    assert child.process.returncode == 1 and len(commits(hub, "user/m")) == 4, output
    assert "was not pushed: ReadBackError: metrics.json came out other than sent" in output, output
    hub.stop()


def test_the_hub_says_how_long_to_wait(tmp_path: Path) -> None:
    """The waits are printed here, and not slept."""
    hub = LoopbackHub(tmp_path / "hub").start()
    run = bundle(tmp_path)
    hub.fail("POST", "/commit/", status=429, headers={"Retry-After": "7"})
    hub.fail("POST", "/commit/", status=429, headers={"RateLimit": '"api";r=0;t=55'})
    hub.fail("POST", "/commit/", status=503)
    code = QUICK + "hfseg.hub.time.sleep = lambda s: print('waits', s); " + COMMAND
    child = start(code, ["push", run, "user/m"], tmp_path, hub=hub)
    output = child.wait()
    assert child.process.returncode == 0 and "on the Hub" in output, output
    assert [float(line.split()[1]) for line in output.splitlines() if line.startswith("waits")] == [7, 55, 0.2], output
    hub.stop()


# The queue holds nothing up and loses none: eight bundles are handed over while the Hub keeps the first one waiting.
QUEUE = """
from pathlib import Path
import shutil, urllib.request
from hfseg.hub import HubRepo
from hfseg.push_queue import PushQueue

run, url = Path(sys.argv[1]), sys.argv[2]
with PushQueue(HubRepo("user/m"), run) as queue:
    for number in range(1, 9):
        (run / "best" / "metrics.json").unlink()
        (run / "best" / "metrics.json").write_text('{"step": %d, "epoch": %d, "mean_iou": 0.5}' % (number, number))
        queue.push_bundle(run / "best")
    assert queue.commit is None and queue.num_commits == 0
    print("handed over", flush=True)
assert queue.failure is None and queue.num_commits == 8, queue.failure
assert not (run / ".hub").exists()
"""


def test_a_slow_hub_holds_nothing_up_and_gets_all_in_order(tmp_path: Path) -> None:
    hub = LoopbackHub(tmp_path / "hub").start()
    run = bundle(tmp_path)
    gate = threading.Event()
    answer = hub.fault

    def wait_for_the_gate(method: str, path: str) -> dict:
        gate.wait(60)
        return answer(method, path)

    hub.fault = wait_for_the_gate  # type: ignore[method-assign]
    child = start(QUICK + QUEUE, [run, hub.url], tmp_path, hub=hub)
    output = child.wait(lambda: gate.set() if "handed over" in child.log.read_text() else None)
    assert child.process.returncode == 0, output
    titles = [c["title"] for c in commits(hub, "user/m")]
    assert titles == [f"Epoch {n}, step {n}: validation mIoU 0.5000" for n in range(1, 9)]
    hub.stop()


def train(hub: LoopbackHub, folder: Path, *words: object, token: str | None = TOKEN) -> tuple[int, str]:
    options = ["--output_dir", folder / "run", "--push_to_hub", "true", *words]
    child = hfseg("train", recipe(folder), *options, folder=folder, hub=hub, token=token)
    output = child.wait()
    return child.process.returncode, output


@pytest.mark.slow
def test_mistakes_are_told_before_training(tmp_path: Path) -> None:
    hub = LoopbackHub(tmp_path / "hub").start()
    hub.repos["model", "user/public"] = Repo("model", "user/public")
    cases = {
        "no token": (["--hub_model_id", "user/m"], None, "there is no token"),
        "wrong token": (["--hub_model_id", "user/m"], "hf_wrong_one", "does not know this token"),
        "token by option": (["--hub_model_id", "user/m", "--hub_token", "hf_wrong_one"], TOKEN, "does not know this"),
        "broken token": (["--hub_model_id", "user/m"], "hf_ä ö", "characters that no token has"),
        "another's namespace": (["--hub_model_id", "other/m"], TOKEN, "refuses other/m"),
        "dots": (["--hub_model_id", "user/../m"], TOKEN, "is no name of a repo"),
        "more dots": (["--hub_model_id", "user/m..n"], TOKEN, "is no name of a repo"),
        "public": (["--hub_model_id", "user/public", "--hub_private_repo", "true"], TOKEN, "is public"),
    }
    for name, (words, token, message) in cases.items():
        folder = tmp_path / name.replace(" ", "_").replace("'", "")
        code, output = train(hub, folder, *words, token=token)
        lines = [line for line in output.splitlines() if line.startswith("hfseg: error: ")]
        assert code == 2 and len(lines) == 1 and message in lines[0], f"{name}\n{output}"
        assert "Traceback" not in output and "hf_wrong" not in output and "step" not in output, output
        assert not (folder / "run").exists(), name
    hub.stop()


def test_a_token_in_a_recipe_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = recipe(tmp_path, hub_token="hf_secret")
    assert main(["train", str(path), "--output_dir", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert "hub_token stands in the recipe" in error and "hf_secret" not in error


READ = """
import sys
from hfseg import Segmenter
from hfseg.labels import Labels
from hfseg.logs import show_errors
from hfseg.models import build

def load(words):
    what, source, revision = words
    if what == "segmenter":
        Segmenter.from_pretrained(source, revision=revision or None, device="cpu")
    elif what == "model":
        build(source, Labels(("a", "b")))
    else:
        build("segformer-b0", Labels(("a", "b")), weights=source)
    return 0

print("code", show_errors(load, sys.argv[1:]), file=sys.stderr)
"""
UNREADABLE = {
    ("segmenter", "user/private", ""): "The Hub has no repo user/private, or it is private",
    ("segmenter", "user/gated", ""): "user/gated is gated",
    ("segmenter", "user/none", ""): "The Hub has no repo user/none, or it is private",
    ("segmenter", "user/m", "v9"): "user/m has no revision 'v9'",
    ("segmenter", "user/../m", ""): "is no name of a repo on the Hub",
    ("segmenter", "user/m..x", ""): "is no name of a repo on the Hub",
    (
        "segmenter",
        "user/pickled",
        "",
    ): "user/pickled holds only pickled weights (pytorch_model.bin), which can run code",
    ("segmenter", "user/m", "main"): "does not know this token",
    ("model", "user/private", ""): "model: The Hub has no repo user/private, or it is private",
    ("weights", "user/gated", ""): "weights: user/gated is gated",
    ("weights", "user/none", ""): "weights: The Hub has no repo user/none, or it is private",
    ("weights", "user/m", "main"): "weights: The Hub does not know this token",
}


@pytest.mark.slow
def test_what_cannot_be_read_gets_one_line_each(tmp_path: Path) -> None:
    """Each in a process of its own, half of them with Xet on."""
    hub = LoopbackHub(tmp_path / "hub").start()
    best = bundle(tmp_path) / "best"
    old = fill(hub, "user/m", best).branches["main"]
    hub.repos["model", "user/m"].write("main", {}, "emptied")
    fill(hub, "user/private", best).private = True
    fill(hub, "user/gated", best).gated = True
    (best / "model.safetensors").rename(best / "pytorch_model.bin")
    fill(hub, "user/pickled", best)
    children = [
        start(
            READ,
            case,
            tmp_path / str(number),
            hub=hub,
            disable_xet=XET[number % 2],
            token="hf_wrong_one" if "token" in message else None,
        )
        for number, (case, message) in enumerate(UNREADABLE.items())
    ]
    good = start(READ, ["segmenter", "user/m", old], tmp_path / "good", hub=hub, disable_xet="0")
    for child, (case, message) in zip(children, UNREADABLE.items()):
        output = child.wait()
        assert "Traceback" not in output and "hf_wrong" not in output, output
        errors = [line for line in output.splitlines() if line.startswith("hfseg: error: ")]
        assert len(errors) == 1 and message in errors[0] and "code 2" in output, (case, output)
    output = good.wait()
    assert "code 0" in output, output  # an older commit, by its revision
    hub.stop()


# hfseg is not to be had here: -S leaves out what makes an editable install visible.
ANYWHERE = """
import importlib.util, json, sys
assert importlib.util.find_spec("hfseg") is None, "hfseg is on the path"
import numpy as np
import torch
from huggingface_hub import hf_hub_download
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation, pipeline

for repo_id in sys.argv[2:]:
    own = {"trust_remote_code": True} if "segformer" not in repo_id else {}
    image = hf_hub_download(repo_id, "example.jpg")
    model = AutoModelForSemanticSegmentation.from_pretrained(repo_id, **own).eval()
    AutoImageProcessor.from_pretrained(repo_id)
    rows = pipeline("image-segmentation", repo_id, device="cpu", **own)(image)
    masks = {row["label"]: np.array(row["mask"]) > 0 for row in rows}
    np.savez(f"{sys.argv[1]}/{repo_id.replace('/', '_')}.npz", **masks)
    assert "hfseg" not in {name.split(".")[0] for name in sys.modules}
print("loaded")
"""
WITH_HFSEG = """
import sys
import hfseg.models
from transformers import AutoModelForSemanticSegmentation
for repo_id in sys.argv[1:]:
    model = AutoModelForSemanticSegmentation.from_pretrained(repo_id)
    assert type(model).__module__.startswith(("hfseg.models.", "transformers.models.")), type(model)
print("loaded")
"""


@pytest.mark.slow
def test_models_load_where_nobody_knows_hfseg(tmp_path: Path) -> None:
    """SegFormer in plain transformers; torchvision's and timm's with the code that lies beside their weights."""
    hub = LoopbackHub(tmp_path / "hub").start()
    models = {"segformer": "segformer-b0", "torchvision": "lraspp_mobilenet_v3_large", "timm": "timm/resnet18"}
    runs = {name: bundle(tmp_path / name, model) for name, model in models.items()}
    for name, run in runs.items():
        card = run / "best" / "README.md"
        card.write_text(name_model(card.read_text(), f"user/{name}"))
        fill(hub, f"user/{name}", run / "best")
    ids = [f"user/{name}" for name in models]
    settings = environment(hub, tmp_path / "elsewhere") | {"PYTHONPATH": sysconfig.get_path("purelib")}
    command = [sys.executable, "-S", "-c", ANYWHERE, str(tmp_path), *ids]
    result = subprocess.run(command, cwd=tmp_path, env=settings, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0 and "loaded" in result.stdout, result.stderr[-3000:]
    for name, run in runs.items():
        example = run / "best" / "example.jpg"
        mask = Segmenter.from_pretrained(run / "best", device="cpu")(example).mask
        with np.load(tmp_path / f"user_{name}.npz") as parts:
            assert set(parts) == {LABELS.names[i] for i in np.unique(mask)}
            for label in parts:
                assert np.array_equal(parts[label], mask == LABELS.label2id[label]), (name, label)
    output = start(WITH_HFSEG, ids, tmp_path, hub=hub).wait()
    assert "loaded" in output, output
    # The cards' own snippets, as they stand.
    cards = [files_on_hub(hub, repo_id)["README.md"].decode() for repo_id in ids]
    codes = [card.split("```python\n")[1].split("```")[0] for card in cards]
    assert all(f'"{repo_id}"' in code for repo_id, code in zip(ids, codes))
    code = "import sys\nfor code in sys.argv[1:]: exec(code, {})"
    done = subprocess.run([*command[:2], "-c", code, *codes], env=settings, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and done.stdout.count("[") == 3, done.stderr[-2000:]
    hub.stop()


def test_a_folder_that_is_no_bundle_is_not_pushed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = bundle(tmp_path)

    def refusal() -> str:
        assert main(["push", str(run), "user/m"]) == 2
        return capsys.readouterr().err

    assert main(["push", str(tmp_path), "user/m"]) == 2 and "holds no model to push" in capsys.readouterr().err
    assert main(["push", str(run)]) == 2 and "Give a run's folder and a repo" in capsys.readouterr().err
    card = run / "best" / "README.md"
    text = card.read_text()
    card.write_text(text.replace("---\n", "---\nbase_model: ../../x\n", 1))
    assert "README.md is no model card that the Hub can read" in refusal()
    card.write_text(text)
    (run / "best" / "model.safetensors").rename(run / "best" / "pytorch_model.bin")
    assert "only pickled weights" in refusal()


def test_the_recipe_in_the_bundle_does_not_push(tmp_path: Path) -> None:
    words = ["--push_to_hub", "true", "--hub_model_id", "user/m", "--hub_token", "hf_x", "--hub_private_repo", "true"]
    *_, args, saved = parse([str(recipe(tmp_path)), *words, "--output_dir", str(tmp_path / "run")])
    assert not [key for key in saved if "hub" in key]
    assert args.push_best and not args.push_to_hub, "Trainer's own pushes stay off"
    assert "hf_x" not in json.dumps(saved)

"""Some 150 bad inputs: each is refused in one line that names it, or handled right; no traceback, no hang."""

import logging
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
import torch

from hfseg import train
from hfseg.bundle import read_bundle
from hfseg.cli import main
from hfseg.data import load
from hfseg.data.transforms import SegTransform, build_processor
from hfseg.labels import Labels
from hfseg.logs import show_errors
from hfseg.models import build
from tests import bad_files

LABELS = Labels(["ground", "thing"])
SECONDS = 60


@pytest.fixture(autouse=True)
def no_hang() -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"hangs: no answer after {SECONDS} s")

    previous = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    handlers = logging.getLogger().handlers[:]
    yield
    logging.getLogger().handlers[:] = handlers  # a command's own writes to a stderr that is closed by now
    signal.alarm(0)
    signal.signal(signal.SIGALRM, previous)


def refusal(capsys: pytest.CaptureFixture[str], command: Callable[[], Any]) -> str:
    """The one line by which a command refuses its input; fails where it is none, or several."""
    capsys.readouterr()
    assert show_errors(lambda _: command() and 0 or 0) == 2
    error = capsys.readouterr().err
    lines = [line for line in error.splitlines() if line.startswith("hfseg: error: ")]
    assert len(lines) == 1 and "Traceback" not in error and error.rstrip().endswith(lines[0]), error
    assert lines[0].isprintable() and len(lines[0]) > 40
    return lines[0]


def read_pair(image: Path, mask: Path) -> tuple[np.ndarray, np.ndarray]:
    """As training does."""
    transform = SegTransform(LABELS, build_processor((8, 8)), resolution="native")
    row = transform({"image": [str(image)], "mask": [str(mask)], "sample_index": [0]})
    return row["pixel_values"][0].permute(1, 2, 0).numpy(), row["labels"][0].numpy()


@pytest.mark.parametrize("name", bad_files.IMAGES)
def test_images(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make, words = bad_files.IMAGES[name]
    (tmp_path / "in").mkdir()
    mask = bad_files.save(bad_files.MASK, tmp_path / "mask.png")
    made = make(tmp_path / "in")
    if words is not None:
        line = refusal(capsys, lambda: read_pair(made, mask))
        assert words in line and str(tmp_path / "in") in line
    else:
        np.testing.assert_array_equal(read_pair(made[0], mask)[0], made[1])


@pytest.mark.parametrize("name", bad_files.MASKS)
def test_masks(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make, words = bad_files.MASKS[name]
    (tmp_path / "in").mkdir()
    image = bad_files.save(bad_files.COLOR, tmp_path / "image.png")
    made = make(tmp_path / "in")
    if words is not None:
        line = refusal(capsys, lambda: read_pair(image, made))
        assert words in line and str(made) in line
    else:
        np.testing.assert_array_equal(read_pair(image, made[0])[1], made[1])


@pytest.mark.parametrize("name", bad_files.LAYOUTS)
def test_layouts(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make, words = bad_files.LAYOUTS[name]
    made = make(tmp_path)
    if words is not None:
        assert words in refusal(capsys, lambda: load("folder", data_dir=str(made)))
    else:
        assert len(load("folder", data_dir=str(made[0]))[0]["train"]) == made[1]


@pytest.mark.parametrize("name", bad_files.RECIPES)
def test_recipes(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content, words = bad_files.RECIPES[name]
    path = bad_files.write(tmp_path / "recipe.json", content)
    argv = [str(path), "--output_dir", str(tmp_path / "run"), "--use_cpu", "true", "--weights", "scratch"]
    line = refusal(capsys, lambda: train.main(argv))
    assert words in line and "hf_secret" not in line
    assert not [p for p in (tmp_path / "run").rglob("*") if p.is_file()], "something was half-written"


@pytest.mark.parametrize("name", bad_files.MODELS)
def test_models(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As a bundle, and as what training starts from: no code of theirs runs."""
    make, words = bad_files.MODELS[name]
    made = make(tmp_path)
    if words is None:
        assert read_bundle(made[0]).labels.num_labels == 3
        return
    assert words in refusal(capsys, lambda: read_bundle(made))
    for options in ({"name": str(made)}, {"name": "segformer-b0"}):
        weights = "pretrained" if options["name"] == str(made) else str(made)
        capsys.readouterr()
        code = show_errors(
            lambda _, options=options, weights=weights: build(labels=LABELS, weights=weights, **options) and 0
        )
        error = capsys.readouterr().err
        assert code in (0, 2) and "Traceback" not in error, "what does not matter here may be bad"
        if name in ("remote code", "a pickle"):
            assert code == 2 or options["name"] == "segformer-b0"
    assert not list(tmp_path.rglob("exploded")), "code of the model ran"


def test_names_on_the_hub_never_run_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What training hands to transformers: trust_remote_code is False wherever a name could be a repository's."""
    import transformers

    seen: list[bool] = []
    for auto in ("AutoConfig", "AutoImageProcessor"):

        def refuse(source: str, **options: Any) -> Any:
            seen.append(options["trust_remote_code"])
            raise OSError("no network here")

        monkeypatch.setattr(getattr(transformers, auto), "from_pretrained", refuse)
    for options in ({"name": "user/model", "weights": "pretrained"}, {"name": "segformer-b0", "weights": "user/model"}):
        with pytest.raises(ValueError, match="user/model"):
            build(labels=LABELS, **options)
    assert seen and not any(seen)


def test_the_corpus_is_large() -> None:
    cases = [bad_files.IMAGES, bad_files.MASKS, bad_files.LAYOUTS, bad_files.RECIPES, bad_files.MODELS]
    assert sum(map(len, cases)) >= 120


@pytest.mark.parametrize("command", ["train", "eval", "predict", "check", "report", "study", "push", "models"])
def test_commands_say_what_is_missing(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--nonsense", "\x1b[2J"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("hfseg: error: ") and error.strip().isprintable()


def test_a_batch_of_nothing_trains_nothing() -> None:
    from hfseg.losses import cross_entropy

    logits = torch.randn(2, 2, 8, 8, requires_grad=True)
    loss = cross_entropy(logits, torch.full((2, 8, 8), 255))
    loss.backward()
    assert loss == 0 and logits.grad is not None and not logits.grad.any()

"""The commands as a user types them, in processes of their own."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hfseg.cli import main

ROOT = Path(__file__).parents[1]
QUICK = ["recipes/segformer_quickstart.json", "--num_images", "16", "--image_size", "32", "--num_train_epochs", "2"]


def run(*command: object, folder: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "hfseg.cli", *map(str, command)],
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def mistake(capsys: pytest.CaptureFixture[str], *command: object) -> str:
    """Runs a command that must fail as a user's mistake does: code 2 and one line."""
    assert main([str(word) for word in command]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("hfseg: error: ")]
    assert len(lines) == 1
    return lines[0]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "quick"
    result = run("train", *QUICK, "--output_dir", folder)
    assert result.returncode == 0, result.stderr
    assert re.search(r"test mIoU 0\.\d{4} of the best model", result.stdout)
    assert f"best model   {folder / 'best'}" in result.stdout
    return folder


def test_train_leaves_a_whole_run(trained: Path) -> None:
    names = {path.name for path in trained.iterdir()}
    assert {"best", "trainer_state.json", "test_metrics.json", "predictions.png"} <= names
    log = json.loads((trained / "trainer_state.json").read_text())["log_history"]
    training, validation = [r for r in log if "loss" in r], [r for r in log if "eval_loss" in r]
    assert len(training) == 2 and {"grad_norm", "train_mean_iou", "learning_rate"} <= set(training[0])
    assert {"eval_mean_iou", "eval_iou_background", "eval_iou_boundary", "eval_iou_foreground"} <= set(validation[0])
    best = json.loads((trained / "best" / "metrics.json").read_text())
    scores = {row["step"]: row["eval_mean_iou"] for row in validation}
    assert best["mean_iou"] == max(scores.values()) == scores[best["step"]]
    assert Image.open(trained / "predictions.png").size[0] > 500


def test_the_recipe_in_the_bundle_runs_again_and_gives_the_same(trained: Path, tmp_path: Path) -> None:
    result = run("train", trained / "best" / "recipe.json", "--output_dir", tmp_path / "again")
    assert result.returncode == 0, result.stderr
    one, two = (json.loads((run / "best" / "metrics.json").read_text()) for run in (trained, tmp_path / "again"))
    assert {k: v for k, v in one.items() if "second" not in k and k != "runtime"} == {
        k: v for k, v in two.items() if "second" not in k and k != "runtime"
    }


def test_eval_writes_what_it_promises(trained: Path, tmp_path: Path) -> None:
    result = run("eval", trained / "best", "--split", "validation", "--resolution", "input", "--output_dir", tmp_path)
    assert result.returncode == 0, result.stderr
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    keys = "mean_iou mean_accuracy pixel_accuracy per_class confusion_matrix num_images resolution model dataset split"
    assert set(keys.split()) <= set(metrics)
    assert set(metrics["per_class"]["boundary"]) >= {"iou", "accuracy", "pixels"}
    best = json.loads((trained / "best" / "metrics.json").read_text())
    assert metrics["mean_iou"] == pytest.approx(best["mean_iou"], abs=1e-12), "eval and training disagree"
    assert f"{metrics['mean_iou']:.4f}" in result.stdout


def test_native_evaluation_compares_at_the_masks_size(trained: Path, tmp_path: Path) -> None:
    result = run("eval", trained / "best", "--output_dir", tmp_path)
    assert result.returncode == 0, result.stderr
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert (metrics["resolution"], metrics["split"]) == ("native", "test")
    pixels = np.array(metrics["confusion_matrix"]).sum()
    assert pixels > metrics["num_images"] * 32 * 32


def test_predict_takes_files_folders_and_globs(trained: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    rng = np.random.default_rng(0)
    for name, size in (("a.jpg", (40, 30)), ("b.png", (31, 57)), ("c.PNG", (64, 64))):
        Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(photos / name)
    out = tmp_path / "out"
    result = run("predict", trained / "best", photos / "a.jpg", photos, f"{photos}/*.png", "--output_dir", out)
    assert result.returncode == 0, result.stderr
    assert sorted(p.name for p in out.iterdir()) == [f"{n}_{k}.png" for n in "abc" for k in ("mask", "overlay")]
    mask = Image.open(out / "b_mask.png")
    assert mask.mode == "P" and mask.size == (57, 31) and set(np.unique(np.array(mask))) <= {0, 1, 2}


def test_a_finished_run_can_be_resumed_and_stays(trained: Path) -> None:
    before = (trained / "best" / "metrics.json").read_text()
    result = run("train", *QUICK, "--output_dir", trained, "--resume_from_checkpoint", "auto")
    assert result.returncode == 0, result.stderr
    assert (trained / "best" / "metrics.json").read_text() == before
    assert f"goes on from {trained / 'checkpoint-'}" in result.stderr


@pytest.mark.parametrize(("key", "value"), [("image_size", "48"), ("learning_rate", "0.5")])
def test_a_run_that_goes_on_keeps_its_settings(key: str, value: str, trained: Path) -> None:
    before = (trained / "best" / "README.md").read_text()
    result = run("train", *QUICK, f"--{key}", value, "--output_dir", trained, "--resume_from_checkpoint", "auto")
    assert result.returncode == 2 and result.stderr.count("\n") == 1, result.stderr
    assert f"has {key} " in result.stderr and f", but {value} was given" in result.stderr
    assert (trained / "best" / "README.md").read_text() == before


def test_a_run_without_a_checkpoint_says_that_it_starts_afresh(tmp_path: Path) -> None:
    few = ["--max_steps", "1", "--output_dir", tmp_path / "run", "--resume_from_checkpoint", "auto"]
    result = run("train", *QUICK, *few)
    assert result.returncode == 0 and "starts afresh" in result.stderr, result.stderr


def test_without_validation_the_last_model_is_kept(tmp_path: Path) -> None:
    result = run("train", *QUICK, "--eval_strategy", "no", "--output_dir", tmp_path / "run")
    assert result.returncode == 0, result.stderr
    assert json.loads((tmp_path / "run" / "best" / "metrics.json").read_text())["epoch"] == 2


def test_accelerate_launch_runs_the_script_itself(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1", "hfseg/train.py"]
    command += [*QUICK, "--max_steps", "1", "--output_dir", str(tmp_path / "run")]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "run" / "best" / "model.safetensors").is_file()


def test_hfseg_train_starts_two_processes(tmp_path: Path) -> None:
    result = run("train", *QUICK, "--num_processes", "2", "--output_dir", tmp_path / "run")
    assert result.returncode == 0, result.stderr
    assert "on 2 x cpu" in result.stderr
    assert (tmp_path / "run" / "best" / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["train"], "Which recipe?"),
        (["train", "recipes/segformer_pet.json"], "Did you mean 'recipes/segformer_pets.json'"),
        (["train", *QUICK, "--datset", "pets"], "There is no option 'datset'. Did you mean 'dataset'"),
        (["train", *QUICK, "--dataset", "pet"], "'pets'"),
        (["train", *QUICK, "--model", "segformer-b9"], "Did you mean 'segformer-b5'"),
        (["train", *QUICK, "--model", "timm/resnet19"], "resnet18"),
        (["train", *QUICK, "--weights", "weights.pth"], "weights.pth"),
        (["train", "recipes/segformer_pets.json", "--data_dir", "nowhere"], "nowhere"),
        (["train", "recipes/segformer_folder.json", "--data_dir", "nowhere"], "nowhere"),
        (["train", "recipes/segformer_folder.json", "--data_dir", "nowhere", "--num_processes", "2"], "nowhere"),
        (["train", *QUICK, "--num_processes", "none"], "num_processes is 'none'"),
        (["train", *QUICK, "--class_weights", "1", "2"], "class_weights has 2 values; give 3"),
        (["train", *QUICK, "--resume_from_checkpoint", "recipes"], "is no checkpoint"),
        (["eval"], "Which model?"),
        (["eval", "recipes"], "no config.json"),
        (["predict", "recipes"], "Give a model and pictures"),
        (["predict", "recipes", "nothing.jpg"], "There is no picture at nothing.jpg"),
        (["predict", "recipes", "nothing.jpg", "--dtype", "int8"], "dtype"),
        (["study"], "Which study?"),
        (["study", "recipes/studies/smok.json"], "'recipes/studies/smoke.json'"),
        (["study", "recipes/studies/smoke.json", "--only", "segformer_tuned"], "there are lraspp_scratch"),
        (["report"], "Which runs?"),
        (["report", "recipes"], "holds no run that has logged anything"),
    ],
)
def test_mistakes_get_one_line_and_code_2(
    command: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(ROOT)
    extra = ["--output_dir", str(tmp_path / "run")] if command[0] == "train" else []
    assert message in mistake(capsys, *command, *extra)
    assert not (tmp_path / "run").exists() or not any((tmp_path / "run").iterdir()), "something was half-written"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder data set of 20 pairs; the sixth is not among the masks that are looked at before training."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 16), ("validation", 4)):
        for kind in ("images", "masks"):
            (tmp_path / "photos" / kind / split).mkdir(parents=True)
        for i in range(count):
            image, mask = rng.integers(0, 256, (40, 50, 3), np.uint8), rng.integers(0, 2, (40, 50), np.uint8)
            Image.fromarray(image).save(tmp_path / "photos" / "images" / split / f"{i:02}.jpg")
            Image.fromarray(mask).save(tmp_path / "photos" / "masks" / split / f"{i:02}.png")
    (tmp_path / "photos" / "classes.txt").write_text("ground\nthing\n")
    return tmp_path / "photos"


def spoil(photos: Path, what: str) -> None:
    image, mask = photos / "images" / "train" / "05.jpg", photos / "masks" / "train" / "05.png"
    if what == "value":
        Image.fromarray(np.full((40, 50), 7, np.uint8)).save(mask)
    elif what == "size":
        Image.fromarray(np.zeros((40, 49), np.uint8)).save(mask)
    elif what == "colours":
        Image.fromarray(np.zeros((40, 50, 3), np.uint8)).save(mask)
    elif what == "cut":
        image.write_bytes(image.read_bytes()[:300])
    elif what == "cut validation":
        (photos / "images" / "validation" / "00.jpg").write_bytes(image.read_bytes()[:300])
    elif what == "no mask":
        mask.unlink()
    elif what == "no image":
        image.unlink()
    elif what == "empty split":
        [path.unlink() for kind in ("images", "masks") for path in (photos / kind / "validation").iterdir()]
    elif what == "no classes":
        (photos / "classes.txt").unlink()


@pytest.mark.parametrize("workers", ["0", "2"])
@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("value", r"05\.png: mask values \[7\] belong to no class; allowed are 0 to 1"),
        ("size", r"05\.png: the mask is \(40, 49\), its image \(40, 50\)"),
        ("colours", r"05\.png: the mask is an RGB picture, and there is no colour table"),
        ("cut", r"05\.jpg can't be read as an image"),
        ("cut validation", r"validation/00\.jpg can't be read as an image"),
        ("no mask", r"Images without a mask: images/train/05\.jpg"),
        ("no image", r"Masks without an image: masks/train/05\.png"),
        ("empty split", "validation holds no images"),
        ("no classes", r"has no classes\.txt"),
    ],
)
def test_bad_data_is_named_in_one_line(
    what: str, message: str, workers: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(photos, what)
    small = ["--image_size", "32", "--crop_size", "32", "--weights", "scratch", "--dataloader_num_workers", workers]
    command = ["train", ROOT / "recipes" / "segformer_folder.json", "--data_dir", photos, *small]
    assert re.search(message, mistake(capsys, *command, "--output_dir", tmp_path / "run"))
    # An epoch was trained before validation read the last of these: its log stays.
    kept = {"trainer_state.json", "train.log"} if what == "cut validation" else set()
    assert {path.name for path in (tmp_path / "run").rglob("*") if path.is_file()} == kept


def test_a_mistake_ends_the_process_with_code_2_and_no_traceback(trained: Path, tmp_path: Path) -> None:
    """A used output_dir, and weights that no network can bring."""
    used = run("train", *QUICK, "--output_dir", trained)
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    weights = run("train", *QUICK, "--weights", "pretrained", "--output_dir", tmp_path / "run", **offline)
    for result, message in ((used, "holds an earlier run"), (weights, "nvidia/mit-b0")):
        assert result.returncode == 2 and "Traceback" not in result.stderr
        lines = [line for line in result.stderr.splitlines() if line.startswith("hfseg: error: ")]
        assert len(lines) == 1 and message in lines[0], result.stderr


def test_an_unknown_command_names_the_known() -> None:
    result = run("trian")
    assert result.returncode == 2 and "Did you mean 'train'" in result.stderr
    assert run("--version").stdout.startswith("hfseg 0.")
    assert all(name in run("--help").stdout for name in ("train", "eval", "predict"))


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("train", ("hfseg train RECIPE.json", "--num_processes", "--lr_gamma")),
        ("eval", ("hfseg eval MODEL", "--resolution", "--data_dir")),
        ("predict", ("hfseg predict MODEL", "--batch_size")),
        ("check", ("hfseg check", "--data_dir")),
        ("push", ("hfseg push RUN_DIR", "--message")),
        ("models", ("list the models",)),
        ("study", ("hfseg study STUDY.json", "--only")),
        ("report", ("hfseg report", "--output_dir")),
    ],
)
def test_each_command_tells_of_its_options(command: str, words: tuple[str, ...]) -> None:
    result = run(command, "--help")
    assert result.returncode == 0 and not result.stderr, result.stderr
    assert all(word in result.stdout for word in words)

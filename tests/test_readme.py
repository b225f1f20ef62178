"""Runs what the README tells a reader to type, in its order, on real images and with few steps."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CAMVID_CLASSES = [
    "sky",
    "building",
    "pole",
    "road",
    "pavement",
    "tree",
    "sign",
    "fence",
    "car",
    "pedestrian",
    "bicyclist",
]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def commands() -> list[str]:
    lines = [line.split(" #")[0].strip() for block in blocks("bash") for line in block.splitlines()]
    return [line for line in lines if line.startswith(("hfseg ", "accelerate "))]


def shortened(command: str, pets: Path) -> list[str]:
    """The command with options that make it short, and that say where the data lie."""
    words = shlex.split(command)
    few = ["--max_steps", "2", "--max_eval_samples", "4"]
    if "segformer_folder" in command:
        small = ["--image_size", "64", "--crop_size", "64", "--ignore_values", "11", "--max_train_samples", "8"]
        return [*words, "--weights", "scratch", *small, *few]
    if "segformer_pets.json" in command:
        return [*words, "--data_dir", str(pets), "--weights", "scratch", *few]
    if words[1] == "check":
        return [*words, "--ignore_values", "11"]
    if words[1] == "eval":
        return [*words, "--data_dir", str(pets), "--max_eval_samples", "4"]
    return words


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory, pets_dir: Path, camvid_dir: Path) -> Path:
    """A folder as the reader's: the repository's files, a photo, a folder of photos, and a data set of their own."""
    folder = tmp_path_factory.mktemp("desk")
    for name in ("hfseg", "recipes"):
        (folder / name).symlink_to(ROOT / name)
    photo = Image.open(pets_dir / "images" / "Bengal_1.jpg").convert("RGB")
    (folder / "folder_of_photos").mkdir()
    photo.save(folder / "photo.jpg")
    photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(folder / "folder_of_photos" / "mirrored.png")
    (folder / "my_photos").mkdir()
    for name in ("images", "masks"):
        (folder / "my_photos" / name).symlink_to(camvid_dir / name)
    (folder / "my_photos" / "classes.txt").write_text("\n".join(CAMVID_CLASSES))
    return folder


@pytest.mark.slow
def test_the_commands_run_in_their_order(desk: Path, pets_dir: Path) -> None:
    assert len(commands()) >= 5
    bin_dir = str(Path(sys.executable).parent)
    environment = os.environ | {"PATH": bin_dir + os.pathsep + os.environ["PATH"], "ACCELERATE_USE_CPU": "true"}
    for command in commands():
        result = subprocess.run(
            shortened(command, pets_dir), cwd=desk, env=environment, capture_output=True, text=True, timeout=600
        )
        assert result.returncode == 0, f"{command}\n{result.stdout[-2000:]}\n{result.stderr[-3000:]}"
    assert sorted(p.name for p in (desk / "out").iterdir()) == [
        *("mirrored_mask.png", "mirrored_overlay.png", "photo_mask.png", "photo_overlay.png")
    ]
    python = blocks("python")
    assert len(python) >= 2
    for code in python:
        result = subprocess.run([sys.executable, "-c", code], cwd=desk, capture_output=True, text=True, timeout=300)
        assert result.returncode == 0, f"{code}\n{result.stderr[-3000:]}"


def test_make_has_the_targets_that_the_readme_names() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = set(re.findall(r"make ([a-z-]+)", README))
    assert {"train", "test"} <= named
    for target in named:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target

"""`hfseg check` of 10,000 pairs: crops of the pets and of camvid, each drawn at random and stored as a file of its own.

HFSEG_TEST_DATA=DIR python -m benchmarks.check   # the pairs take 0.7 GB in the temporary folder
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from random import Random
from typing import Any

from PIL import Image

from benchmarks.measure import ROOT, Options, compare, main, test_data

PAIRS, MOST_SECONDS = 10_000, 300.0


def run(options: Options) -> list[dict[str, Any]]:
    count = 200 if options.quick else PAIRS
    rows = []
    for name, images, masks, classes in (
        ("pets", "images/*.jpg", "annotations/trimaps/{}.png", 4),
        ("camvid", "images/train/*.jpg", "masks/train/{}.png", 12),
    ):
        with tempfile.TemporaryDirectory() as folder:
            root, source = Path(folder) / "data", test_data(name)
            paths = sorted(source.glob(images))
            jobs = [
                (root, i, paths[i % len(paths)], source / masks.format(paths[i % len(paths)].stem))
                for i in range(count)
            ]
            for job in jobs[:20]:
                for kind in ("images", "masks"):
                    (root / kind / split_of(job[1])).mkdir(parents=True, exist_ok=True)
            with ProcessPoolExecutor(os.cpu_count()) as pool:
                list(pool.map(write_pair, jobs, chunksize=50))
            (root / "classes.txt").write_text("\n".join(f"class {i}" for i in range(classes)) + "\n")
            rows.append(
                compare(
                    f"hfseg check: {count:,} pairs cropped from {name}",
                    MOST_SECONDS,
                    lambda root=root, folder=folder: check(root, Path(folder) / "out"),
                    unit="s",
                    target=1.0,
                    rounds=1,
                )
            )
    return rows


def split_of(number: int) -> str:
    return "train" if number % 5 else "validation"


def write_pair(job: tuple[Path, int, Path, Path]) -> None:
    """One of 10,000: 60 to 95 % of the sides of one of the source's images."""
    root, number, image_path, mask_path = job
    random = Random(number)
    with Image.open(image_path) as opened, Image.open(mask_path) as mask:
        image = opened.convert("RGB")
        width, height = (int(side * random.uniform(0.6, 0.95)) for side in image.size)
        left, top = random.randint(0, image.width - width), random.randint(0, image.height - height)
        box = (left, top, left + width, top + height)
        image.crop(box).save(root / "images" / split_of(number) / f"{number:05d}.jpg", quality=90)
        mask.crop(box).save(root / "masks" / split_of(number) / f"{number:05d}.png")


def check(root: Path, output: Path) -> float:
    """Seconds of the command, its start included."""
    command = [
        sys.executable,
        "-m",
        "hfseg.cli",
        "check",
        "folder",
        "--data_dir",
        str(root),
        "--output_dir",
        str(output),
    ]
    start = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode not in (0, 1):  # 1: crops of one image that are alike are issues
        raise RuntimeError(done.stderr)
    seconds = time.perf_counter() - start
    assert json.loads((output / "check.json").read_text())["num_files"] == len(
        [*root.rglob("*.jpg"), *root.rglob("*.png")]
    )
    return seconds


if __name__ == "__main__":
    main(run)

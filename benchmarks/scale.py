"""Folders of 2,000 to 200,000 pairs: from the command to the first step, and memory there.

The pairs are hard links to 20 of camvid's. The model is SegFormer-B0 at 64 x 96, batch 8, without a cache.

python -m benchmarks.scale
"""

import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from benchmarks.measure import ROOT, Options, compare, in_process, main, report, test_data

NAMES = ["sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist"]
SIZES = (2_000, 20_000, 200_000)
MOST_SECONDS, MORE_MB = 30.0, 150.0


def run(options: Options) -> list[dict[str, Any]]:
    sizes = (200, 2_000) if options.quick else SIZES
    rows, peaks = [], {}
    with tempfile.TemporaryDirectory() as folder:
        for count in sizes:
            root = Path(folder) / str(count)
            link_pairs(root, count)
            seconds, peak = (
                in_process("benchmarks.scale", "--alone", str(root), key=key) for key in ("seconds", "peak_mb")
            )
            peaks[count] = peak()
            name = f"folder of {count:,} pairs: command to first step"
            rows.append(compare(name, MOST_SECONDS, seconds, unit="s", target=1.0, rounds=1))
            print(f"  peak memory {peaks[count]:,.0f} MB", flush=True)
            shutil.rmtree(root)
    few, many = sizes[0], sizes[-1]
    name = f"folder of {many:,} pairs: peak memory, against that of {few:,} and {MORE_MB:.0f} MB"
    rows.append(compare(name, peaks[few] + MORE_MB, lambda: peaks[many], unit="MB", target=1.0, rounds=1))
    return rows


def link_pairs(root: Path, count: int) -> None:
    source = test_data("camvid")
    stems = sorted(path.stem for path in (source / "images" / "train").iterdir())[:20]
    for kind, suffix in (("images", ".jpg"), ("masks", ".png")):
        copies = []
        for stem in stems:
            copies.append(root / "source" / kind / f"{stem}{suffix}")
            copies[-1].parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source / kind / "train" / copies[-1].name, copies[-1])
        for split, number in (("train", count), ("validation", 20)):
            folder = root / kind / split
            folder.mkdir(parents=True)
            for i in range(number):
                os.link(copies[i % len(copies)], folder / f"photograph_{i:07d}{suffix}")
    (root / "classes.txt").write_text("\n".join(NAMES) + "\n")


def time_first_step(root: str) -> None:
    from transformers import TrainerCallback

    from hfseg import train
    from hfseg.trainer import SegTrainer

    class FirstStep(TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            report(seconds=time.time() - psutil.Process().create_time())
            sys.stdout.flush()
            os._exit(0)

    init = SegTrainer.__init__

    def init_with_callback(self: SegTrainer, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        self.add_callback(FirstStep())

    SegTrainer.__init__ = init_with_callback  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as output:
        words = [str(ROOT / "recipes/segformer_camvid.json"), "--weights", "scratch", "--data_dir", root]
        words += ["--image_size", "64", "96", "--cache", "none", "--output_dir", output, "--max_steps", "100"]
        train.main(words)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--alone"]:
        time_first_step(sys.argv[2])
    else:
        main(run)

"""Inference: 64 camvid images from their files to masks at their own size, SegFormer-B0.

Stock is `pipeline("image-segmentation")` with the batch size that is best for it; ours is `Segmenter`.
"""

import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation, pipeline

from benchmarks.evaluation import NAMES
from benchmarks.measure import Options, compare, main, rate, test_data, tracing
from hfseg import Segmenter
from hfseg.bundle import write_bundle
from hfseg.data.transforms import build_processor
from hfseg.labels import Labels
from hfseg.models import build

SIZES = {(192, 256): 1.5}  # the input size of recipes/segformer_camvid.json
BATCHES = (1, 4, 8, 16)


def run(options: Options) -> list[dict[str, Any]]:
    folder = test_data("camvid")
    files = [str(path) for path in sorted((folder / "images" / "validation").iterdir())][: 8 if options.quick else 64]
    rows = []
    for size, target in SIZES.items():
        with tempfile.TemporaryDirectory() as name:
            best = save_model(Path(name) / "best", size)
            segmenter = Segmenter.from_pretrained(best)
            pipe: Any = pipeline(
                "image-segmentation",
                model=AutoModelForSemanticSegmentation.from_pretrained(best),
                image_processor=AutoImageProcessor.from_pretrained(best),
                device=segmenter.device,
            )

            def stock(batch_size: int, pipe: Any = pipe) -> None:
                assert len(pipe(files, batch_size=batch_size, subtask="semantic")) == len(files)

            def ours(segmenter: Segmenter = segmenter) -> None:
                assert len(segmenter(files, batch_size=4)) == len(files)

            speeds = {batch: rate(lambda batch=batch: stock(batch), len(files))() for batch in BATCHES}
            best_batch = max(speeds, key=lambda batch: speeds[batch])
            print(
                f"best batch {best_batch}; pipeline: "
                + ", ".join(f"batch {batch} {speed:.1f} images/s" for batch, speed in speeds.items())
            )
            shape = f"{size[0]} x {size[1]}"
            rows.append(
                compare(
                    f"inference, 64 camvid images, SegFormer-B0, input {shape}",
                    rate(lambda batch=best_batch: stock(batch), len(files), warm_up=0),
                    rate(ours, len(files)),
                    unit="images/s",
                    target=target,
                    rounds=min(3, options.rounds),
                )
            )
            if options.trace:
                with tracing(options.trace):
                    ours()
    return rows


def save_model(folder: Path, size: tuple[int, int]) -> Path:
    torch.manual_seed(0)
    model = build("segformer-b0", Labels(NAMES), weights="scratch", image_size=size)
    write_bundle(folder, model.eval(), build_processor(size), {}, {"mean_iou": 0.0}, "# benchmark")
    return folder


if __name__ == "__main__":
    main(run)

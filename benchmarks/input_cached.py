"""Input alone, cached: pets at 64 x 64, batch 64, normalised and ready for the model, after the first epoch.

The stock path reads, decodes and resizes sample by sample in set_transform, the faster of the image processor (as the
task guide has it) and torchvision v2, with stock Trainer's loader settings. Ours gives batches of the cache and
normalises them on the device. The limit is copying such batches in memory and normalising them.

python -m benchmarks.input_cached
"""

import tempfile
from types import SimpleNamespace
from typing import Any

import datasets
import numpy as np
import torch
from torch.utils.data import DataLoader
from torchvision import tv_tensors
from torchvision.transforms import v2
from transformers import SegformerImageProcessor

from benchmarks.measure import Options, compare, main, rate, test_data, tracing
from hfseg.data import load
from hfseg.data.cache import prepare_cached
from hfseg.data.transforms import SegTransform, build_processor, collate, finish_batch
from hfseg.inputs import plan_loading

SIDE, BATCH = 64, 64
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def run(options: Options) -> list[dict[str, Any]]:
    dataset, labels = load("pets", data_dir=str(test_data("pets")))
    part = dataset["train"].select(range(128 if options.quick else min(len(dataset["train"]), 512)))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    # ---- stock ----
    read_stock = {}
    for name, transform in (("image processor", by_processor), ("torchvision v2", by_torchvision)):
        loader = DataLoader(part.with_transform(transform), BATCH, shuffle=True)  # type: ignore[arg-type]
        read_stock[name] = rate(lambda loader=loader: [check(b["pixel_values"].to(device)) for b in loader], len(part))
    speeds = {name: sample() for name, sample in read_stock.items()}
    faster = max(speeds, key=lambda name: speeds[name])
    print("stock: " + ", ".join(f"{name} {speed:.0f} images/s" for name, speed in speeds.items()))

    # ---- ours ----
    processor = build_processor((SIDE, SIDE), MEAN, STD)
    with tempfile.TemporaryDirectory() as folder:
        datasets.config.HF_DATASETS_CACHE = folder  # type: ignore[assignment]
        ours: Any = prepare_cached(part, SegTransform(labels, processor), "resized")
        args = SimpleNamespace(chooses_workers=True, dataloader_prefetch_factor=None, dataloader_pin_memory=True)
        args.device, args.world_size = device, 1
        loader = DataLoader(
            ours, BATCH, shuffle=True, collate_fn=collate, **vars(plan_loading(ours, BATCH, True, args))
        )
        repeats = 10  # one pass takes milliseconds

        def read_ours() -> None:
            for _ in range(repeats):
                for batch in loader:
                    batch = {name: v.to(device) if isinstance(v, torch.Tensor) else v for name, v in batch.items()}
                    check(finish_batch(batch, processor)["pixel_values"])

        whole = torch.randint(0, 256, (len(part), 4, SIDE, SIDE), dtype=torch.uint8)

        def copy_memory() -> None:
            for _ in range(repeats):
                for batch in whole.split(BATCH):
                    pixels = batch.clone()[:, :3].to(device)
                    check(finish_batch({"pixel_values": pixels}, processor)["pixel_values"])

        rows = [
            compare(
                f"input alone, cached {SIDE} x {SIDE}",
                read_stock[faster],
                rate(read_ours, repeats * len(part)),
                unit="images/s",
                target=20.0,
                limit=rate(copy_memory, repeats * len(part)),
                rounds=options.rounds,
            )
        ]
        if options.trace is not None:
            with tracing(options.trace):
                read_ours()
    return rows


def check(pixel_values: torch.Tensor) -> None:
    assert pixel_values.shape[1:] == (3, SIDE, SIDE) and pixel_values.dtype == torch.float32


stock_processor = SegformerImageProcessor(
    size={"height": SIDE, "width": SIDE}, image_mean=list(MEAN), image_std=list(STD), do_reduce_labels=True
)


def by_processor(batch: dict[str, list[Any]]) -> dict[str, list[torch.Tensor]]:
    """As the task guide of transformers has it: the whole list of pictures through the processor."""
    images = [image.convert("RGB") for image in batch["image"]]
    inputs = stock_processor(images, batch["mask"], return_tensors="pt")  # trimaps count from 1
    return {"pixel_values": list(inputs["pixel_values"]), "labels": list(inputs["labels"])}


stock_transform = v2.Compose(
    [v2.Resize((SIDE, SIDE), antialias=True), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
)


def by_torchvision(batch: dict[str, list[Any]]) -> dict[str, list[torch.Tensor]]:
    out: dict[str, list[torch.Tensor]] = {"pixel_values": [], "labels": []}
    for image, mask in zip(batch["image"], batch["mask"]):
        pixels, target = stock_transform(
            tv_tensors.Image(v2.functional.pil_to_tensor(image.convert("RGB"))),
            tv_tensors.Mask(torch.from_numpy(np.array(mask) - 1)),
        )
        out["pixel_values"].append(pixels.as_subclass(torch.Tensor))
        out["labels"].append(target.as_subclass(torch.Tensor).long())
    return out


if __name__ == "__main__":
    main(run)

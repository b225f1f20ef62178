"""Input alone, not cached: camvid, random 256 x 256 crops after scale jitter, mirrored and coloured, normalised.

The stock path is torchvision v2 in set_transform, sample by sample on tensors, with the same augmentation and stock
Trainer's loader settings (no workers). Ours reads with the workers that it chooses, and finishes batches on the device,
or, without one, in the workers.
The limit is decoding the files with all cores, and nothing else.

python -m benchmarks.input_crops
"""

from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import tv_tensors
from torchvision.transforms import v2

from benchmarks.measure import Options, compare, main, rate, test_data, tracing
from hfseg.data import load
from hfseg.data.augment import Augmentation
from hfseg.data.transforms import SegTransform, build_processor, collate_for, finish_batch, prepare
from hfseg.inputs import count_cores, plan_loading

SIZE, CROP, JITTER, BATCH = (360, 480), (256, 256), (0.5, 2.0), 8
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
NAMES = ["sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist"]


def run(options: Options) -> list[dict[str, Any]]:
    dataset, labels = load("folder", data_dir=str(test_data("camvid")), classes=NAMES, ignore_values=[11])
    part = dataset["train"].select(range(64 if options.quick else 256))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    # ---- stock ----
    stock: Any = part.with_transform(StockTransform())
    stock_loader = DataLoader(stock, BATCH, shuffle=True)

    # ---- ours ----
    processor = build_processor(SIZE, MEAN, STD)
    augmentation = Augmentation(JITTER, CROP, 1.0, 0.5, True)
    ours: Any = prepare(part, SegTransform(labels, processor, train=True, augmentation=augmentation))
    args = SimpleNamespace(chooses_workers=True, dataloader_prefetch_factor=None, dataloader_pin_memory=True)
    args.device, args.world_size = device, 1
    settings = vars(plan_loading(ours, BATCH, True, args))
    print(f"ours reads with {settings['num_workers']} workers")
    loader = DataLoader(ours, BATCH, shuffle=True, collate_fn=collate_for(device), **settings)

    def read_stock() -> None:
        for batch in stock_loader:
            check(batch["pixel_values"].to(device))

    def read_ours() -> None:
        for batch in loader:
            batch = {name: v.to(device) if isinstance(v, torch.Tensor) else v for name, v in batch.items()}
            check(finish_batch(batch, processor)["pixel_values"])

    rows = [
        compare(
            "input alone, camvid, random 256 x 256 crops after scale jitter, not cached",
            rate(read_stock, len(part)),
            rate(read_ours, len(part)),
            unit="images/s",
            target=2.0,
            limit=rate(lambda: decode_all(part), len(part)),
            rounds=options.rounds,
        )
    ]
    with tracing(options.trace):
        if options.trace is not None:
            read_ours()
    return rows


def check(pixel_values: torch.Tensor) -> None:
    assert pixel_values.shape[1:] == (3, *CROP) and pixel_values.dtype == torch.float32, pixel_values.shape


def decode_all(part: Dataset) -> None:
    sources = part.with_format("arrow")
    paths = [row["path"] for name in ("image", "mask") for row in sources[:][name].to_pylist()]
    with ThreadPoolExecutor(count_cores()) as threads:
        for _ in threads.map(lambda path: np.asarray(Image.open(path)), paths):
            pass


class StockTransform:
    """What is set by set_transform: rows with PIL pictures to float32 images and int64 labels."""

    def __init__(self) -> None:
        self.transform = v2.Compose(
            [
                v2.ScaleJitter(SIZE, JITTER, antialias=True),
                v2.RandomCrop(CROP, pad_if_needed=True, fill={tv_tensors.Image: 0, tv_tensors.Mask: 255}),
                v2.RandomHorizontalFlip(0.5),
                v2.RandomPhotometricDistort(p=0.5),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(MEAN, STD),
            ]
        )

    def __call__(self, batch: dict[str, list[Any]]) -> dict[str, list[torch.Tensor]]:
        out: dict[str, list[torch.Tensor]] = {"pixel_values": [], "labels": []}
        for image, mask in zip(batch["image"], batch["mask"]):
            labels = np.array(mask)
            labels[labels == 11] = 255
            pixels, target = self.transform(
                tv_tensors.Image(v2.functional.pil_to_tensor(image.convert("RGB"))),
                tv_tensors.Mask(torch.from_numpy(labels)),
            )
            out["pixel_values"].append(pixels.as_subclass(torch.Tensor))
            out["labels"].append(target.as_subclass(torch.Tensor).long())
        return out


if __name__ == "__main__":
    main(run)

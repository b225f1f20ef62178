"""Going on in the middle of a streamed epoch: reading the stream again up to its place, and how long that takes.

The stream is 600 pets in six Parquet files, fed at 64 x 64, in the batches and with the workers of a real run. Reading
up to a place is what accelerate's skip_first_batches does when a run is resumed.

HFSEG_TEST_DATA=DIR python -m benchmarks.streaming   # DIR holds pets/
"""

import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from accelerate import skip_first_batches
from torch.utils.data import DataLoader

from benchmarks.measure import Options, compare, main, rate, test_data
from hfseg.data import load
from hfseg.data.streamed_dataset import StreamedDataset
from hfseg.data.transforms import SegTransform, build_processor, collate_for
from hfseg.inputs import plan_loading

FILES, BATCH = 6, 64


def run(options: Options) -> list[dict[str, Any]]:
    cpu = torch.device("cpu")
    with tempfile.TemporaryDirectory() as folder:
        write_files(Path(folder))
        names = ["pet", "background", "boundary"]  # 1, 2, 3 in the files
        dataset, labels = load("folder", data_dir=folder, streaming=True, classes=names, reduce_zero_label=True)
        stream = StreamedDataset(dataset["train"], SegTransform(labels, build_processor((64, 64)), train=True))
        args = SimpleNamespace(chooses_workers=True, dataloader_prefetch_factor=None, dataloader_pin_memory=False)
        args.device, args.world_size = cpu, 1
        settings = vars(plan_loading(stream, BATCH, True, args))
        print(f"read with {settings['num_workers']} workers")
        stream.divide(0, 1, BATCH)
        loader: Any = DataLoader(stream, BATCH, collate_fn=collate_for(cpu), **settings)

        def read() -> None:
            for _ in loader:
                pass

        def read_again() -> None:  # up to the last batch, which is fed
            assert len(list(skip_first_batches(loader, len(loader) - 1))) == 1

        what = "streaming: reading up to a place, against reading in training"
        count = len(stream)
        return [compare(what, rate(read, count), rate(read_again, count), unit="images/s", rounds=options.rounds)]


def write_files(folder: Path) -> None:
    images = sorted((test_data("pets") / "images").glob("*.jpg"))
    (folder / "data").mkdir()
    for split, paths, number in (("train", images, FILES), ("validation", images[:12], 1)):
        for i in range(number):
            part = paths[i::number]
            masks = [test_data("pets") / "annotations" / "trimaps" / f"{path.stem}.png" for path in part]
            rows = {
                "image": [{"bytes": path.read_bytes(), "path": path.name} for path in part],
                "mask": [{"bytes": path.read_bytes(), "path": path.name} for path in masks],
            }
            pq.write_table(pa.table(rows), folder / "data" / f"{split}-{i:05d}-of-{number:05d}.parquet")


if __name__ == "__main__":
    main(run)

"""Evaluation: camvid's validation images at 360 x 480, SegFormer-B0, against the forward pass alone, stock beside it.

Ours counts a matrix for each image and the loss, at the labels' size, from cached images. Stock gathers all logits,
upsamples them at once and counts. Memory is the peak of a process of its own, for 100 and for 1,000 images, which are
read from their files (pages of a mapped cache would count, though the system takes them back when it likes) by a small
network, since only what is kept from batch to batch matters. On a CPU all three keep freed memory, as
`hfseg eval` does.
"""

import sys
import tempfile
from typing import Any

import torch
from datasets import concatenate_datasets
from transformers import SegformerConfig, SegformerForSemanticSegmentation
from transformers.trainer_callback import PrinterCallback

from benchmarks import stock
from benchmarks.measure import Options, compare, in_process, main, report, seconds, test_data, tracing
from hfseg.args import SegTrainingArguments
from hfseg.data import load
from hfseg.data.cache import prepare_cached
from hfseg.data.transforms import SegTransform, build_processor
from hfseg.labels import Labels
from hfseg.malloc import keep_freed_memory
from hfseg.models import build
from hfseg.models.segformer import label_settings
from hfseg.trainer import SegTrainer

SIZE, BATCH = (360, 480), 8
NAMES = ["sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist"]
FEW, MANY = 100, 1000
CUDA = torch.cuda.is_available()


def run(options: Options) -> list[dict[str, Any]]:
    count = 16 if options.quick else 24
    if not CUDA:
        keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        part, labels = load_images(count)
        ours = build_ours(folder, part, labels)
        pixels = torch.randn(BATCH, 3, *SIZE, device=ours.args.device)
        model = ours.model.eval()

        @torch.no_grad()
        def forward() -> None:
            for _ in range(count // BATCH):
                model(pixel_values=pixels)

        theirs = stock.build_trainer(
            build_model(labels), folder, None, part.with_transform(stock.by_torchvision(SIZE, stock.camvid_ids)),
            per_device_eval_batch_size=BATCH, use_cpu=not CUDA,
        )  # fmt: skip
        theirs.remove_callback(PrinterCallback)
        title, rounds = f"evaluation, camvid validation at {SIZE[0]} x {SIZE[1]} input", min(3, options.rounds)
        limit, evaluate = seconds(forward), seconds(ours.evaluate)
        rows = [
            compare(title, limit, evaluate, unit="s", target=1 / 1.15, rounds=rounds),
            compare(f"{title}: stock", seconds(theirs.evaluate), evaluate, unit="s", limit=limit, rounds=rounds),
        ]
        if options.trace:
            with tracing(options.trace):
                ours.evaluate()
    few, many = (16, 32) if options.quick else (FEW, MANY)
    peaks = [in_process("benchmarks.evaluation", "--alone", str(number), key="peak_mb") for number in (few, many)]
    name = f"evaluation: peak memory of {many} images, against that of {few} and 50 MB"
    return [*rows, compare(name, lambda: peaks[0]() + 50, peaks[1], unit="MB", target=1.0, rounds=rounds)]


def load_images(count: int) -> tuple[Any, Labels]:
    dataset, labels = load("folder", data_dir=str(test_data("camvid")), classes=NAMES, ignore_values=[11])
    part = dataset["validation"]
    return concatenate_datasets([part] * -(-count // len(part))).select(range(count)), labels


def build_model(labels: Labels) -> Any:
    torch.manual_seed(0)
    return build("segformer-b0", labels, weights="scratch", image_size=SIZE)


def build_ours(folder: str, part: Any, labels: Labels, model: Any = None, cache: str = "resized") -> SegTrainer:
    import datasets

    datasets.config.HF_DATASETS_CACHE = folder  # type: ignore[assignment]
    processor = build_processor(SIZE)
    args = SegTrainingArguments(
        output_dir=folder, per_device_eval_batch_size=BATCH, eval_strategy="no", use_cpu=not CUDA, disable_tqdm=True
    )
    trainer = SegTrainer(
        model or build_model(labels),
        args,
        eval_dataset=prepare_cached(part, SegTransform(labels, processor), cache),
        processing_class=processor,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


if __name__ == "__main__":
    if sys.argv[1:2] == ["--alone"]:
        if not CUDA:
            keep_freed_memory()
        with tempfile.TemporaryDirectory() as folder:
            images, names = load_images(int(sys.argv[2]))
            tiny = SegformerConfig(depths=[1] * 4, hidden_sizes=[8] * 4, decoder_hidden_size=8, **label_settings(names))
            build_ours(folder, images, names, SegformerForSemanticSegmentation(tiny), "none").evaluate()
            report()
    else:
        main(run)

"""SegFormer-B0, B2 and FCN-ResNet50 at 512 x 512 in bf16 on a GPU: stock Trainer, ours, and the steps alone.

Both train for as many steps on pets' photographs: stock with torchvision v2 in set_transform and a worker process for
each core, kept from epoch to epoch; ours from images that stay on the device, compiled, with channels last for the
network of convolutions. Steps alone are forward, loss, backward and AdamW of the compiled model on one batch. FLOPs are
torch's count of matrix products and convolutions, forward and backward. Without a GPU only `--quick` runs, small, and
means nothing.

python -m benchmarks.large
"""

import gc
import os
import statistics
import sys
import tempfile
import time
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import TrainerCallback

from benchmarks import stock
from benchmarks.measure import Options, compare, main, test_data
from hfseg.args import SegTrainingArguments
from hfseg.callbacks import EpochCallback
from hfseg.data import load
from hfseg.data.cache import prepare_cached
from hfseg.data.transforms import SegTransform, build_processor
from hfseg.labels import Labels
from hfseg.losses import cross_entropy
from hfseg.models import build
from hfseg.models.segformer_head import reorder_decode_head
from hfseg.trainer import SegTrainer

MODELS = {"segformer-b0": 32, "segformer-b2": 16, "fcn_resnet50": 16}  # batch
PEAK_TFLOPS = {"H100": 989.0, "H200": 989.0, "A100": 312.0, "L4": 121.0, "4090": 165.0}  # bf16, dense, from NVIDIA
CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if CUDA else "cpu")


class Speed(TrainerCallback):
    """Images a second, and the peak memory, of the steps after the warm-up."""

    def __init__(self, batch: int, warm_up: int) -> None:
        self.batch, self.warm_up, self.start, self.rate = batch, warm_up, 0.0, 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.warm_up:
            wait()
            self.start = time.perf_counter()
        if state.global_step == state.max_steps:
            wait()
            self.rate = self.batch * (state.max_steps - self.warm_up) / (time.perf_counter() - self.start)


def run(options: Options) -> list[dict[str, Any]]:
    if not CUDA and not options.quick:
        sys.exit("This benchmark needs a CUDA device.")
    side, steps, warm_up = (64, 6, 2) if options.quick else (512, 60, 20)
    dataset, labels = load("pets", data_dir=str(test_data("pets")))
    part = dataset["train"].select(range(16)) if options.quick else dataset["train"]
    rows = []
    for name, batch in MODELS.items():
        batch = 4 if options.quick else batch
        case = (name, labels, part, side, batch, steps, warm_up)
        facts = {"flops": count_flops(name, labels, side)}
        title = f"{name}, {side} x {side}, batch {batch}, bf16"
        alone = lambda case=case, facts=facts: time_steps(*case, facts=facts)  # noqa: E731
        ours = lambda case=case, facts=facts: train_ours(*case, facts=facts)  # noqa: E731
        theirs = lambda case=case: train_stock(*case)  # noqa: E731
        rounds = min(options.rounds, 3)
        row = compare(f"{title}: stock", theirs, ours, unit="images/s", target=1.5, limit=alone, rounds=rounds)
        share = row["share_of_limit"]
        steps_row = {"name": f"{title}: steps alone", "baseline": row["ours"] / share, "ratio": share, "target": 0.95}
        rows += [row, row | steps_row]
        tflops = facts["flops"] * rows[-1]["ours"] / 1e12
        peak = next((value for key, value in PEAK_TFLOPS.items() if CUDA and key in torch.cuda.get_device_name()), None)
        share = f", {tflops / peak:.0%} of the peak" if peak else ""
        print(f"  {facts['memory']:,.0f} MB, {tflops:.1f} TFLOP/s{share}", flush=True)
    return rows


def make_model(name: str, labels: Labels, side: int) -> Any:
    torch.compiler.reset()  # else the graphs of earlier models count, and after a few of them nothing is compiled
    torch.manual_seed(0)
    return build(name, labels, weights="scratch", image_size=(side, side))


def count_flops(name: str, labels: Labels, side: int) -> float:
    """Of one image, forward and backward."""
    model = make_model(name, labels, side).train()
    reorder_decode_head(model)  # as SegTrainer does
    with FlopCounterMode(display=False) as counter:
        model(pixel_values=torch.randn(2, 3, side, side)).logits.sum().backward()
    return counter.get_total_flops() / 2


def time_steps(
    name: str, labels: Labels, part: Any, side: int, batch: int, steps: int, warm_up: int, facts: dict[str, float]
) -> float:
    form = torch.channels_last if name.startswith("fcn") else torch.contiguous_format
    model: Any = make_model(name, labels, side).to(DEVICE, memory_format=form).train()
    reorder_decode_head(model)  # as SegTrainer does
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    step_model = torch.compile(model, dynamic=False) if CUDA else model
    pixels = torch.randn(batch, 3, side, side, device=DEVICE).contiguous(memory_format=form)
    target = torch.randint(0, 3, (batch, side, side), dtype=torch.uint8, device=DEVICE)
    took = []
    for _ in range(steps):
        wait()
        start = time.perf_counter()
        with torch.autocast(DEVICE.type, torch.bfloat16):
            logits = step_model(pixel_values=pixels).logits
        cross_entropy(logits, target).backward()
        optimizer.step()
        optimizer.zero_grad()
        wait()
        took.append(time.perf_counter() - start)
    return batch / statistics.median(took[warm_up:])


def train_ours(
    name: str, labels: Labels, part: Any, side: int, batch: int, steps: int, warm_up: int, facts: dict[str, float]
) -> float:
    import datasets

    speed = Speed(batch, warm_up)
    with tempfile.TemporaryDirectory() as folder:
        datasets.config.HF_DATASETS_CACHE = folder  # type: ignore[assignment]
        processor = build_processor((side, side))
        transform = SegTransform(labels, processor, train=True)
        args = SegTrainingArguments(
            output_dir=folder, per_device_train_batch_size=batch, max_steps=steps, bf16=True, learning_rate=1e-4,
            use_cpu=not CUDA, torch_compile=CUDA, channels_last=name.startswith("fcn"), eval_strategy="no",
            save_strategy="no", disable_tqdm=True, dataloader_drop_last=True,
        )  # fmt: skip
        trainer = SegTrainer(
            make_model(name, labels, side), args, train_dataset=prepare_cached(part, transform, "resized"),
            processing_class=processor, callbacks=[EpochCallback(transform.set_epoch), speed],
        )  # fmt: skip
        reset_peak()
        trainer.train()
    facts["memory"] = torch.cuda.max_memory_allocated() / 2**20 if CUDA else float("nan")
    return speed.rate


def train_stock(name: str, labels: Labels, part: Any, side: int, batch: int, steps: int, warm_up: int) -> float:
    speed = Speed(batch, warm_up)
    with tempfile.TemporaryDirectory() as folder:
        trainer = stock.build_trainer(
            make_model(name, labels, side), folder,
            part.with_transform(stock.by_torchvision((side, side), stock.pets_ids)), None,
            per_device_train_batch_size=batch, max_steps=steps, bf16=True, learning_rate=1e-4,
            use_cpu=not CUDA, save_strategy="no", dataloader_num_workers=os.cpu_count() if CUDA else 0,
            dataloader_persistent_workers=CUDA, dataloader_drop_last=True, logging_steps=10,
        )  # fmt: skip
        trainer.add_callback(speed)
        trainer.train()
    return speed.rate


def wait() -> None:
    if CUDA:
        torch.cuda.synchronize()


def reset_peak() -> None:
    gc.collect()
    if CUDA:
        torch.cuda.reset_peak_memory_stats()


if __name__ == "__main__":
    main(run)

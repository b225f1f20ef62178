"""The study's run: SegFormer-B0 from scratch, pets at 64 x 64, batch 64, fp32, with evaluation every two epochs.

Stock is transformers' Trainer with per-sample transforms, the faster of the image processor and torchvision v2. On a
GPU, all 30 epochs run instead of 10, and torchvision v2 also with a worker process for each core, kept through epochs.
Ours is `hfseg train recipes/segformer_pets.json --cache resized` with all that belongs to it: the best bundle with its
card is written too. Both save a checkpoint when they evaluate (the recipe's own default is each epoch). Each is a
process of its own. The time of stock is that of train(); ours begins before the first image is read into the cache.

`--alone` runs one of them. Ours takes further options: `--alone ours --bf16 true`.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.measure import ROOT, Options, Recorded, compare, main, report, test_data

SIDE, BATCH = 64, 64
STEPS, EVAL_EPOCHS = 5, 2  # steps of an epoch of 270 images; validation every two epochs, by the recipe
RECIPE = str(ROOT / "recipes" / "segformer_pets.json")
EPOCHS, ALL_EPOCHS, FEW_EPOCHS = 10, 30, 4
# What may win; compiling costs more than a run of this length on a CPU.
BF16, CHANNELS_LAST = ("--bf16", "true"), ("--channels_last", "true")


def run(options: Options) -> list[dict[str, Any]]:
    import torch

    cuda = torch.cuda.is_available()
    epochs = str(2 if options.quick else ALL_EPOCHS if cuda else EPOCHS)
    rounds = min(options.rounds, 2)

    def record(*words: str, epochs: str = epochs) -> Recorded:
        return Recorded("benchmarks.study_run", "--alone", *words, epochs)

    ways = {"torchvision v2": record("stock:torchvision")}
    ways |= {"its workers": record("stock:torchvision:workers")} if cuda else {"processor": record("stock:processor")}
    first = {name: way.sample("seconds")() for name, way in ways.items()}
    faster = min(first, key=lambda name: first[name])
    print("stock: " + ", ".join(f"{name} {took:.1f} s" for name, took in first.items()), flush=True)
    print(f"{epochs} epochs; stock with the {faster}", flush=True)
    stock, steps = ways[faster], record("steps")
    fast_bf16 = cuda or torch.ops.mkldnn._is_mkldnn_bf16_supported()  # else it is computed as float32, and slowly
    tried = [(), BF16, *([] if cuda else [BF16 + CHANNELS_LAST])] if fast_bf16 else [(), CHANNELS_LAST]
    ours = {words: record("ours", *words) for words in tried}
    title = f"the whole study run, SegFormer-B0, pets {SIDE} x {SIDE}, batch {BATCH}, evaluation included"

    def against_stock(what: str, way: Recorded, target: float) -> dict[str, Any]:
        return compare(
            f"{title}, {what}",
            stock.sample("seconds"),
            way.sample("seconds"),
            unit="s",
            target=target,
            rounds=rounds,
        )

    rows = [
        against_stock("fp32", ours[()], 10.0 if cuda else 1.25),
        compare(
            "the whole study run: training epochs against steps alone",
            steps.sample("images_per_second"),
            ours[()].sample("images_per_second"),
            unit="images/s",
            target=0.8 if cuda else 0.95,
            rounds=rounds,
        ),
    ]
    low = {words: way.sample("seconds")() for words, way in ours.items()}
    best = min(low, key=lambda words: low[words])
    print("ours: " + ", ".join(f"{' '.join(words) or 'fp32'} {took:.1f} s" for words, took in low.items()), flush=True)
    rows.append(against_stock(" ".join(best) or "the same, which wins here", ours[best], 1.9))
    if not cuda:
        rows.append(against_stock("fp32, 2 processes x 1 thread", record("ours:2"), 1.25))
        few = str(FEW_EPOCHS)
        speeds = (record(way, epochs=few).sample("images_per_second") for way in ("ours:1", "ours:2"))
        rows.append(compare("2 processes x 1 thread", *speeds, unit="images/s", target=1.7, rounds=rounds))
    return rows


def alone(way: str, epochs: int, extra: list[str]) -> None:
    name, _, kind = way.partition(":")
    with tempfile.TemporaryDirectory() as folder:
        if name == "stock":
            kind, _, workers = kind.partition(":")
            report(seconds=train_stock(kind, epochs, folder, (os.cpu_count() or 1) if workers else 0))
        elif name == "steps":
            report(images_per_second=time_steps())
        else:
            report(**train_ours(epochs, folder, int(kind or 1), bool(kind), extra))


def train_ours(epochs: int, folder: str, processes: int, one_thread: bool, extra: list[str]) -> dict[str, float]:
    search = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"HF_DATASETS_CACHE": f"{folder}/cache", "PYTHONPATH": search}
    if one_thread:
        environment["OMP_NUM_THREADS"] = "1"
    batch = ["--per_device_train_batch_size", str(BATCH // processes), "--per_device_eval_batch_size", "64"]
    words = [RECIPE, "--weights", "scratch", "--data_dir", str(test_data("pets")), "--cache", "resized", *batch]
    words += ["--num_train_epochs", str(epochs), "--output_dir", f"{folder}/run", "--num_processes", str(processes)]
    words += ["--save_strategy", "steps", "--save_steps", str(EVAL_EPOCHS * STEPS)]
    command = [sys.executable, "-m", "hfseg.cli", "train", *words, *extra]
    lines, times = [], {}
    pipes: Any = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=ROOT, env=environment, **pipes) as process:
        assert process.stderr is not None
        for line in process.stderr:
            lines.append(line)
            for mark in ("resized once", "trained in"):
                if mark in line:
                    times.setdefault(mark, time.perf_counter())
    if process.returncode:
        raise RuntimeError("".join(lines)[-2000:])
    facts = json.loads(Path(folder, "run", "run.json").read_text())
    return {
        "seconds": times["trained in"] - times["resized once"],
        "images_per_second": facts["images_per_second"],
    }


def train_stock(way: str, epochs: int, folder: str, workers: int) -> float:
    """The recipe's settings in stock Trainer's words; a checkpoint each time it evaluates, and the best kept."""
    import torch

    from benchmarks import stock

    model, parts = build_model(), load_pets()
    make: Any = stock.by_processor if way == "processor" else stock.by_torchvision
    sets = [part.with_transform(make((SIDE, SIDE), stock.pets_ids)) for part in parts]
    assert -(-len(sets[0]) // BATCH) == STEPS
    trainer = stock.build_trainer(
        model, folder, *sets,
        num_train_epochs=epochs, per_device_train_batch_size=BATCH, per_device_eval_batch_size=64, learning_rate=1e-3,
        weight_decay=0.01, max_grad_norm=0, eval_strategy="steps", eval_steps=EVAL_EPOCHS * STEPS,
        save_strategy="steps", save_steps=EVAL_EPOCHS * STEPS, save_total_limit=1, load_best_model_at_end=True,
        logging_strategy="epoch", use_cpu=not torch.cuda.is_available(), dataloader_num_workers=workers,
        dataloader_persistent_workers=workers > 0,
    )  # fmt: skip
    start = time.perf_counter()
    trainer.train()
    return time.perf_counter() - start


def time_steps() -> float:
    """Forward, loss, backward and AdamW on one batch that is there: images a second, the median of 12 steps."""
    import statistics

    import torch

    from hfseg.losses import cross_entropy
    from hfseg.malloc import keep_freed_memory
    from hfseg.models.segformer_head import reorder_decode_head

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        keep_freed_memory()  # as hfseg train does
    model = build_model().to(device).train()
    reorder_decode_head(model)  # as SegTrainer does
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01, amsgrad=True, fused=True)
    pixels = torch.randn(BATCH, 3, SIDE, SIDE, device=device)
    labels = torch.randint(0, 3, (BATCH, SIDE, SIDE), dtype=torch.uint8, device=device)
    took = []
    for _ in range(15):
        start = time.perf_counter()
        cross_entropy(model(pixel_values=pixels).logits, labels).backward()
        optimizer.step()
        optimizer.zero_grad()
        if device == "cuda":
            torch.cuda.synchronize()
        took.append(time.perf_counter() - start)
    return BATCH / statistics.median(took[3:])


def build_model() -> Any:
    import torch

    from hfseg.labels import Labels
    from hfseg.models import build

    torch.manual_seed(0)
    return build("segformer-b0", Labels(["background", "boundary", "pet"]), weights="scratch")


def load_pets() -> tuple[Any, Any]:
    from hfseg.data import load

    dataset, _ = load("pets", data_dir=str(test_data("pets")), validation_fraction=0.1, split_seed=0)
    return dataset["train"], dataset["validation"]


if __name__ == "__main__":
    if sys.argv[1:2] == ["--alone"]:
        way, *extra, epochs = sys.argv[2:]
        alone(way, int(epochs), extra)
    else:
        main(run)

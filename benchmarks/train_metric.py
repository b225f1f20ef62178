"""What the training mIoU costs: its share of a training step of SegFormer-B0, at 64 x 64 (batch 64) and 256 x 256 (8).

python benchmarks/train_metric.py
"""

import statistics
import time
from collections.abc import Callable

import torch

from hfseg.labels import Labels
from hfseg.losses import cross_entropy, upsample
from hfseg.metrics import confusion_matrix, predict_ids
from hfseg.models import build

NUM_LABELS, ROUNDS = 3, 7


def main() -> None:
    print(f"{torch.get_num_threads()} threads, median of {ROUNDS}; target: under 3 %")
    for side, batch in ((64, 64), (256, 8)):
        step, metric = measure_both(side, batch)
        share = f"{100 * metric / step:.2f} % of the step"
        print(f"{side:4} px, batch {batch:2}: step {1000 * step:.0f} ms, mIoU {1000 * metric:.1f} ms = {share}")


def measure_both(side: int, batch: int) -> tuple[float, float]:
    """Seconds of a training step, and of the metric alone."""
    model = build("segformer-b0", Labels([str(i) for i in range(NUM_LABELS)])).train()
    optimizer = torch.optim.AdamW(model.parameters(), amsgrad=True)
    images, labels = torch.randn(batch, 3, side, side), torch.randint(0, NUM_LABELS, (batch, side, side))
    logits = torch.randn(batch, NUM_LABELS, side, side)

    def step() -> None:
        optimizer.zero_grad()
        cross_entropy(upsample(model(pixel_values=images).logits, (side, side)), labels).backward()
        optimizer.step()

    return measure(step), measure(lambda: confusion_matrix(predict_ids(logits), labels, NUM_LABELS))


def measure(function: Callable[[], object]) -> float:
    """Median seconds of a call."""
    function()
    seconds = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


if __name__ == "__main__":
    main()

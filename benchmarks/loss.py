"""Loss of logits at stride 4, forward and backward: memory and time against upsampling them whole.

The baseline is what transformers' models do in their own loss: interpolate, then torch's cross-entropy. Ours counts the
confusion matrix as well. Memory is the peak of a process of its own, Python and torch included.
"""

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F

from benchmarks.measure import Options, compare, in_process, main, report, seconds, tracing
from hfseg.bands import cross_entropy_by_bands, is_large
from hfseg.losses import cross_entropy, upsample
from hfseg.metrics import confusion_matrix, predict_ids

# images, classes, side of the labels
LARGE, SMALL, TINY = (8, 150, 512), (64, 3, 64), (2, 20, 64)
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def draw(case: tuple[int, int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    num_images, num_labels, side = case
    torch.manual_seed(0)
    logits = torch.randn(num_images, num_labels, side // 4, side // 4, device=DEVICE, requires_grad=True)
    labels = torch.randint(0, num_labels, (num_images, side, side), dtype=torch.uint8, device=DEVICE)
    labels[:, : side // 8] = 255
    return logits, labels


def stock(logits: torch.Tensor, labels: torch.Tensor) -> None:
    full = F.interpolate(logits, size=labels.shape[-2:], mode="bilinear", align_corners=False)
    F.cross_entropy(full, labels.long(), ignore_index=255).backward()


def ours(logits: torch.Tensor, labels: torch.Tensor) -> None:
    """As SegTrainer does it, counts included."""
    if is_large(logits, labels.shape[-2:]):
        cross_entropy_by_bands(logits, labels)[0].backward()
        return
    full = upsample(logits, labels.shape[-2:])
    confusion_matrix(predict_ids(full.detach()), labels, logits.shape[1], check=False)
    cross_entropy(full, labels).backward()


WAYS: dict[str, Callable[[torch.Tensor, torch.Tensor], None]] = {"stock": stock, "ours": ours}


def run(options: Options) -> list[dict[str, Any]]:
    case = TINY if options.quick else LARGE
    name = f"loss, batch {case[0]}, {case[1]} classes, {case[2]} x {case[2]}"
    size = [str(number) for number in case]
    memory = {way: in_process("benchmarks.loss", "--alone", way, *size, key="peak_mb") for way in WAYS}
    rows = [compare(f"{name}: peak memory", memory["stock"], memory["ours"], unit="MB", target=4.0, rounds=1)]
    least = 1.0 if DEVICE == "cuda" else 1 / 1.2
    for this, label, target in ((case, name, least), (SMALL, "loss, batch 64, 3 classes, 64 x 64", None)):
        tensors = draw(this)
        sides = {way: seconds(lambda way=way, tensors=tensors: WAYS[way](*tensors)) for way in WAYS}
        rows.append(
            compare(f"{label}: time", sides["stock"], sides["ours"], unit="s", target=target, rounds=options.rounds)
        )
    with tracing(options.trace):
        if options.trace:
            ours(*draw(case))
    return rows


if __name__ == "__main__":
    if sys.argv[1:2] == ["--alone"]:
        WAYS[sys.argv[2]](*draw(tuple(int(number) for number in sys.argv[3:])))  # type: ignore[arg-type]
        report()
    else:
        main(run)

"""What two processes say to each other at each step: bytes of gradients, and the time that exchanging them takes.

Two processes on this machine, over gloo on a CPU and NCCL on GPUs; DistributedDataParallel as SegTrainer uses it. Time
is that of a step which exchanges gradients over that of one which does not (no_sync).

python -m benchmarks.communication
"""

import json
import os
import statistics
import subprocess
import sys
import time
from typing import Any

import torch
from torch import distributed
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
from torch.nn.parallel import DistributedDataParallel

from benchmarks.measure import ROOT, machine
from hfseg.labels import Labels
from hfseg.losses import cross_entropy
from hfseg.models import build
from hfseg.models.segformer_head import reorder_decode_head

MODELS = {"segformer-b0": 8, "fcn_resnet50": 2, "timm/tf_efficientnet_lite0": 8}  # images of a process
SIDE, STEPS = 128, 8


def main() -> None:
    if "RANK" in os.environ:
        compare_steps(sys.argv[1])
        return
    print(f"communication: {machine()}; 2 processes x 1 thread, images of {SIDE} x {SIDE}")
    print(f"{'model':28} {'MB a step':>10} {'step, s':>10} {'without':>10} {'exchange':>10}")
    for model in MODELS:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
        command += ["-m", "benchmarks.communication", model]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        row = json.loads(done.stdout.splitlines()[-1])
        exchange = row["with"] - row["without"]
        numbers = f"{row['bytes'] / 1e6:10.1f} {row['with']:10.3f} {row['without']:10.3f}"
        print(f"{model:28} {numbers} {exchange:8.3f} s, {exchange / row['with']:.0%}", flush=True)


def compare_steps(name: str) -> None:
    cuda = torch.cuda.device_count() > 1
    distributed.init_process_group("nccl" if cuda else "gloo")
    rank = distributed.get_rank()
    device = torch.device("cuda", rank) if cuda else torch.device("cpu")
    torch.manual_seed(rank)
    network = build(name, Labels(["a", "b", "c"]), weights="scratch").to(device)
    reorder_decode_head(network)
    model: Any = DistributedDataParallel(network, gradient_as_bucket_view=True, broadcast_buffers=False)
    sent = [0]

    def count(state: Any, bucket: distributed.GradBucket) -> torch.futures.Future[torch.Tensor]:
        sent[0] += bucket.buffer().numel() * bucket.buffer().element_size()
        return default_hooks.allreduce_hook(state, bucket)

    model.register_comm_hook(None, count)
    batch = MODELS[name]
    pixels = torch.randn(batch, 3, SIDE, SIDE, device=device)
    labels = torch.randint(0, 3, (batch, SIDE, SIDE), device=device)

    def step() -> float:
        distributed.barrier()
        start = time.perf_counter()
        cross_entropy(model(pixel_values=pixels).logits, labels).backward()
        if cuda:
            torch.cuda.synchronize()
        return time.perf_counter() - start

    times: dict[str, list[float]] = {"with": [], "without": []}
    for _ in range(STEPS + 2):  # in turn; the first two warm up
        times["with"].append(step())
        with model.no_sync():
            times["without"].append(step())
    if rank == 0:
        middle = {name: statistics.median(values[2:]) for name, values in times.items()}
        print(json.dumps(middle | {"bytes": sent[0] / (STEPS + 2)}), flush=True)
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()

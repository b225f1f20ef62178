"""Run by test_distributed.py under accelerate: only the second process meets values that are not finite.

accelerate launch ... tests/two_processes_nan.py OUT_DIR
"""

import sys
from pathlib import Path

import torch
from accelerate import PartialState

sys.path.insert(0, str(Path(__file__).parent))
from test_nonfinite import train

from hfseg.errors import RunError
from hfseg.workers import leave

out, rank = Path(sys.argv[1]), PartialState(cpu=True).process_index
result = {}
for how in ("pixel", "loss", "gradient"):
    trainer, keep = train(out / how, {1: how} if rank == 1 else {})
    log = next(entry for entry in trainer.state.log_history if "loss" in entry)
    weights = [{name.removeprefix("module."): v for name, v in weights.items()} for weights, _ in keep.states]
    result[how] = {"skipped": log["skipped_steps"], "loss": log["loss"], "weights": weights}
try:
    train(out / "end", {1: "loss", 2: "pixel"} if rank == 1 else {}, max_nonfinite_steps=2)
except RunError as error:
    result["end"] = {"message": str(error), "everywhere": error.everywhere}
torch.save(result, out / f"rank{rank}.pt")
leave(trainer.accelerator)

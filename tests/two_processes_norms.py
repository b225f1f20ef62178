"""Run by test_distributed.py under accelerate: what BatchNorm has counted, in evaluation on each process.

accelerate launch ... tests/two_processes_norms.py OUT_DIR
"""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
from test_trainer import arguments, batch_of, tiny_segformer

from hfseg.trainer import SegTrainer
from hfseg.workers import leave

out = Path(sys.argv[1])
model = tiny_segformer()
args = arguments(out / "run", per_device_train_batch_size=2, per_device_eval_batch_size=2, max_steps=3)
trainer = SegTrainer(model, args, train_dataset=batch_of(12), eval_dataset=batch_of(4, seed=1))
trainer.train()
before = {name: buffer.clone() for name, buffer in model.named_buffers()}
seen: list[dict[str, torch.Tensor]] = []
model.register_forward_hook(lambda *_: seen.append({name: buffer.clone() for name, buffer in model.named_buffers()}))
trainer.evaluate()
torch.save({"before": before, "seen": seen}, out / f"rank{trainer.args.process_index}.pt")
leave(trainer.accelerator)

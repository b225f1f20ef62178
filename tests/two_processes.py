"""Run by test_distributed.py under accelerate: one training step, one evaluation, and what they gave, as a file.

accelerate launch ... tests/two_processes.py OUT.pt BATCH_SIZE
"""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
from test_trainer import KeepGradients, arguments, batch_of, native_samples, norms_in_eval, tiny_segformer

from hfseg.trainer import SegTrainer
from hfseg.workers import leave

out, batch_size = Path(sys.argv[1]), int(sys.argv[2])
model = norms_in_eval(tiny_segformer())
seen: set[torch.dtype] = set()
model.segformer.register_forward_hook(lambda module, inputs, outputs: seen.add(outputs[0].dtype))
keep = KeepGradients()
args = arguments(out.parent / "run", per_device_train_batch_size=batch_size, per_device_eval_batch_size=2)
trainer = SegTrainer(model, args, train_dataset=batch_of(8), eval_dataset=native_samples(), callbacks=[keep])
trainer.train()
metrics = trainer.evaluate()
print(f"world_size={trainer.args.world_size} {trainer.accelerator.distributed_type}", flush=True)
if trainer.is_world_process_zero():
    log = trainer.state.log_history[0]
    result = {
        "world_size": trainer.args.world_size,
        "distributed_type": str(trainer.accelerator.distributed_type),
        "mixed_precision": trainer.accelerator.mixed_precision,
        "activations": sorted(map(str, seen)),
        "weights": str(next(model.parameters()).dtype),
        "loss": log["loss"],
        "train_mean_iou": log["train_mean_iou"],
        "gradients": {name.removeprefix("module."): g for name, g in keep.gradients.items()},
        "matrix": trainer.eval_metric.matrix,
        "eval_loss": metrics["eval_loss"],
    }
    torch.save(result, out)
leave(trainer.accelerator)

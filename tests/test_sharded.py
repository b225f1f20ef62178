"""FSDP's spreading of weights, by torch itself on two CPU processes: into the bundle and back."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import sys
from pathlib import Path
import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard

sys.path.insert(0, sys.argv[1])
from test_trainer import tiny_segformer

from hfseg.bundle import write_bundle
from hfseg.checkpoints import reload_weights
from hfseg.data.transforms import build_processor
from hfseg.sharded import gather_weights, is_sharded

dist.init_process_group("gloo")
folder = Path(sys.argv[2])
torch.manual_seed(0)
model, whole = tiny_segformer(), tiny_segformer()
whole.load_state_dict(model.state_dict())
assert gather_weights(model) is None and not is_sharded(model)
mesh = dist.init_device_mesh("cpu", (2,))
for layer in [m for m in model.modules() if type(m).__name__ in type(model)._no_split_modules]:
    fully_shard(layer, mesh=mesh)
fully_shard(model, mesh=mesh)
assert is_sharded(model)
weights = gather_weights(model)
assert bool(weights) == (dist.get_rank() == 0)
if dist.get_rank() == 0:
    write_bundle(folder, model, build_processor((32, 32)), {}, {}, "", weights=weights)
dist.barrier()
with torch.no_grad():
    for parameter in model.parameters():
        parameter.zero_()
reload_weights(model, folder)
for name, parameter in model.named_parameters():
    assert torch.equal(parameter.full_tensor(), whole.get_parameter(name)), name
pixels = torch.rand(2, 3, 32, 32)
torch.testing.assert_close(model.eval()(pixels).logits, whole.eval()(pixels).logits)
reload_weights(whole, folder)  # a plain model reads the same bundle
dist.barrier()
dist.destroy_process_group()
print("as before", flush=True)
"""


@pytest.mark.slow
def test_a_spread_model_is_kept_whole_and_comes_back(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += [str(script), str(Path(__file__).parent), str(tmp_path / "best")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and done.stdout.count("as before") == 2, done.stderr[-3000:]
    assert (tmp_path / "best" / "model.safetensors").is_file()

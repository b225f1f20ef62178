"""A run as small as one can be, started as a user does, for tests that break it: augmentation on, 2 workers.

What two runs left is compared bit for bit: weights, optimiser, schedule, random numbers, log and best model.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

ROOT = Path(__file__).parents[1]
STEPS = 16  # 4 epochs of 4 steps
TIMES = ("seconds", "per_second", "runtime", "memory", "flos", "time")

RECIPE: dict[str, Any] = {
    "dataset": "synthetic",
    "num_images": 16,
    "max_eval_samples": 4,
    "image_size": 32,
    "num_train_epochs": 4,
    "per_device_train_batch_size": 4,
    "per_device_eval_batch_size": 4,
    "learning_rate": 1e-2,
    "lr_scheduler_type": "cosine",
    "horizontal_flip": 0.5,
    "scale_jitter": [0.75, 1.5],
    "photometric_distortion": True,
    "dataloader_num_workers": 2,
    "save_strategy": "steps",
    "save_steps": 3,
    "save_total_limit": 2,
    "use_cpu": True,
    "seed": 5,
}


def write_recipe(folder: Path, dropout: float = 0.1, **settings: Any) -> Path:
    """A recipe of a SegFormer with four stages of one small layer each, dropout and stochastic depth included."""
    from transformers import SegformerConfig, SegformerForSemanticSegmentation, SegformerImageProcessor

    model = folder / "tiny"
    if not model.is_dir():
        torch.manual_seed(0)
        sizes = dict(depths=[1] * 4, hidden_sizes=[8] * 4, num_attention_heads=[1] * 4, decoder_hidden_size=8)
        rates = dict(hidden_dropout_prob=dropout, classifier_dropout_prob=dropout, drop_path_rate=dropout)
        config = SegformerConfig(**sizes, **rates, num_labels=3)
        SegformerForSemanticSegmentation(config).save_pretrained(model)
        SegformerImageProcessor(size={"height": 32, "width": 32}, do_reduce_labels=False).save_pretrained(model)
    path = folder / "recipe.json"
    path.write_text(json.dumps(RECIPE | {"model": str(model)} | settings))
    return path


def command(recipe: Path, output_dir: Path, *options: Any) -> list[str]:
    words = [sys.executable, "-m", "hfseg.cli", "train", recipe, "--output_dir", output_dir, *options]
    return [str(word) for word in words]


def read_run(output_dir: Path) -> dict[str, Any]:
    """All that a finished run must have in common with one that was never broken off, as tensors and plain values."""
    last = max(output_dir.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    state = json.loads((last / "trainer_state.json").read_text())
    best = json.loads((output_dir / "best" / "metrics.json").read_text())
    return {
        "weights": load_file(last / "model.safetensors"),
        "best": load_file(output_dir / "best" / "model.safetensors"),
        "optimizer": torch.load(last / "optimizer.pt", weights_only=True),
        "scheduler": torch.load(last / "scheduler.pt", weights_only=True),
        "random numbers": [torch.load(path, weights_only=False)["cpu"] for path in sorted(last.glob("rng_state*.pth"))],
        "log": [_without_times(entry) for entry in state["log_history"]],
        "step": state["global_step"],
        "best metrics": _without_times(best),
    }


def list_differences(one: Any, other: Any, where: str = "") -> list[str]:
    """Paths at which two nests of dicts, lists, tensors and numbers differ in any bit."""
    if isinstance(one, dict) and isinstance(other, dict):
        keys = list(dict.fromkeys([*one, *other]))
        return [d for k in keys for d in list_differences(one.get(k), other.get(k), f"{where}/{k}")]
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)) and len(one) == len(other):
        return [d for i, pair in enumerate(zip(one, other)) for d in list_differences(*pair, f"{where}/{i}")]
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return [] if one.dtype == other.dtype and torch.equal(one, other) else [where]
    return [] if type(one) is type(other) and one == other else [f"{where}: {one!r} != {other!r}"[:200]]


def _without_times(entry: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if not any(word in key for word in TIMES)}

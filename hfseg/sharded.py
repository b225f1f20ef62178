"""Weights that are spread over several processes (FSDP): whole for a file, and back from one."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict
from torch.distributed.tensor import DTensor


def is_sharded(model: nn.Module) -> bool:
    """Whether this process holds only a part of the weights."""
    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


def gather_weights(model: nn.Module) -> dict[str, Any] | None:
    """The whole weights on the CPU of the main process, an empty dict on the others; None where nothing is spread.

    Every process must call it.
    """
    if not is_sharded(model):
        return None
    return get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))


def load_weights(model: nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    """Puts whole weights, which every process has, into a model, spread or not; each tensor must have its place."""
    if is_sharded(model):
        set_model_state_dict(model, dict(weights), options=StateDictOptions(full_state_dict=True, strict=True))
    else:
        model.load_state_dict(weights, strict=True)

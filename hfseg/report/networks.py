"""A network as built, stage by stage: seen in one forward pass."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from hfseg.models.encoder import find_encoder
from hfseg.plots import Stage

MAX_STAGES = 8  # of an encoder; a longer chain is joined where the size of its maps stays the same
SMALL = ("BatchNorm", "LayerNorm", "GroupNorm", "BatchNormAct")  # belong to the module before them


def read_stages(model: PreTrainedModel, size: tuple[int, int]) -> list[Stage]:
    """The encoder's stages and the head's parts with output shape and number of parameters.

    Args:
        model: on the CPU.
        size: (height, width) of the input in pixels.
    """
    encoder = find_encoder(model)
    heads = [child for child in model.children() if child is not encoder and _count(child)]
    chain = [("encoder", module) for module in _unfold(encoder)]
    chain += [("head", module) for head in heads for module in head.children() if _count(module)]
    shapes: dict[int, tuple[int, int, int]] = {}
    features: list[tuple[int, ...]] = []
    hooks = [
        inner.register_forward_hook(partial(_note, shapes, id(module), size))
        for _, module in chain
        for inner in (module if isinstance(module, nn.ModuleList) else [module])
    ]
    hooks.append(encoder.register_forward_hook(lambda _, __, output: features.extend(_maps(output))))
    was_training = model.training
    try:
        with torch.no_grad():
            model.eval()(pixel_values=torch.zeros(1, 3, *size))
    finally:
        for hook in hooks:
            hook.remove()
        model.train(was_training)
    stages: list[Stage] = []
    for part, module in chain:
        name, shape = _describe(module), shapes.get(id(module))
        joins = stages and stages[-1].part == part and type(module).__name__.startswith(SMALL)
        if shape is None or joins:
            if stages:
                stages[-1].parameters += _count(module)
            continue
        stages.append(Stage(part, name, shape, _count(module)))
    return _mark(_join(stages), features)


def _unfold(encoder: nn.Module) -> list[nn.Module]:
    """The encoder's children, with the containers among them opened that hold most of its weights."""
    modules: list[nn.Module] = []
    for child in encoder.children():
        container = isinstance(child, nn.ModuleList) or (
            isinstance(child, nn.Sequential) and _count(child) > 0.7 * _count(encoder)
        )
        if container or (_count(child) > 0.9 * _count(encoder) and len(list(child.children())) > 1):
            modules += _unfold(child)
        elif _count(child):
            modules.append(child)
    return modules


def _join(stages: list[Stage]) -> list[Stage]:
    encoder = [stage for stage in stages if stage.part == "encoder"]
    if len(encoder) <= MAX_STAGES:
        return stages
    joined: list[list[Stage]] = []
    for stage in encoder:
        if joined and joined[-1][-1].shape[1:] == stage.shape[1:]:
            joined[-1].append(stage)
        else:
            joined.append([stage])
    merged = []
    for group in joined:
        kinds = list(dict.fromkeys(stage.name for stage in group))
        counts = [sum(stage.name == kind for stage in group) for kind in kinds]
        name = _shorten(", ".join(f"{n} x {kind}" if n > 1 else kind for n, kind in zip(counts, kinds)))
        merged.append(Stage("encoder", name, group[-1].shape, sum(stage.parameters for stage in group)))
    return merged + [stage for stage in stages if stage.part == "head"]


def _mark(stages: list[Stage], features: list[tuple[int, ...]]) -> list[Stage]:
    """Marks the last stage with each shape that the encoder gives out."""
    for shape in set(features):
        fitting = [stage for stage in stages if stage.part == "encoder" and stage.shape == shape]
        if fitting:
            fitting[-1].to_head = True
    return stages


def _describe(module: nn.Module) -> str:
    """'3 x Bottleneck' for a chain of equal blocks, else what the module is."""
    name = type(module).__name__
    children = list(module.children())
    lists = [list(child) for child in children if isinstance(child, nn.ModuleList) and len(child)]
    blocks = children if isinstance(module, nn.Sequential | nn.ModuleList) else (lists[0] if lists else [])
    kinds = {_describe(block) if isinstance(block, nn.Sequential) else type(block).__name__ for block in blocks}
    if len(kinds) == 1:
        return f"{len(blocks)} x {kinds.pop()}"
    if isinstance(module, nn.Conv2d):
        stride = f", stride {module.stride[0]}" if module.stride[0] > 1 else ""
        return f"{name} {module.kernel_size[0]} x {module.kernel_size[1]}{stride}"
    if isinstance(module, nn.Sequential):
        parts = [type(child).__name__ for child in children]
        return _shorten(" + ".join(part for part in parts if not part.startswith((*SMALL, "Identity", "Dropout"))))
    return name


def _shorten(text: str, limit: int = 40) -> str:
    return text if len(text) <= limit else f"{text[: limit - 3].rstrip()}..."


def _note(
    shapes: dict[int, tuple[int, int, int]], key: int, size: tuple[int, int], module: nn.Module, _: Any, output: Any
) -> None:
    for tensor in _tensors(output):
        if tensor.ndim == 4:
            shapes[key] = tuple(tensor.shape[1:])  # type: ignore[assignment]
            return
        if tensor.ndim == 3:  # (1, H * W, C) tokens of a map with the input's proportions
            height = max(round((tensor.shape[1] * size[0] / size[1]) ** 0.5), 1)
            shapes[key] = (tensor.shape[2], height, tensor.shape[1] // height)
            return


def _maps(output: Any) -> list[tuple[int, ...]]:
    return [tuple(tensor.shape[1:]) for tensor in _tensors(output) if tensor.ndim == 4]


def _tensors(output: Any) -> Iterator[torch.Tensor]:
    if isinstance(output, torch.Tensor):
        yield output
    elif isinstance(output, dict):
        yield from _tensors(list(output.values()))
    elif isinstance(output, list | tuple):
        for part in output:
            yield from _tensors(part)


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())

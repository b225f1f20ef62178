"""Where an encoder's weights start, and how it is frozen."""

import logging
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import MethodType
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from transformers import AutoConfig, PreTrainedModel

from hfseg.errors import InputError

logger = logging.getLogger(__name__)

WEIGHT_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
NO_NETWORK = "Give a file or folder that is already here, or --weights scratch."


def find_encoder(model: PreTrainedModel) -> nn.Module:
    """The part of a segmentation model that turns an image into features.

    Raises:
        InputError: the model has no such part under a known name.
    """
    for name in (model.base_model_prefix, "encoder", "backbone"):
        if name and isinstance(getattr(model, name, None), nn.Module):
            return getattr(model, name)
    raise InputError(f"A {type(model).__name__} has no encoder of its own that could be loaded or frozen.")


def freeze_encoder(model: PreTrainedModel) -> None:
    """No gradients for the encoder, and evaluation mode for good: running statistics and dropout stand still.

    Turning gradients off is not enough: Trainer calls model.train() at every step, and norms would drift.
    """
    encoder = find_encoder(model)
    encoder.requires_grad_(False)
    encoder.eval()
    encoder.train = MethodType(_stay_in_eval, encoder)  # type: ignore[method-assign]


def _stay_in_eval(self: nn.Module, mode: bool = True) -> nn.Module:
    return self


def load_encoder(model: PreTrainedModel, source: str | Path) -> int:
    """Takes the encoder's weights from `source`; the head keeps its new weights.

    Args:
        model: changed in place.
        source: a folder or Hub id that transformers can load into this architecture (a bundle, a segmentation or an
            image classification checkpoint), or a .safetensors, .pth, .pt or .bin file with a state_dict.

    Returns:
        Number of tensors taken.

    Raises:
        InputError: nothing there, unreadable, or not one tensor fits.
    """
    path = Path(source)
    if path.is_file():
        given = read_state_dict(path)
    elif path.is_dir() or not (path.suffix in WEIGHT_SUFFIXES or str(source).startswith((".", "/", "~"))):
        given = _load_checkpoint(model, source)
    else:
        raise InputError(f"weights: there is no file or folder {source}.")
    return copy_weights(find_encoder(model), given, str(source))


def read_state_dict(path: Path) -> dict[str, torch.Tensor]:
    """Tensors by name from a .safetensors file, or from a pickle that holds nothing but tensors."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, SafetensorError, EOFError, ValueError) as error:
        raise InputError(f"weights: {path} can't be read: {str(error).splitlines()[0]}") from error
    except Exception as error:
        if type(error).__name__ != "UnpicklingError":
            raise
        raise InputError(
            f"weights: {path} holds more than tensors and is not loaded, since it could run code."
        ) from None
    for key in ("state_dict", "model", "model_state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    tensors = {k: v for k, v in content.items() if isinstance(v, torch.Tensor)} if isinstance(content, Mapping) else {}
    if not tensors:
        raise InputError(f"weights: {path} holds no state_dict (a mapping from names to tensors).")
    return tensors


def _load_checkpoint(model: PreTrainedModel, source: str | Path) -> dict[str, torch.Tensor]:
    """The encoder of a transformers checkpoint, through its own loader, which converts older key formats."""
    try:
        config = AutoConfig.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise InputError(f"weights: {source} can't be loaded: {_first(error)} {NO_NETWORK}") from error
    if config.model_type != model.config.model_type:
        raise InputError(
            f"weights: {source} is a {config.model_type}, the model is a {model.config.model_type}; give weights of "
            "the same architecture."
        )
    try:
        loaded, info = type(model).from_pretrained(source, output_loading_info=True, dtype=torch.float32)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise InputError(f"weights: {source} can't be loaded: {_first(error)} {NO_NETWORK}") from error
    encoder = find_encoder(loaded)
    prefix = next(name for name, module in loaded.named_modules() if module is encoder) + "."
    missing = {str(key) for key in info["missing_keys"]}
    return {k: v for k, v in encoder.state_dict().items() if prefix + k not in missing}


def copy_weights(encoder: nn.Module, given: Mapping[str, torch.Tensor], source: str) -> int:
    """Copies the tensors of `given` that fit into the encoder, and logs the others.

    Names are compared after the prefix under which most of them fit (`backbone.`, `module.encoder.`, ...).
    """
    own = encoder.state_dict()
    found = match_names(own, given)
    if not found:
        shown = [*list(own)[:2], "...", "against", *list(given)[:2], "..."]
        raise InputError(f"weights: nothing in {source} fits the encoder ({' '.join(shown)}).")
    encoder.load_state_dict({name: given[key] for name, key in found.items()}, strict=False)
    lines = [f"  - {name} {tuple(own[name].shape)}: not in the file" for name in own if name not in found]
    lines += [f"  + {key} {tuple(given[key].shape)}: only in the file" for key in given if key not in found.values()]
    lines = [line for line in lines if "num_batches_tracked" not in line]
    if len(lines) > 20:
        lines = [*lines[:20], f"  ... {len(lines) - 20} more"]
    level = logging.INFO if 2 * len(found) >= len(own) else logging.WARNING
    logger.log(level, "\n".join([f"{len(found)} of {len(own)} encoder tensors from {source}", *lines]))
    return len(found)


def match_names(own: Mapping[str, torch.Tensor], given: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """Own name -> given name, for tensors of equal name and shape after one common prefix on either side.

    timm's features_only wrappers join two levels (`layers.0` becomes `layers_0`): dots and underscores are the same.
    """
    plain_own = {name.replace(".", "_"): name for name in own}
    plain_given = {name.replace(".", "_"): name for name in given}
    prefixes: Counter[tuple[str, str]] = Counter()
    for theirs in plain_given:
        for ours in plain_own:
            if theirs == ours or theirs.endswith(f"_{ours}"):
                prefixes[theirs.removesuffix(ours), ""] += 1
            elif ours.endswith(f"_{theirs}"):
                prefixes["", ours.removesuffix(theirs)] += 1
    best: dict[str, str] = {}
    for (their_prefix, our_prefix), _ in prefixes.most_common(20):
        pairs = {
            plain_own[our_prefix + key.removeprefix(their_prefix)]: name
            for key, name in plain_given.items()
            if key.startswith(their_prefix) and our_prefix + key.removeprefix(their_prefix) in plain_own
        }
        pairs = {ours: theirs for ours, theirs in pairs.items() if own[ours].shape == given[theirs].shape}
        if len(pairs) > len(best):
            best = pairs
    return best


def rename_by_order(
    reference: Mapping[str, torch.Tensor], given: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor] | None:
    """The tensors under the reference's names, when both have the same shapes in the same order; else None."""
    ours, theirs = list(reference.values()), list(given.values())
    if len(ours) != len(theirs) or any(a.shape != b.shape for a, b in zip(ours, theirs)):
        return None
    return dict(zip(reference, theirs))


def _first(error: Exception) -> str:
    return " ".join(str(error).split())[:200]

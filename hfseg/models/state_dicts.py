"""Tensors by name: read from a file, matched with a module's names, copied into it."""

import logging
import pickle
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from hfseg.errors import InputError

logger = logging.getLogger(__name__)

WEIGHT_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
# What comes of a checkpoint that is not what it says: a stranger wrote its config, which can break anything in a model.
UNLOADABLE = (
    *(OSError, ValueError, RuntimeError, SafetensorError, pickle.UnpicklingError, StrictDataclassError),
    *(TypeError, KeyError, AttributeError, ImportError),
)
MAX_LINES = 20  # of keys that don't fit, in the log

StateDict = Mapping[str, torch.Tensor]


def read_state_dict(path: Path) -> dict[str, torch.Tensor]:
    """Tensors by name from a .safetensors file, or from a pickle that holds nothing but tensors.

    Raises:
        InputError: unreadable, holds other objects than tensors, or no mapping from names to tensors.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:  # before its base classes' siblings: torch raises it for anything but tensors
        raise InputError(
            f"weights: {path} is no state_dict, or holds more than tensors, which could run code; it is not loaded. "
            "Save it again with torch.save(model.state_dict(), ...) or as .safetensors."
        ) from None
    except (OSError, RuntimeError, SafetensorError, EOFError, ValueError, KeyError) as error:
        raise InputError(f"weights: {path} can't be read: {one_line(error)}") from error
    for key in ("state_dict", "model", "model_state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    tensors = {k: v for k, v in content.items() if isinstance(v, torch.Tensor)} if isinstance(content, Mapping) else {}
    if not tensors:
        raise InputError(f"weights: {path} holds no state_dict (a mapping from names to tensors).")
    return tensors


def copy_weights(module: nn.Module, given: StateDict, source: str) -> int:
    """Copies the tensors of `given` that fit into the module, and logs the others with - and +.

    Returns:
        Number of tensors copied.

    Raises:
        InputError: not one fits.
    """
    own = module.state_dict()
    found, prefix = match_names(own, given)
    if not found:
        shown = [*list(own)[:2], "...", "against", *list(given)[:2], "..."]
        raise InputError(
            f"weights: nothing in {source} fits the encoder ({' '.join(shown)}). Give weights of the same "
            "architecture, or --weights scratch."
        )
    module.load_state_dict({name: given[key] for name, key in found.items()}, strict=False)
    taken = set(found.values())
    plain_given = {_plain(key): key for key in given}
    lines = []
    for name in (name for name in own if name not in found):
        theirs = plain_given.get(_plain(prefix + name))
        reason = "not in the source" if theirs is None else f"{tuple(given[theirs].shape)} in the source"
        lines.append(f"  - {name} {tuple(own[name].shape)}: {reason}")
    rest = [key for key in given if key not in taken and not key.endswith("num_batches_tracked")]
    inside = [key for key in rest if _plain(key).startswith(_plain(prefix))]
    lines += [f"  + {key} {tuple(given[key].shape)}: only in the source" for key in inside]
    if len(lines) > MAX_LINES:
        lines = [*lines[:MAX_LINES], f"  ... {len(lines) - MAX_LINES} more"]
    if len(rest) > len(inside):
        heads = sorted({key.split(".")[0] for key in rest if key not in inside})
        lines.append(f"  + {len(rest) - len(inside)} tensors outside the encoder: {', '.join(heads[:8])}")
    level = logging.INFO if 2 * len(found) >= len(own) else logging.WARNING
    logger.log(level, "\n".join([f"{len(found)} of {len(own)} encoder tensors from {source}", *lines]))
    return len(found)


def match_names(own: StateDict, given: StateDict) -> tuple[dict[str, str], str]:
    """Pairs tensors of equal name and shape, after the one prefix on either side under which most of them fit.

    timm's features_only wrappers join two levels (`layers.0` becomes `layers_0`): dots and underscores are the same.

    Returns:
        Own name -> given name, and the prefix of the given names (empty when it is on our side).
    """
    plain_own, plain_given = {_plain(name): name for name in own}, {_plain(name): name for name in given}
    prefixes: Counter[tuple[str, str]] = Counter()
    for theirs in plain_given:
        for ours in plain_own:
            if theirs == ours or theirs.endswith(f"_{ours}"):
                prefixes[theirs.removesuffix(ours), ""] += 1
            elif ours.endswith(f"_{theirs}"):
                prefixes["", ours.removesuffix(theirs)] += 1
    best: dict[str, str] = {}
    best_prefix = ""
    for (their_prefix, our_prefix), _ in prefixes.most_common(20):
        pairs = {
            plain_own[our_prefix + key.removeprefix(their_prefix)]: name
            for key, name in plain_given.items()
            if key.startswith(their_prefix) and our_prefix + key.removeprefix(their_prefix) in plain_own
        }
        pairs = {ours: theirs for ours, theirs in pairs.items() if own[ours].shape == given[theirs].shape}
        if len(pairs) > len(best):
            best, best_prefix = pairs, their_prefix
    if not best_prefix:
        return best, ""
    return best, next(iter(best.values()))[: len(best_prefix)]


def rename_by_order(reference: StateDict, given: StateDict) -> dict[str, torch.Tensor] | None:
    """The tensors under the reference's names, when both have the same shapes in the same order; else None."""
    ours, theirs = list(reference.values()), list(given.values())
    if len(ours) != len(theirs) or any(a.shape != b.shape for a, b in zip(ours, theirs)):
        return None
    return dict(zip(reference, theirs))


def one_line(error: BaseException, limit: int = 200) -> str:
    """An error's text on one line, cut after a word, with a full stop."""
    text = " ".join(str(error).split()) or type(error).__name__
    if len(text) > limit:
        text = text[:limit].rsplit(" ", 1)[0] + " ..."
    return text if text.endswith(".") else f"{text}."


def _plain(name: str) -> str:
    return name.replace(".", "_")

"""Where an encoder's weights start, and how it is frozen."""

import copy
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedModel

from hfseg.errors import InputError, near_names
from hfseg.hub_errors import describe_hub_error
from hfseg.models.state_dicts import UNLOADABLE, WEIGHT_SUFFIXES, copy_weights, match_names, one_line, read_state_dict

NO_NETWORK = "Without a network, give a file or folder that is already here, or --weights scratch."


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
    encoder.train = partial(_stay_in_eval, encoder)  # type: ignore[method-assign]  # a bound method is not picklable


def _stay_in_eval(module: nn.Module, mode: bool = True) -> nn.Module:
    return module


def load_encoder(model: PreTrainedModel, source: str | Path, *, trust_remote_code: bool = False) -> int:
    """Takes the encoder's weights from `source`; the head keeps its new weights.

    Args:
        model: changed in place.
        source: a folder or Hub id that transformers can load (a bundle, a segmentation or an image classification
            checkpoint), or a .safetensors, .pth, .pt or .bin file with a state_dict.
        trust_remote_code: let a checkpoint bring code of its own.

    Returns:
        Number of tensors taken.

    Raises:
        InputError: nothing there, unreadable, or not one tensor fits.
    """
    path = Path(source)
    if path.is_file() and not (path.with_name("config.json").is_file() and path.stem in ("model", "pytorch_model")):
        given = _read_file(model, path)
    elif path.is_dir() or path.is_file():  # a checkpoint's weight file is read with the config beside it
        folder = path if path.is_dir() else path.parent
        if not (folder / "config.json").is_file():
            best = folder / "best"
            hint = f" Give {best}." if (best / "config.json").is_file() else " Give a checkpoint, or a state_dict file."
            raise InputError(f"weights: {folder} holds no model (no config.json).{hint}")
        given = _read_checkpoint(model, str(folder), trust_remote_code)
    elif path.suffix in WEIGHT_SUFFIXES or str(source).startswith((".", "/", "~")) or str(source).count("/") > 1:
        raise InputError(f"weights: there is no file or folder {source}. Correct the path, or give --weights scratch.")
    elif "/" not in str(source) and (near := near_names(str(source), ("scratch", "pretrained", "imagenet"))):
        raise InputError(f"weights: there is no file or folder {source}.{near}")  # the Hub isn't asked for a slip
    else:
        given = _read_checkpoint(model, str(source), trust_remote_code)
    return copy_weights(find_encoder(model), given, str(source))


def _read_file(model: PreTrainedModel, path: Path) -> dict[str, torch.Tensor]:
    """A state_dict; in a checkpoint's older key format (which save_pretrained still writes) it is converted."""
    given = read_state_dict(path)
    own = find_encoder(model).state_dict()
    found, _ = match_names(own, given)
    if 2 * len(found) >= len(own):
        return given
    converted = _convert(model, None, config=copy.deepcopy(model.config), state_dict=given)
    return converted if len(converted) > len(found) else given


def _read_checkpoint(model: PreTrainedModel, source: str, trust_remote_code: bool) -> dict[str, torch.Tensor]:
    """The encoder of a transformers checkpoint, through its own loader, which converts older key formats."""
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=trust_remote_code)
        if config.model_type == model.config.model_type:
            return _convert(model, source)
        # The bare network of another kind, such as the ConvNeXt for a UperNet over ConvNeXt.
        loaded = AutoModel.from_pretrained(source, dtype=torch.float32, trust_remote_code=trust_remote_code)
    except UNLOADABLE as error:
        told = None if Path(source).exists() else describe_hub_error(error, source)
        told = told or f"{source} can't be loaded: {one_line(error)} {NO_NETWORK}"
        raise InputError(f"weights: {told}") from error
    return loaded.state_dict()


def _convert(model: PreTrainedModel, source: str | None, **kwargs: Any) -> dict[str, torch.Tensor]:
    """Encoder tensors, by the names they have in the encoder, that `from_pretrained` really finds in the source."""
    result: Any = type(model).from_pretrained(
        source, output_loading_info=True, ignore_mismatched_sizes=True, dtype=torch.float32, **kwargs
    )
    loaded, info = result
    encoder = find_encoder(loaded)
    prefix = next(name for name, module in loaded.named_modules() if module is encoder) + "."
    new = {str(key) for key in info["missing_keys"]} | {str(key) for key, *_ in info["mismatched_keys"]}
    return {name: tensor for name, tensor in encoder.state_dict().items() if prefix + name not in new}

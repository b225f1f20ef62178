"""Builds the models with a timm encoder: the size it takes, and where its weights start.

Imported when a recipe asks for such a model: timm takes a second to import, and brings W&B where that is installed.
"""

import logging
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from hfseg.errors import InputError, near_names
from hfseg.labels import Labels
from hfseg.models.encoder import NO_NETWORK, load_encoder
from hfseg.models.segformer import label_settings
from hfseg.models.state_dicts import copy_weights, match_names, one_line, read_state_dict, rename_by_order
from hfseg.models.timm_seg import TimmForSemanticSegmentation, TimmSegConfig

logger = logging.getLogger(__name__)

# How encoders of a fixed input size are made to take others, best first: plain vision transformers interpolate their
# positions, Swin's windows slide over any size. Both need images in multiples of their stride.
FLEXIBLE_SIZE: tuple[dict[str, Any], ...] = ({"dynamic_img_size": True}, {"strict_img_size": False})
REFUSALS = (RuntimeError, AttributeError, NotImplementedError, AssertionError, ValueError)


def build_timm(
    name: str,
    labels: Labels,
    *,
    weights: str,
    image_size: tuple[int, int] | None = None,
    head_dropout: float | None = None,
    trust_remote_code: bool = False,
) -> TimmForSemanticSegmentation:
    """`timm/<encoder>`; `pretrained` takes timm's own weights."""
    encoder_name = name.removeprefix("timm/")
    if not timm.is_model(encoder_name.split(".")[0]):
        near = near_names(encoder_name, timm.list_models())
        raise InputError(f"timm has no model {encoder_name!r}.{near} `timm.list_models()` lists them.")
    model = _build_for_size(encoder_name, labels, image_size)
    if head_dropout is not None:
        model.config.head_dropout = head_dropout
        model.head.dropout = nn.Dropout2d(head_dropout)
    if weights == "pretrained":
        try:
            encoder = timm.create_model(
                encoder_name, pretrained=True, features_only=True, **model.config.encoder_kwargs
            )
        except (OSError, RuntimeError) as error:  # huggingface_hub's errors are OSErrors
            raise InputError(
                f"weights: timm's weights of {encoder_name} can't be had: {one_line(error)} {NO_NETWORK}"
            ) from error
        copy_weights(model.encoder, encoder.state_dict(), f"timm's {encoder_name}")
    elif weights != "scratch":
        _load_timm(model, encoder_name, weights, trust_remote_code)
    return model


def _build_for_size(encoder_name: str, labels: Labels, size: tuple[int, int] | None) -> TimmForSemanticSegmentation:
    """The model with new weights; a size that the encoder refuses is told now, with the nearest one that works."""
    try:
        return _try_size(encoder_name, labels, size)
    except REFUSALS as error:
        refusal = error
    if size is not None:
        near = [max(32, round(side / 32) * 32) for side in size]
        cfg = timm.get_pretrained_cfg(encoder_name)
        _, *default = cfg.input_size if cfg is not None else (3, 224, 224)
        for candidate in ((near[0], near[1]), (max(near), max(near)), (default[0], default[1])):
            try:
                _try_size(encoder_name, labels, candidate)
            except REFUSALS:
                continue
            raise InputError(
                f"image_size: timm/{encoder_name} can't take {size[0]} x {size[1]} pixels; "
                f"{candidate[0]} x {candidate[1]} works. The reason: {one_line(refusal)}"
            ) from refusal
    raise InputError(
        f"timm/{encoder_name} gives no feature maps: {one_line(refusal)} Give another encoder."
    ) from refusal


def _try_size(encoder_name: str, labels: Labels, size: tuple[int, int] | None) -> TimmForSemanticSegmentation:
    cfg = timm.get_pretrained_cfg(encoder_name)
    kwargs, multiple = _size_options(encoder_name, size) if cfg is not None and cfg.fixed_input_size else ({}, 1)
    config = TimmSegConfig(
        encoder_name=encoder_name,
        encoder_kwargs=kwargs,
        size_multiple=multiple,
        image_size=None if size is None else list(size),
        **label_settings(labels),
    )
    model = TimmForSemanticSegmentation(config)
    if size is not None:
        model.eval()
        with torch.no_grad():
            model(pixel_values=torch.zeros(1, 3, *size))
        model.train()
    return model


def _size_options(encoder_name: str, size: tuple[int, int] | None) -> tuple[dict[str, Any], int]:
    """What `timm.create_model` needs for this size, and the multiple to which images are padded."""
    for kwargs in FLEXIBLE_SIZE:
        try:
            encoder: Any = timm.create_model(encoder_name, features_only=True, **kwargs)
        except TypeError:  # this architecture has no such option
            continue
        return kwargs, max(encoder.feature_info.reduction())
    if size is None:
        return {}, 1
    kwargs = {"img_size": list(size)}
    try:
        timm.create_model(encoder_name, features_only=True, **kwargs)
    except TypeError:
        return {}, 1
    return kwargs, 1


def _load_timm(model: TimmForSemanticSegmentation, encoder_name: str, weights: str, trust_remote_code: bool) -> None:
    """A file, by name or, where no name fits but every shape does in order, by order (ported weights rename keys)."""
    if not Path(weights).is_file():
        load_encoder(model, weights, trust_remote_code=trust_remote_code)
        return
    given = read_state_dict(Path(weights))
    own = model.encoder.state_dict()
    if 2 * len(match_names(own, given)[0]) < len(own):
        renamed = rename_by_order(timm.create_model(encoder_name).state_dict(), given)
        if renamed is not None:
            logger.info(f"{weights}: the names are not timm's, but all {len(given)} shapes fit {encoder_name} in order")
            given = renamed
    copy_weights(model.encoder, given, weights)

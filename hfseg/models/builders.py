"""Builders of the wrapped torchvision and timm models: which network, and where its encoder's weights start."""

import http.client
import inspect
import logging
import urllib.error
from pathlib import Path
from typing import Any

import timm
import torch
from torchvision.models import get_model_weights, segmentation
from transformers import PreTrainedModel

from hfseg.errors import InputError, near_names
from hfseg.labels import Labels
from hfseg.models.encoder import (
    NO_NETWORK,
    copy_weights,
    find_encoder,
    load_encoder,
    match_names,
    read_state_dict,
    rename_by_order,
)
from hfseg.models.segformer import label_settings
from hfseg.models.timm_seg import TimmForSemanticSegmentation, TimmSegConfig
from hfseg.models.torchvision_seg import TorchvisionForSemanticSegmentation, TorchvisionSegConfig

logger = logging.getLogger(__name__)

# What encoders of a fixed input size need to take other sizes, in the order in which it is tried: plain vision
# transformers interpolate their positions, Swin's windows only need images that are padded to a multiple.
FLEXIBLE_SIZE = (({"dynamic_img_size": True, "dynamic_img_pad": True}, 1), ({"strict_img_size": False}, 32))


def build_torchvision(
    name: str, labels: Labels, *, weights: str, aux_loss: bool = False, **_: Any
) -> TorchvisionForSemanticSegmentation:
    """`pretrained` takes the encoder of torchvision's own segmentation weights, `imagenet` the backbone's."""
    if aux_loss and name.startswith("lraspp"):
        raise InputError(f"aux_loss: {name} has no auxiliary head; leave aux_loss out.")
    config = TorchvisionSegConfig(architecture=name, aux_loss=aux_loss, **label_settings(labels))
    model = TorchvisionForSemanticSegmentation(config)
    if weights in ("pretrained", "imagenet"):
        published = get_model_weights(name).DEFAULT
        if weights == "imagenet":
            published = inspect.signature(getattr(segmentation, name)).parameters["weights_backbone"].default
        try:
            given = published.get_state_dict(progress=False, check_hash=True)
        except (urllib.error.URLError, OSError, http.client.HTTPException) as error:
            raise InputError(f"weights: {published.url} can't be fetched ({error}). {NO_NETWORK}") from error
        copy_weights(find_encoder(model), given, str(published))
    elif weights != "scratch":
        load_encoder(model, weights)
    return model


def build_timm(
    name: str, labels: Labels, *, weights: str, image_size: tuple[int, int] | None = None, **_: Any
) -> TimmForSemanticSegmentation:
    """`timm/<encoder>`; `pretrained` takes timm's own weights."""
    encoder_name = name.removeprefix("timm/")
    if not timm.is_model(encoder_name.split(".")[0]):
        near = near_names(encoder_name, timm.list_models())
        raise InputError(f"timm has no model {encoder_name!r}.{near} `timm.list_models()` lists them.")
    cfg = timm.get_pretrained_cfg(encoder_name)
    kwargs: dict[str, Any] = {}
    multiple = 1
    if cfg is not None and cfg.fixed_input_size:
        kwargs, multiple = _flexible_size(encoder_name, image_size)
    config = TimmSegConfig(
        encoder_name=encoder_name, encoder_kwargs=kwargs, size_multiple=multiple, **label_settings(labels)
    )
    try:
        model = TimmForSemanticSegmentation(config)
    except (RuntimeError, AttributeError, NotImplementedError, AssertionError) as error:
        raise InputError(f"timm/{encoder_name} gives no feature maps: {_one_line(error)}") from error
    if image_size is not None:
        _check_size(model, encoder_name, image_size, cfg)
    if weights == "pretrained":
        try:
            encoder = timm.create_model(encoder_name, pretrained=True, features_only=True, **kwargs)
        except (OSError, RuntimeError) as error:  # huggingface_hub's errors are OSErrors
            raise InputError(
                f"weights: timm's weights of {encoder_name} can't be had: {_one_line(error)} {NO_NETWORK}"
            ) from error
        copy_weights(model.encoder, encoder.state_dict(), f"timm's {encoder_name}")
    elif weights != "scratch":
        _load_timm(model, encoder_name, weights)
    return model


def _flexible_size(encoder_name: str, image_size: tuple[int, int] | None) -> tuple[dict[str, Any], int]:
    for kwargs, multiple in FLEXIBLE_SIZE:
        try:
            timm.create_model(encoder_name, features_only=True, **kwargs)
        except TypeError:  # this architecture has no such option
            continue
        return kwargs, multiple
    return ({"img_size": tuple(image_size)} if image_size is not None else {}), 1


@torch.no_grad()
def _check_size(model: PreTrainedModel, encoder_name: str, size: tuple[int, int], cfg: Any) -> None:
    """One forward pass, so that a size which the encoder refuses is told before the data is read."""
    try:
        model.eval()(pixel_values=torch.zeros(1, 3, *size))
    except (RuntimeError, AssertionError, ValueError) as error:
        works = tuple(cfg.input_size[1:]) if cfg is not None else (224, 224)
        raise InputError(
            f"image_size: timm/{encoder_name} can't take {size[0]} x {size[1]} pixels ({_one_line(error)}); "
            f"{works[0]} x {works[1]} works."
        ) from error
    finally:
        model.train()


def _load_timm(model: TimmForSemanticSegmentation, encoder_name: str, weights: str) -> None:
    """A file, by name or, where no name fits but every shape does in order, by order (ported weights rename keys)."""
    if not Path(weights).is_file():
        load_encoder(model, weights)
        return
    given = read_state_dict(Path(weights))
    own = model.encoder.state_dict()
    if 2 * len(match_names(own, given)) < len(own):
        renamed = rename_by_order(timm.create_model(encoder_name).state_dict(), given)
        if renamed is not None:
            logger.info(f"{weights}: the names are not timm's, but all {len(given)} shapes fit {encoder_name} in order")
            given = renamed
    copy_weights(model.encoder, given, weights)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]

"""SegFormer in its six published sizes, and any other semantic segmentation checkpoint of transformers."""

import logging
import math
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForSemanticSegmentation,
    PreTrainedConfig,
    PreTrainedModel,
    SegformerConfig,
    SegformerForSemanticSegmentation,
)

from hfseg.errors import InputError
from hfseg.hub_errors import describe_hub_error
from hfseg.labels import IGNORE_INDEX, Labels
from hfseg.models.encoder import NO_NETWORK, find_encoder, load_encoder
from hfseg.models.state_dicts import UNLOADABLE, one_line

logger = logging.getLogger(__name__)

# Xie et al., "SegFormer" (NeurIPS 2021), table 6: blocks per stage, channels per stage, width of the decoder.
SIZES = {
    "segformer-b0": ((2, 2, 2, 2), (32, 64, 160, 256), 256),
    "segformer-b1": ((2, 2, 2, 2), (64, 128, 320, 512), 256),
    "segformer-b2": ((3, 4, 6, 3), (64, 128, 320, 512), 768),
    "segformer-b3": ((3, 4, 18, 3), (64, 128, 320, 512), 768),
    "segformer-b4": ((3, 8, 27, 3), (64, 128, 320, 512), 768),
    "segformer-b5": ((3, 6, 40, 3), (64, 128, 320, 512), 768),
}


def label_settings(labels: Labels) -> dict[str, Any]:
    """What a model's config says of its classes; the palette lets `hfseg predict` colour masks anywhere."""
    return {
        "id2label": labels.id2label,
        "label2id": labels.label2id,
        "palette": [list(color) for color in labels.palette],
        "semantic_loss_ignore_index": IGNORE_INDEX,
    }


def build(
    name: str, labels: Labels, *, weights: str, head_dropout: float | None = None, trust_remote_code: bool = False
) -> PreTrainedModel:
    """A SegFormer with a new head; `pretrained` takes the encoder of nvidia/mit-b0 ... -b5."""
    depths, hidden_sizes, decoder = SIZES[name]
    config = SegformerConfig(
        depths=list(depths), hidden_sizes=list(hidden_sizes), decoder_hidden_size=decoder, **label_settings(labels)
    )
    if head_dropout is not None:
        config.classifier_dropout_prob = head_dropout
    model = SegformerForSemanticSegmentation(config)
    draw_weights(model)
    if weights != "scratch":
        source = f"nvidia/mit-{name.removeprefix('segformer-')}" if weights == "pretrained" else weights
        load_encoder(model, source, trust_remote_code=trust_remote_code)
    return model


@torch.no_grad()
def draw_weights(model: SegformerForSemanticSegmentation) -> None:
    """New weights in the scale of each layer, where transformers draws all of them from N(0, 0.02).

    The encoder's convolutions as in the published SegFormer (fan-out of He et al., 2015); the head's after its fan-in
    (He et al.), its linear layers and classifier after Glorot & Bengio (2010). Trained from scratch for 150 steps on
    pets, this is worth 0.01 of mIoU (results/README.md).
    """
    for module in model.segformer.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels // module.groups
            module.weight.normal_(0, math.sqrt(2 / fan_out))
    for module in model.decode_head.linear_projections.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
    nn.init.kaiming_uniform_(model.decode_head.linear_fuse.weight, nonlinearity="relu")
    nn.init.xavier_uniform_(model.decode_head.classifier.weight)


def build_checkpoint(name: str, labels: Labels, *, weights: str, trust_remote_code: bool = False) -> PreTrainedModel:
    """The architecture of a checkpoint (folder or Hub id); `pretrained` takes all its weights that fit the classes."""
    is_folder = Path(name).is_dir()
    if not is_folder:
        logger.info(f"model: there is no folder {name} here; the Hub is asked for it")
    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=trust_remote_code)
        set_labels(config, labels)
        if weights == "pretrained":
            return _load_all(name, config, trust_remote_code)
        model = AutoModelForSemanticSegmentation.from_config(
            config, dtype=torch.float32, trust_remote_code=trust_remote_code
        )
    except InputError:
        raise
    except UNLOADABLE as error:
        told = None if is_folder else describe_hub_error(error, name)
        if told is not None:
            raise InputError(f"model: {told}") from error
        advice = "Give a folder that save_pretrained wrote, of a model for it." if is_folder else NO_NETWORK
        raise InputError(
            f"model: {name} can't be loaded as a semantic segmentation model: {one_line(error)} {advice}"
        ) from error
    if weights != "scratch":
        load_encoder(model, weights, trust_remote_code=trust_remote_code)
    return model


def set_labels(config: PreTrainedConfig, labels: Labels) -> None:
    """Names, palette and the ignored value in a config that exists already."""
    config.id2label, config.label2id = labels.id2label, labels.label2id
    config.palette = [list(color) for color in labels.palette]
    for key in ("semantic_loss_ignore_index", "loss_ignore_index"):  # UperNet's name is the shorter
        if hasattr(config, key):
            setattr(config, key, IGNORE_INDEX)


def _load_all(name: str, config: PreTrainedConfig, trust_remote_code: bool) -> PreTrainedModel:
    model, info = AutoModelForSemanticSegmentation.from_pretrained(
        name,
        config=config,
        ignore_mismatched_sizes=True,
        output_loading_info=True,
        dtype=torch.float32,
        trust_remote_code=trust_remote_code,
    )
    new = sorted({str(key) for key in info["missing_keys"]} | {str(key) for key, *_ in info["mismatched_keys"]})
    total = len(model.state_dict())
    if len(new) == total:
        raise InputError(f"model: not one tensor of {name} fits a {type(model).__name__}; give --weights scratch.")
    encoder = {id(tensor) for tensor in find_encoder(model).state_dict(keep_vars=True).values()}
    in_encoder = any(id(model.state_dict(keep_vars=True)[key]) in encoder for key in new)
    lines = [f"{total - len(new)} of {total} tensors from {name}", *(f"  - {key}: drawn anew" for key in new)]
    logger.log(logging.WARNING if in_encoder else logging.INFO, "\n".join(lines))
    return model


def checkpoint_normalization(name: str, trust_remote_code: bool = False) -> tuple[list[float], list[float]] | None:
    """Mean and standard deviation of a checkpoint's own image processor, or None where it has none."""
    try:
        processor = AutoImageProcessor.from_pretrained(name, trust_remote_code=trust_remote_code)
    except UNLOADABLE:
        return None
    if getattr(processor, "do_flip_channel_order", False):
        logger.warning(f"{name} was trained on BGR images and is fed RGB here; train all of it, not the head alone.")
    if getattr(processor, "do_normalize", None):
        return processor.image_mean, processor.image_std
    return [0.0] * 3, [1.0] * 3

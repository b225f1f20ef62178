"""SegFormer in its six published sizes, and any other semantic segmentation checkpoint of transformers."""

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForSemanticSegmentation,
    PreTrainedModel,
    SegformerConfig,
    SegformerForSemanticSegmentation,
)

from hfseg.errors import InputError
from hfseg.labels import IGNORE_INDEX, Labels
from hfseg.models.encoder import load_encoder

# Xie et al., "SegFormer" (NeurIPS 2021), table 6: blocks per stage, channels per stage, width of the decoder.
SIZES = {
    "segformer-b0": ((2, 2, 2, 2), (32, 64, 160, 256), 256),
    "segformer-b1": ((2, 2, 2, 2), (64, 128, 320, 512), 256),
    "segformer-b2": ((3, 4, 6, 3), (64, 128, 320, 512), 768),
    "segformer-b3": ((3, 4, 18, 3), (64, 128, 320, 512), 768),
    "segformer-b4": ((3, 8, 27, 3), (64, 128, 320, 512), 768),
    "segformer-b5": ((3, 6, 40, 3), (64, 128, 320, 512), 768),
}


def label_settings(labels: Labels) -> dict:
    """What a model's config says of its classes; the palette lets `hfseg predict` colour masks anywhere."""
    return {
        "id2label": labels.id2label,
        "label2id": labels.label2id,
        "palette": [list(color) for color in labels.palette],
        "semantic_loss_ignore_index": IGNORE_INDEX,
    }


def build(name: str, labels: Labels, *, weights: str) -> PreTrainedModel:
    """A SegFormer with a new head; `pretrained` takes the encoder of nvidia/mit-b0 ... -b5."""
    depths, hidden_sizes, decoder = SIZES[name]
    config = SegformerConfig(
        depths=list(depths), hidden_sizes=list(hidden_sizes), decoder_hidden_size=decoder, **label_settings(labels)
    )
    model = SegformerForSemanticSegmentation(config)
    if weights != "scratch":
        load_encoder(model, f"nvidia/mit-{name.removeprefix('segformer-')}" if weights == "pretrained" else weights)
    return model


def build_checkpoint(name: str, labels: Labels, *, weights: str) -> PreTrainedModel:
    """The architecture of a checkpoint (folder or Hub id); `pretrained` takes all its weights that fit the classes."""
    try:
        if weights == "pretrained":
            return AutoModelForSemanticSegmentation.from_pretrained(
                name, ignore_mismatched_sizes=True, dtype=torch.float32, **label_settings(labels)
            )
        config = AutoConfig.from_pretrained(name, **label_settings(labels))
        model = AutoModelForSemanticSegmentation.from_config(config)
    except (OSError, ValueError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"model: {name} can't be loaded as a semantic segmentation model: {reason}") from error
    if weights != "scratch":
        load_encoder(model, weights)
    return model


def checkpoint_normalization(name: str) -> tuple[list[float], list[float]] | None:
    """Mean and standard deviation of a checkpoint's own image processor, or None where it has none."""
    try:
        processor = AutoImageProcessor.from_pretrained(name)
    except (OSError, ValueError):
        return None
    return processor.image_mean, processor.image_std

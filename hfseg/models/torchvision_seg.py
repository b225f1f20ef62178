"""torchvision's segmentation models as transformers models.

This file travels to the Hub with its weights: it imports torch, torchvision and transformers alone.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models import segmentation
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SemanticSegmenterOutput

ARCHITECTURES = (
    "fcn_resnet50",
    "fcn_resnet101",
    "deeplabv3_resnet50",
    "deeplabv3_resnet101",
    "deeplabv3_mobilenet_v3_large",
    "lraspp_mobilenet_v3_large",
)
AUXILIARY_WEIGHT = 0.4  # of torchvision's reference training; the paper on FCN has no such head


class TorchvisionSegConfig(PreTrainedConfig):
    """Configuration of `TorchvisionForSemanticSegmentation`.

    Args:
        architecture: one of `ARCHITECTURES`.
        aux_loss: add the auxiliary head on the third stage.
    """

    model_type = "hfseg_torchvision"

    def __init__(
        self,
        architecture: str = "fcn_resnet50",
        aux_loss: bool = False,
        semantic_loss_ignore_index: int = 255,
        **kwargs: Any,
    ) -> None:
        self.architecture = architecture
        self.aux_loss = aux_loss
        self.semantic_loss_ignore_index = semantic_loss_ignore_index
        super().__init__(**kwargs)


@dataclass
class AuxiliarySegmenterOutput(SemanticSegmenterOutput):
    """SemanticSegmenterOutput with the auxiliary head's logits (B, C, h, w), in training and where there is one."""

    aux_logits: torch.Tensor | None = None


class TorchvisionForSemanticSegmentation(PreTrainedModel):
    """A torchvision segmentation model; logits stay at the head's own stride (8 for FCN and DeepLabV3)."""

    config_class = TorchvisionSegConfig
    base_model_prefix = "encoder"
    main_input_name = "pixel_values"
    encoder: nn.Module
    head: nn.Module
    aux_head: nn.Module | None

    def __init__(self, config: TorchvisionSegConfig) -> None:
        super().__init__(config)
        options = {"aux_loss": True} if config.aux_loss else {}
        network = getattr(segmentation, config.architecture)(
            weights=None, weights_backbone=None, num_classes=config.num_labels, **options
        )
        self.encoder = network.backbone
        self.head = network.classifier
        self.aux_head = getattr(network, "aux_classifier", None)
        if not any(parameter.is_meta for parameter in self.parameters()):
            for module in self.modules():  # their constructors have drawn the weights: post_init must leave them alone
                module._is_hf_initialized = True  # type: ignore[assignment]
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Called by from_pretrained: draws what the checkpoint does not hold."""
        reset: Any = getattr(module, "reset_parameters", None)
        missing = [p for p in module.parameters(recurse=False) if not getattr(p, "_is_hf_initialized", False)]
        if missing and reset is not None:
            reset()

    def forward(self, pixel_values: torch.Tensor, labels: torch.Tensor | None = None) -> AuxiliarySegmenterOutput:
        """Segments a batch.

        Args:
            pixel_values: (B, 3, H, W) float, normalised.
            labels: (B, H, W) int64, class id or 255.

        Returns:
            logits (B, C, h, w); with labels also the mean loss over the valid pixels, 0 where there are none.
        """
        features = self.encoder(pixel_values)
        # LR-ASPP's head takes both of its features, the others the deepest.
        logits = self.head(features if "low" in features else features["out"])
        auxiliary = self.aux_head(features["aux"]) if self.aux_head is not None and self.training else None
        loss = None
        if labels is not None:
            ignore_index = self.config.semantic_loss_ignore_index
            loss = segmentation_loss(logits, labels, ignore_index)
            if auxiliary is not None:
                loss = loss + AUXILIARY_WEIGHT * segmentation_loss(auxiliary, labels, ignore_index)
        return AuxiliarySegmenterOutput(loss=loss, logits=logits, aux_logits=auxiliary)


def segmentation_loss(logits: torch.Tensor, labels: torch.Tensor, ignore_index: int) -> torch.Tensor:
    """Mean cross-entropy of the valid pixels at the labels' size; 0 where there are none."""
    logits = F.interpolate(logits, size=labels.shape[-2:], mode="bilinear", align_corners=False)
    total = F.cross_entropy(logits.float(), labels.long(), ignore_index=ignore_index, reduction="sum")
    return total / (labels != ignore_index).sum().clamp(min=1)

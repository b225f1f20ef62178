"""Any timm encoder with a light multi-scale head, as a transformers model.

This file travels to the Hub with its weights: it imports torch, timm and transformers alone.
"""

from typing import Any

import timm
import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SemanticSegmenterOutput


class TimmSegConfig(PreTrainedConfig):
    """Configuration of `TimmForSemanticSegmentation`.

    Args:
        encoder_name: a timm model with `features_only`.
        encoder_kwargs: passed to `timm.create_model`.
        size_multiple: images are padded at the bottom and right to multiples of this, in pixels.
        head_channels: width of the head.
        head_dropout: dropout before the classifier.
    """

    model_type = "hfseg_timm"

    def __init__(
        self,
        encoder_name: str = "resnet18",
        encoder_kwargs: dict[str, Any] | None = None,
        size_multiple: int = 1,
        head_channels: int = 128,
        head_dropout: float = 0.1,
        semantic_loss_ignore_index: int = 255,
        **kwargs: Any,
    ) -> None:
        self.encoder_name = encoder_name
        self.encoder_kwargs = encoder_kwargs or {}
        self.size_multiple = size_multiple
        self.head_channels = head_channels
        self.head_dropout = head_dropout
        self.semantic_loss_ignore_index = semantic_loss_ignore_index
        super().__init__(**kwargs)


class MultiScaleHead(nn.Module):
    """Projects every stage to one width, brings all to the finest, and classifies their concatenation."""

    def __init__(self, in_channels: list[int], channels: int, dropout: float, num_labels: int) -> None:
        super().__init__()
        self.project = nn.ModuleList(conv_norm(width, channels, 1) for width in in_channels)
        self.fuse = conv_norm(channels * len(in_channels), channels, 3)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(channels, num_labels, 1)

    def forward(self, features: list[torch.Tensor]) -> torch.Tensor:
        size = features[0].shape[-2:]
        scales = [project(feature) for project, feature in zip(self.project, features)]
        scales = [F.interpolate(x, size=size, mode="bilinear", align_corners=False) for x in scales]
        return self.classifier(self.dropout(self.fuse(torch.cat(scales, 1))))


def conv_norm(in_channels: int, out_channels: int, kernel: int) -> nn.Sequential:
    convolution = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True))


class TimmForSemanticSegmentation(PreTrainedModel):
    """timm encoder and multi-scale head; logits have the stride of the finest stage used, at least 4."""

    config_class = TimmSegConfig
    base_model_prefix = "encoder"
    main_input_name = "pixel_values"

    def __init__(self, config: TimmSegConfig) -> None:
        super().__init__(config)
        self.encoder = timm.create_model(
            config.encoder_name, pretrained=False, features_only=True, **config.encoder_kwargs
        )
        info = self.encoder.feature_info
        # Stride 2 costs more than all the other stages together and adds little.
        self.stages = [i for i, stride in enumerate(info.reduction()) if stride >= 4]
        channels = [info.channels()[i] for i in self.stages]
        self.head = MultiScaleHead(channels, config.head_channels, config.head_dropout, config.num_labels)
        if not any(parameter.is_meta for parameter in self.parameters()):
            for module in self.modules():  # their constructors have drawn the weights: post_init must leave them alone
                module._is_hf_initialized = True
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Called by from_pretrained, which builds on the meta device: brings back what the checkpoint does not hold."""
        if hasattr(module, "init_non_persistent_buffers"):
            module.init_non_persistent_buffers()
        missing = [p for p in module.parameters(recurse=False) if not getattr(p, "_is_hf_initialized", False)]
        if missing and hasattr(module, "reset_parameters"):
            module.reset_parameters()

    def forward(self, pixel_values: torch.Tensor, labels: torch.Tensor | None = None) -> SemanticSegmenterOutput:
        """Segments a batch.

        Args:
            pixel_values: (B, 3, H, W) float, normalised.
            labels: (B, H, W) int64, class id or 255.

        Returns:
            logits (B, C, h, w); with labels also the mean loss over the valid pixels, 0 where there are none.
        """
        height, width = pixel_values.shape[-2:]
        multiple = self.config.size_multiple
        padded = F.pad(pixel_values, (0, -width % multiple, 0, -height % multiple))
        features = self.encoder(padded)
        if str(getattr(self.encoder, "output_fmt", "NCHW")).endswith("NHWC"):
            features = [feature.permute(0, 3, 1, 2) for feature in features]
        logits = self.head([features[i] for i in self.stages])
        if padded.shape != pixel_values.shape:
            logits = F.interpolate(logits, size=padded.shape[-2:], mode="bilinear", align_corners=False)
            logits = logits[..., :height, :width]
        loss = None if labels is None else segmentation_loss(logits, labels, self.config.semantic_loss_ignore_index)
        return SemanticSegmenterOutput(loss=loss, logits=logits)


def segmentation_loss(logits: torch.Tensor, labels: torch.Tensor, ignore_index: int) -> torch.Tensor:
    """Mean cross-entropy of the valid pixels at the labels' size; 0 where there are none."""
    logits = F.interpolate(logits, size=labels.shape[-2:], mode="bilinear", align_corners=False)
    total = F.cross_entropy(logits.float(), labels.long(), ignore_index=ignore_index, reduction="sum")
    return total / (labels != ignore_index).sum().clamp(min=1)

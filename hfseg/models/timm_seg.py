"""Any timm encoder with a light multi-scale head, as a transformers model.

This file travels to the Hub with its weights: it imports torch, timm and transformers alone.
"""

from collections.abc import Sequence
from typing import Any

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
        image_size: (height, width) in pixels that the model was built for, where that was said.
        head_channels: width of the head.
        head_dropout: dropout before the classifier.
    """

    model_type = "hfseg_timm"

    def __init__(
        self,
        encoder_name: str = "resnet18",
        encoder_kwargs: dict[str, Any] | None = None,
        size_multiple: int = 1,
        image_size: list[int] | None = None,
        head_channels: int = 128,
        head_dropout: float = 0.1,
        semantic_loss_ignore_index: int = 255,
        **kwargs: Any,
    ) -> None:
        self.encoder_name = encoder_name
        self.encoder_kwargs = encoder_kwargs or {}
        self.size_multiple = size_multiple
        self.image_size = image_size
        self.head_channels = head_channels
        self.head_dropout = head_dropout
        self.semantic_loss_ignore_index = semantic_loss_ignore_index
        super().__init__(**kwargs)


class MultiScaleHead(nn.Module):
    """Projects the stages to one width, adds them up at stride 4, and sharpens the sum with stride 2 if there is one.

    A sum of projections is a projection of the concatenated stages, at a fraction of the memory. Stride 2 matters for
    small images and enters late and narrow, where it is cheap.

    Args:
        in_channels: width of each stage, finest first.
        strides: of each stage, in pixels.
        channels: width after projection; half of it from the fusion on.
        dropout: of whole channels, before the classifier.
        num_labels: number of classes.
    """

    def __init__(
        self, in_channels: list[int], strides: list[int], channels: int, dropout: float, num_labels: int
    ) -> None:
        super().__init__()
        half = channels // 2
        self.coarse = [i for i, stride in enumerate(strides) if stride >= 4]
        self.scale = max(1, strides[self.coarse[0]] // 4)  # plain vision transformers only have stride 14 or 16
        self.fine = next((i for i, stride in enumerate(strides) if stride == 2), None)
        self.project = nn.ModuleList(nn.Conv2d(in_channels[i], channels, 1, bias=False) for i in self.coarse)
        self.fuse = nn.Sequential(norm_relu(channels), nn.Conv2d(channels, half, 3, padding=1, bias=False))
        if self.fine is not None:
            self.project_fine = nn.Conv2d(in_channels[self.fine], half, 1, bias=False)
            self.refine = nn.Sequential(norm_relu(half), nn.Conv2d(half, half, 3, padding=1, bias=False))
        self.norm = norm_relu(half)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(half, num_labels, 1)

    def forward(self, features: list[torch.Tensor]) -> torch.Tensor:
        height, width = features[self.coarse[0]].shape[-2:]
        size = (height * self.scale, width * self.scale)
        scales = [resize(project(features[i]), size) for i, project in zip(self.coarse, self.project)]
        x = self.fuse(sum(scales[1:], scales[0]))  # (B, channels / 2, H / 4, W / 4)
        if self.fine is not None:
            fine = self.project_fine(features[self.fine])
            x = self.refine(resize(x, fine.shape[-2:]) + fine)  # (B, channels / 2, H / 2, W / 2)
        return self.classifier(self.dropout(self.norm(x)))


def resize(x: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)


def norm_relu(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(inplace=True))


class TimmForSemanticSegmentation(PreTrainedModel):
    """timm encoder and multi-scale head; logits have stride 2 where the encoder has such a stage, else about 4."""

    config_class = TimmSegConfig
    base_model_prefix = "encoder"
    main_input_name = "pixel_values"
    encoder: nn.Module
    head: nn.Module

    def __init__(self, config: TimmSegConfig) -> None:
        import timm  # takes a second, which users of other models need not wait for

        super().__init__(config)
        self.encoder = timm.create_model(
            config.encoder_name, pretrained=False, features_only=True, **config.encoder_kwargs
        )
        info: Any = self.encoder.feature_info
        self.head = MultiScaleHead(
            info.channels(),
            info.reduction(),
            config.head_channels,
            config.head_dropout,
            config.num_labels,  # type: ignore[arg-type]
        )
        if not any(parameter.is_meta for parameter in self.parameters()):
            for module in self.modules():  # their constructors have drawn the weights: post_init must leave them alone
                module._is_hf_initialized = True  # type: ignore[assignment]
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Called by from_pretrained, which builds on the meta device: brings back what the checkpoint does not hold."""
        restore: Any = getattr(module, "init_non_persistent_buffers", None)
        if restore is not None:
            restore()
        reset: Any = getattr(module, "reset_parameters", None)
        missing = [p for p in module.parameters(recurse=False) if not getattr(p, "_is_hf_initialized", False)]
        if missing and reset is not None:
            reset()

    def forward(self, pixel_values: torch.Tensor, labels: torch.Tensor | None = None) -> SemanticSegmenterOutput:
        """Segments a batch.

        Args:
            pixel_values: (B, 3, H, W) float, normalised.
            labels: (B, H, W) int64, class id or 255.

        Returns:
            logits (B, C, h, w), at full size where the image had to be padded; with labels also the mean loss over the
            valid pixels, 0 where there are none.
        """
        height, width = pixel_values.shape[-2:]
        multiple = self.config.size_multiple
        padded = F.pad(pixel_values, (0, -width % multiple, 0, -height % multiple))
        # With channels last, depthwise convolutions take half the time on a CPU; others take the same.
        features = self.encoder(padded.contiguous(memory_format=torch.channels_last))
        if str(getattr(self.encoder, "output_fmt", "NCHW")).endswith("NHWC"):
            features = [feature.permute(0, 3, 1, 2) for feature in features]
        logits = self.head(features)
        if padded.shape != pixel_values.shape:
            logits = resize(logits, padded.shape[-2:])[..., :height, :width]
        loss = None if labels is None else segmentation_loss(logits, labels, self.config.semantic_loss_ignore_index)
        return SemanticSegmenterOutput(loss=loss, logits=logits)


def segmentation_loss(logits: torch.Tensor, labels: torch.Tensor, ignore_index: int) -> torch.Tensor:
    """Mean cross-entropy of the valid pixels at the labels' size; 0 where there are none."""
    logits = resize(logits, labels.shape[-2:])
    total = F.cross_entropy(logits.float(), labels.long(), ignore_index=ignore_index, reduction="sum")
    return total / (labels != ignore_index).sum().clamp(min=1)

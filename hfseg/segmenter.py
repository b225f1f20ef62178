"""Inference at the image's own size: one image or many."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hfseg.bundle import Bundle, read_bundle
from hfseg.images import overlay, read_image, read_mask
from hfseg.labels import Labels
from hfseg.losses import upsample
from hfseg.plots import plot_predictions


@dataclass
class Segmentation:
    """What a model saw in one image.

    Attributes:
        image: (H, W, 3) uint8, the picture upright as a viewer shows it.
        mask: (H, W) uint8 (uint16 with more than 256 classes), class ids.
        probabilities: (C, H, W) float32, only on request.
        palette: one RGB colour a class.
    """

    image: np.ndarray
    mask: np.ndarray
    palette: Sequence[tuple[int, int, int]]
    probabilities: np.ndarray | None = None

    def overlay(self, alpha: float = 0.5) -> np.ndarray:
        """(H, W, 3) uint8: the image with the classes' colours laid over it."""
        return overlay(self.image, self.mask, self.palette, alpha)


class Segmenter:
    """A model, its image processor and its labels, ready for pictures of any size.

    >>> segmenter = Segmenter.from_pretrained("runs/pets/best")
    >>> result = segmenter("photo.jpg")
    >>> result.mask.shape

    Args:
        bundle: model and image processor.
        device: unset: the first CUDA or MPS device, else the CPU.
        dtype: of the model's weights and activations; unset: bfloat16 on a CUDA device that has it, else float32.
    """

    def __init__(
        self, bundle: Bundle, *, device: str | torch.device | None = None, dtype: torch.dtype | None = None
    ) -> None:
        self.device = torch.device(device or _best_device())
        if dtype is None:
            fast = self.device.type == "cuda" and torch.cuda.is_bf16_supported()
            dtype = torch.bfloat16 if fast else torch.float32
        model: Any = bundle.model
        self.model = model.to(self.device, dtype).eval()
        self.processor, self.labels, self.dtype = bundle.processor, bundle.labels, dtype

    @classmethod
    def from_pretrained(cls, source: str | Path, *, revision: str | None = None, **kwargs: Any) -> "Segmenter":
        """Loads a folder or a Hub id; see `hfseg.bundle.read_bundle` for the errors."""
        return cls(read_bundle(source, revision=revision), **kwargs)

    def __call__(self, images: Any, *, batch_size: int = 8, probabilities: bool = False) -> Any:
        """Segments one image, or a list of images.

        Args:
            images: a path, bytes, a PIL image, an (H, W, 3) uint8 array, or a list of these.
            batch_size: images per forward pass.
            probabilities: also keep the (C, H, W) softmax.

        Returns:
            A `Segmentation`, or a list of them in the order given.
        """
        if not isinstance(images, list | tuple):
            return next(self.stream([images], batch_size=1, probabilities=probabilities))
        return list(self.stream(images, batch_size=batch_size, probabilities=probabilities))

    def stream(
        self, images: Iterable[Any], *, batch_size: int = 8, probabilities: bool = False
    ) -> Iterator[Segmentation]:
        """The same, one result at a time: memory holds one batch, however many images there are."""
        batch: list[np.ndarray] = []
        for image in images:
            batch.append(read_image(image))
            if len(batch) == batch_size:
                yield from self._segment(batch, probabilities)
                batch = []
        if batch:
            yield from self._segment(batch, probabilities)

    @torch.inference_mode()
    def _segment(self, images: list[np.ndarray], probabilities: bool) -> Iterator[Segmentation]:
        inputs = self.processor(images, return_tensors="pt")["pixel_values"]  # (B, 3, h, w)
        logits = self.model(pixel_values=inputs.to(self.device, self.dtype)).logits.float()
        for image, one in zip(images, logits):
            full = upsample(one[None], image.shape[:2])[0]  # (C, H, W)
            mask = full.argmax(0).to(torch.uint8 if len(full) <= 256 else torch.uint16).cpu().numpy()
            scores = full.softmax(0).cpu().numpy() if probabilities else None
            yield Segmentation(image, mask, self.labels.palette, scores)


def draw_predictions(segmenter: Segmenter, dataset: Any, labels: Labels, path: str | Path, num_images: int = 4) -> None:
    """Writes a figure of images spread evenly over a split: picture, label, prediction, overlay.

    Args:
        dataset: with columns `image` and `mask`, as `hfseg.data.load` gives it.
        labels: the data set's, which read its masks.
    """
    picks = np.linspace(0, len(dataset) - 1, min(num_images, len(dataset))).astype(int)
    rows = [dataset[int(i)] for i in picks]
    results = segmenter([row["image"] for row in rows])
    masks = [labels.encode(read_mask(row["mask"])) for row in rows]
    figure = plot_predictions([r.image for r in results], masks, [r.mask for r in results], labels)
    figure.savefig(path)


def _best_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"

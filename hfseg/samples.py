"""A few validation images for the model card: what the model makes of them, and one to try it on."""

from functools import cached_property
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import BaseImageProcessor, PreTrainedModel

from hfseg.bundle import Bundle
from hfseg.images import read_image, read_mask
from hfseg.labels import Labels
from hfseg.pictures import draw_sheet, to_jpeg, to_png
from hfseg.segmenter import Segmenter

LARGEST_SIDE = 512  # of the kept images, in pixels: pictures for a page, at a bounded cost


class SampleSheet:
    """Images spread evenly over a split, read once.

    Args:
        dataset: with columns `image` and `mask`, as `hfseg.data.load` gives it.
        labels: the data set's, which read its masks.
        num_images: how many.
    """

    def __init__(self, dataset: Any, labels: Labels, num_images: int = 4) -> None:
        self.dataset, self.labels, self.num_images = dataset, labels, num_images

    @cached_property
    def pairs(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """(H, W, 3) uint8 and (H, W) uint8 class ids each, 512 pixels a side at most."""
        picks = np.linspace(0, len(self.dataset) - 1, min(self.num_images, len(self.dataset))).astype(int)
        pairs = []
        for i in picks:
            row = self.dataset[int(i)]
            image, mask = read_image(row["image"]), self.labels.encode(read_mask(row["mask"]))
            scale = min(1.0, LARGEST_SIDE / max(mask.shape))
            size = (max(1, round(mask.shape[1] * scale)), max(1, round(mask.shape[0] * scale)))
            image = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))
            pairs.append((image, np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))))
        return pairs

    def draw(self, model: PreTrainedModel, processor: BaseImageProcessor) -> dict[str, bytes]:
        """predictions.png and example.jpg; the model stays on its device, and goes into eval mode."""
        segmenter = Segmenter(Bundle(model, processor), device=model.device, dtype=torch.float32)
        results = segmenter([image for image, _ in self.pairs])
        images, masks = zip(*self.pairs)
        sheet = draw_sheet(images, masks, [result.mask for result in results], self.labels)
        return {"predictions.png": to_png(sheet), "example.jpg": to_jpeg(Image.fromarray(images[0]))}

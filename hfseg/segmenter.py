"""Inference at the image's own size: one image or many."""

import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

import hfseg
from hfseg.ahead import map_ahead
from hfseg.bands import predict_ids_by_bands
from hfseg.bundle import Bundle, read_bundle
from hfseg.errors import InputError
from hfseg.files import save_figure
from hfseg.images import read_image, read_mask
from hfseg.labels import Labels, build_palette, class_names
from hfseg.losses import upsample
from hfseg.models.segformer_head import reorder_decode_head
from hfseg.pictures import overlay
from hfseg.plots import plot_predictions

URL_TIMEOUT = 30  # seconds
MAX_DOWNLOAD = 256 * 2**20  # bytes of a picture from an address


@dataclass
class Segmentation:
    """What a model saw in one image.

    Attributes:
        image: (H, W, 3) uint8, the picture upright as a viewer shows it.
        mask: (H, W) uint8 (uint16 with more than 256 classes), class ids.
        palette: one RGB colour a class.
        probabilities: (C, H, W) float32, only on request.
    """

    image: np.ndarray
    mask: np.ndarray
    palette: Sequence[tuple[int, int, int]]
    probabilities: np.ndarray | None = None

    def overlay(self, alpha: float = 0.5) -> np.ndarray:
        """(H, W, 3) uint8: the image with the classes' colours laid over it."""
        return overlay(self.image, self.mask, self.palette, alpha)


class Segmenter:
    """A model, its image processor and its classes, ready for pictures of any size.

    >>> segmenter = Segmenter.from_pretrained("runs/pets/best")
    >>> result = segmenter("photo.jpg")
    >>> result.mask.shape

    Args:
        bundle: model and image processor.
        device: unset: the first CUDA or MPS device, else the CPU.
        dtype: of the model's weights and activations; unset: float32, which gives the masks of transformers' pipeline,
            but for a pixel in a million where two classes tie. torch.bfloat16 is faster on GPUs that have it, and moves
            a few pixels at borders.

    Attributes:
        names: the classes, in the order of their ids.
        palette: one RGB colour a class.
    """

    def __init__(
        self, bundle: Bundle, *, device: str | torch.device | None = None, dtype: torch.dtype = torch.float32
    ) -> None:
        self.device = torch.device(device or _best_device())
        model: Any = bundle.model
        self.model = model.to(self.device, dtype).eval()
        reorder_decode_head(self.model)
        self.processor, self.dtype = bundle.processor, dtype
        self.names = class_names(model.config)
        given = getattr(model.config, "palette", None) or build_palette(len(self.names))
        self.palette: list[tuple[int, int, int]] = [(r, g, b) for r, g, b in given]

    @property
    def labels(self) -> Labels:
        """Names and colours as the training has them, for up to 255 classes."""
        return Labels(self.names, palette=self.palette)

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        revision: str | None = None,
        token: str | None = None,
        trust_remote_code: bool = False,
        **kwargs: Any,
    ) -> "Segmenter":
        """Loads a folder or a Hub id.

        Args:
            source, revision, token, trust_remote_code: see `hfseg.bundle.read_bundle`, also for the errors.
            kwargs: device and dtype.
        """
        return cls(read_bundle(source, revision=revision, token=token, trust_remote_code=trust_remote_code), **kwargs)

    def __call__(self, images: Any, *, batch_size: int = 8, probabilities: bool = False) -> Any:
        """Segments one image, or several.

        Args:
            images: a path, an http(s) address, bytes, a PIL image, an (H, W, 3) or (H, W) array or a (3, H, W) or
                (1, H, W) tensor (uint8, or floats from 0 to 1); or a list of these, or an array or tensor with one
                more axis in front.
            batch_size: images per forward pass.
            probabilities: also keep the (C, H, W) softmax.

        Returns:
            A `Segmentation`, or a list of them in the order given.

        Raises:
            InputError: an image that can't be had, read or understood.
        """
        several = isinstance(images, list | tuple) or isinstance(images, np.ndarray | torch.Tensor) and images.ndim == 4
        if not several:
            return next(self.stream([images], batch_size=1, probabilities=probabilities))
        return list(self.stream(images, batch_size=batch_size, probabilities=probabilities))

    def stream(
        self, images: Iterable[Any], *, batch_size: int = 8, probabilities: bool = False
    ) -> Iterator[Segmentation]:
        """The same, one result at a time: memory holds one batch, however many images there are."""
        if batch_size < 1:
            raise InputError(f"batch_size is {batch_size}; give 1 or more.")
        # While the model is busy with one batch, the next is read and resized.
        on_cpu = self.device.type == "cpu"
        with closing(map_ahead(self._read, images, ahead=2 * batch_size, beside_cpu_model=on_cpu)) as inputs:
            while batch := list(islice(inputs, batch_size)):
                yield from self._segment(batch, probabilities)

    def _read(self, image: Any) -> tuple[np.ndarray, torch.Tensor]:
        """The picture, (H, W, 3) uint8, and what the processor makes of it, (1, 3, h, w) float32."""
        pixels = to_pixels(image)
        return pixels, self.processor(pixels, return_tensors="pt")["pixel_values"]

    @torch.inference_mode()
    def _segment(self, batch: list[tuple[np.ndarray, torch.Tensor]], probabilities: bool) -> Iterator[Segmentation]:
        # A processor that keeps proportions gives pictures different sizes.
        one_size = len({inputs.shape for _, inputs in batch}) == 1
        for first in range(0, len(batch), len(batch) if one_size else 1):
            images, inputs = zip(*(batch if one_size else batch[first : first + 1]))
            pixels = torch.cat(inputs).to(self.device, self.dtype)
            logits = self.model(pixel_values=pixels).logits.float()  # (B, C, h', w')
            for image, one in zip(images, logits):
                yield self._result(image, one[None], probabilities)

    def _result(self, image: np.ndarray, logits: torch.Tensor, probabilities: bool) -> Segmentation:
        num_labels, size = logits.shape[1], image.shape[:2]
        dtype = torch.uint8 if num_labels <= 256 else torch.int32
        mask = predict_ids_by_bands(logits, size)[0].to(dtype).cpu().numpy()
        scores = upsample(logits, size)[0].softmax(0).cpu().numpy() if probabilities else None
        return Segmentation(image, mask if num_labels <= 256 else mask.astype(np.uint16), self.palette, scores)


def to_pixels(image: Any) -> np.ndarray:
    """(H, W, 3) uint8 from anything that `Segmenter` takes."""
    if isinstance(image, str) and image.lower().startswith(("http://", "https://")):
        return read_image({"bytes": _download(image), "path": image})
    if isinstance(image, torch.Tensor):
        if image.ndim not in (2, 3) or image.ndim == 3 and image.shape[0] not in (1, 3, 4):
            raise InputError(
                f"An image given as a tensor of shape {tuple(image.shape)} can't be read; give (3, height, width)."
            )
        array = image.detach().cpu()
        image = (array.float() if array.is_floating_point() else array).numpy()
        image = image.transpose(1, 2, 0) if image.ndim == 3 else image
    if isinstance(image, np.ndarray) and image.dtype.kind == "f":
        low, high = float(image.min(initial=0)), float(image.max(initial=0))
        if not (low >= 0 and high <= 1):  # also for NaN
            raise InputError(f"An image given as floats holds values from {low:g} to {high:g}; give 0 to 1, or uint8.")
        image = (image * 255).round().astype(np.uint8)
    return read_image(image)


def _download(address: str) -> bytes:
    # Only http and https come here (`to_pixels`), and urllib follows no redirect to a file: S310 is satisfied.
    request = urllib.request.Request(address, headers={"User-Agent": f"hfseg/{hfseg.__version__}"})  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=URL_TIMEOUT) as response:  # noqa: S310
            content = response.read(MAX_DOWNLOAD + 1)
    except (urllib.error.URLError, OSError, ValueError) as error:
        raise InputError(f"{address} can't be fetched: {' '.join(str(error).split())}. Correct the address.") from error
    if len(content) > MAX_DOWNLOAD:
        raise InputError(f"{address} is larger than {MAX_DOWNLOAD // 2**20} MB. Fetch it yourself, and give the file.")
    return content


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
    save_figure(path, figure)


def _best_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"

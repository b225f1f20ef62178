import functools
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import SegformerConfig, SegformerForSemanticSegmentation, pipeline

from hfseg import Segmenter
from hfseg.bundle import Bundle, write_bundle
from hfseg.cli import main
from hfseg.data.transforms import build_processor
from hfseg.errors import InputError
from hfseg.labels import Labels
from hfseg.models import build

LABELS = Labels(("sky", "road", "car"), palette=[(1, 2, 3), (40, 50, 60), (7, 8, 9)])


def photo(height: int = 41, width: int = 67, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    best = tmp_path_factory.mktemp("run") / "best"
    write_bundle(best, build("segformer-b0", LABELS).eval(), build_processor((32, 48)), {}, {"mean_iou": 0.5}, "# card")
    return best


@pytest.fixture(scope="module")
def segmenter(folder: Path) -> Segmenter:
    return Segmenter.from_pretrained(folder, device="cpu")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()


def test_every_kind_of_image_gives_the_same_mask(segmenter: Segmenter, tmp_path: Path, server: str) -> None:
    pixels = photo()
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    chw = torch.from_numpy(pixels).permute(2, 0, 1)
    expected = segmenter(pixels)
    assert expected.mask.shape == (41, 67) and expected.mask.dtype == np.uint8 and expected.probabilities is None
    assert len(np.unique(expected.mask)) > 1, "a constant mask would compare nothing"
    kinds: list[Any] = [tmp_path / "photo.png", str(tmp_path / "photo.png"), f"{server}/photo.png"]
    kinds += [Image.fromarray(pixels), (tmp_path / "photo.png").read_bytes()]
    kinds += [chw, chw.float() / 255, chw.double() / 255, pixels.astype(np.float32) / 255]
    for image in kinds:
        result = segmenter(image)
        assert np.array_equal(result.image, pixels) and np.array_equal(result.mask, expected.mask)
    grey = torch.full((1, 8, 8), 128, dtype=torch.uint8)
    assert segmenter(grey).mask.shape == segmenter(grey[0].numpy()).mask.shape == (8, 8)


def test_several_images_come_back_in_their_order_at_their_own_sizes(segmenter: Segmenter) -> None:
    images = [photo(30 + i, 50 - i, seed=i) for i in range(5)]
    results = segmenter(images, batch_size=2)
    assert [r.mask.shape for r in results] == [(30 + i, 50 - i) for i in range(5)]
    for image, result in zip(images, results):
        assert (segmenter(image).mask == result.mask).mean() > 0.99  # sums of a batch may round otherwise
    batch = np.stack([photo(seed=i) for i in range(3)])
    for many in (batch, torch.from_numpy(batch).permute(0, 3, 1, 2)):
        results = segmenter(many)
        assert len(results) == 3 and all(np.array_equal(r.image, image) for r, image in zip(results, batch))
    assert segmenter([]) == []


def test_probabilities_and_overlay_on_request(segmenter: Segmenter) -> None:
    result = segmenter(photo(), probabilities=True)
    assert result.probabilities.shape == (3, 41, 67) and result.probabilities.dtype == np.float32
    np.testing.assert_allclose(result.probabilities.sum(0), 1, rtol=1e-5)
    assert np.array_equal(result.probabilities.argmax(0), result.mask)
    assert result.overlay().shape == (41, 67, 3) and np.array_equal(result.overlay(alpha=0), result.image)
    full = result.overlay(alpha=1)
    assert np.array_equal(full, np.array(LABELS.palette, np.uint8)[result.mask])


def test_more_classes_than_a_byte_holds(tmp_path: Path) -> None:
    config = SegformerConfig(
        depths=[1] * 4, hidden_sizes=[8] * 4, num_attention_heads=[1] * 4, decoder_hidden_size=8, num_labels=300
    )
    model = SegformerForSemanticSegmentation(config)
    with torch.no_grad():
        model.decode_head.classifier.bias[290] += 100
    result = Segmenter(Bundle(model, build_processor((32, 32))), device="cpu")(photo())
    assert result.mask.dtype == np.uint16 and (result.mask == 290).all()
    assert result.overlay().shape == (41, 67, 3)


def test_dtype_and_device_can_be_chosen(folder: Path) -> None:
    low = Segmenter.from_pretrained(folder, device="cpu", dtype=torch.bfloat16)
    assert next(low.model.parameters()).dtype == torch.bfloat16
    assert Segmenter.from_pretrained(folder, device="cpu").dtype == torch.float32
    assert low(photo(), probabilities=True).probabilities.dtype == np.float32


def test_the_pipeline_gives_what_hfseg_predict_writes(
    folder: Path, tmp_path: Path, pets_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = pets_dir / "images" / "Bengal_1.jpg"
    words = ["predict", str(folder), str(source), "--device", "cpu", "--output_dir"]
    assert main([*words, str(tmp_path / "low"), "--dtype", "bfloat16"]) == 0
    assert main([*words, str(tmp_path / "out")]) == 0
    mask = np.array(Image.open(tmp_path / "out" / "Bengal_1_mask.png"))
    found = np.zeros_like(mask)
    for row in pipeline("image-segmentation", str(folder), device="cpu")(str(source)):
        part = np.array(row["mask"]) > 0
        # Rounding decides where two classes tie: 2 pixels of 4 million, on another model.
        assert (part != (mask == LABELS.label2id[row["label"]])).mean() < 1e-4, row["label"]
        found += part
    assert found.all() and mask.shape == np.array(Image.open(source)).shape[:2]


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ("nowhere.jpg", "there is no such file"),
        ("http://127.0.0.1:9/x.png", "can't be fetched"),
        (torch.zeros(5, 8, 8), "give \\(3, height, width\\)"),
        (torch.full((3, 8, 8), 2.0), "0 to 1"),
        (np.full((8, 8, 3), np.nan, np.float32), "0 to 1"),
        (np.zeros((8, 8, 7), np.uint8), "can't be read"),
    ],
)
def test_an_image_that_is_none_gets_one_line(segmenter: Segmenter, image: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        segmenter(image)


def test_a_download_has_a_limit(segmenter: Segmenter, tmp_path: Path, server: str, monkeypatch: Any) -> None:
    Image.fromarray(photo()).save(tmp_path / "photo.png")
    monkeypatch.setattr("hfseg.segmenter.MAX_DOWNLOAD", 2**10)
    with pytest.raises(InputError, match="larger than 0 MB"):
        segmenter(f"{server}/photo.png")

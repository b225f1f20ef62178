"""Pixels from files: every kind of picture as a viewer shows it, masks as their raw values, and mistakes by name."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image
from transformers.image_utils import load_image

from hfseg import images
from hfseg.errors import InputError
from hfseg.images import check_pair, describe, read_image, read_mask, save_mask
from hfseg.labels import build_palette
from hfseg.pictures import overlay

ORIENTATION = 0x0112
# What each format can store.
MODES = {
    ".png": ("RGB", "L", "1", "P", "RGBA", "LA"),
    ".jpg": ("RGB", "L", "1", "CMYK", "YCbCr"),
    ".gif": ("RGB", "L", "1", "P", "RGBA", "LA"),
    ".tif": ("RGB", "L", "1", "P", "RGBA", "LA", "CMYK"),  # Pillow 12.3 can't read its own YCbCr
    ".webp": ("RGB", "L", "1", "P", "RGBA", "LA"),
    ".bmp": ("RGB", "L", "1", "P", "RGBA"),
}


def draw(height: int = 6, width: int = 8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def save(image: Image.Image, path: Path, orientation: int | None = None, **options: Any) -> Path:
    exif = Image.Exif()
    if orientation is not None:
        exif[ORIENTATION] = orientation
        options["exif"] = exif
    image.save(path, **options)
    return path


def one_line(error: pytest.ExceptionInfo[InputError]) -> bool:
    return "\n" not in str(error.value)


# ---- pictures ----


@pytest.mark.parametrize(("suffix", "mode"), [(suffix, mode) for suffix, modes in MODES.items() for mode in modes])
def test_pictures_are_what_the_pipeline_sees(tmp_path: Path, mode: str, suffix: str) -> None:
    image = Image.fromarray(draw()).convert("RGB" if mode == "LA" else mode)
    if mode in ("RGBA", "LA"):
        image.putalpha(Image.fromarray(draw()[..., 0]))
    path = tmp_path / f"picture{suffix}"
    image.save(path)
    pixels = read_image(path)
    assert pixels.dtype == np.uint8 and pixels.shape == (6, 8, 3) and pixels.flags.writeable
    assert np.array_equal(pixels, np.array(load_image(str(path))))


def test_palette_with_transparency_and_animation(tmp_path: Path) -> None:
    first, second = (Image.fromarray(draw()[::step]).resize((8, 6)).convert("P") for step in (1, 2))
    paletted = save(first, tmp_path / "p.png", transparency=3)
    animated = save(first, tmp_path / "a.gif", save_all=True, append_images=[second], transparency=0)
    for path in (paletted, animated):
        assert np.array_equal(read_image(path), np.array(load_image(str(path)))), path


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp"])
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int, suffix: str) -> None:
    path = save(Image.fromarray(draw()), tmp_path / f"turned{suffix}", orientation)
    pixels = read_image(path)
    assert pixels.shape == ((8, 6, 3) if orientation >= 5 else (6, 8, 3))
    assert np.array_equal(pixels, np.array(load_image(str(path))))
    if suffix == ".png":
        stored, half = draw(), np.rot90(draw(), 2)
        ways = [stored, np.fliplr(stored), half, np.flipud(stored)]
        ways += [stored.swapaxes(0, 1), np.rot90(stored, -1), half.swapaxes(0, 1), np.rot90(stored)]
        assert np.array_equal(pixels, ways[orientation - 1])


def test_an_image_opened_before_is_turned_once(tmp_path: Path) -> None:
    path = save(Image.fromarray(draw()), tmp_path / "turned.png", 6)
    pixels = read_image(path)
    with Image.open(path) as image:
        assert np.array_equal(read_image(image), pixels)
        assert image.size == (8, 6), "the caller's picture stays as it is"
    assert np.array_equal(read_image(Image.fromarray(pixels)), pixels)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bits_are_scaled_not_clipped(tmp_path: Path, suffix: str) -> None:
    values = np.array([[0, 128, 257, 32768, 65535]], np.uint16)
    path = save(Image.fromarray(values), tmp_path / f"deep{suffix}")
    assert read_image(path)[0, :, 0].tolist() == [0, 0, 1, 128, 255]
    assert read_image(path).shape == (1, 5, 3)
    assert read_image(values)[0, :, 2].tolist() == [0, 0, 1, 128, 255]


def test_integers_and_floats_are_scaled_by_their_range(tmp_path: Path) -> None:
    for top in (1.0, 255.0, 65535.0):
        path = save(Image.fromarray(np.array([[0, top / 2, top]], np.float32)), tmp_path / "float.tif")
        assert read_image(path)[0, :, 1].tolist() == [0, 128, 255]
    path = save(Image.fromarray(np.array([[0, 257, 65535]], np.int32)), tmp_path / "int.tif")
    assert read_image(path)[0, :, 1].tolist() == [0, 1, 255]
    for bad in (np.array([[-1.0, 2]]), np.array([[0, np.nan]]), np.array([[0, 70000.0]])):
        path = save(Image.fromarray(bad.astype(np.float32)), tmp_path / "bad.tif")
        with pytest.raises(InputError, match=r"bad\.tif holds values from .* 65535"):
            read_image(path)


def test_every_kind_of_source_gives_the_same(tmp_path: Path) -> None:
    pixels = draw()
    path = save(Image.fromarray(pixels), tmp_path / "a.png")
    content = path.read_bytes()
    sources = [path, str(path), content, io.BytesIO(content), Image.fromarray(pixels), pixels]
    sources += [
        {"bytes": content, "path": None},
        {"bytes": None, "path": str(path)},
        {"bytes": content, "path": "b.png"},
    ]
    for source in sources:
        assert np.array_equal(read_image(source), pixels), describe(source)
        assert np.array_equal(read_mask(source), pixels), describe(source)
    with path.open("rb") as file:
        assert np.array_equal(read_image(file), pixels) and describe(file) == str(path)
    assert np.array_equal(read_image(pixels[..., :1]), np.repeat(pixels[..., :1], 3, 2))
    assert describe(sources[-1]) == "b.png" and describe(content) == "an image given as bytes"


def test_real_files_behind_jpg_names(pets_dir: Path) -> None:
    for name, kind in (("Abyssinian_5", "PNG"), ("Abyssinian_34", "GIF"), ("Abyssinian_1", "JPEG")):
        path = pets_dir / "images" / f"{name}.jpg"
        with Image.open(path) as image:
            assert image.format == kind
        pixels = read_image(path)
        assert np.array_equal(pixels, np.array(load_image(str(path))))
        check_pair(pixels.shape[:2], read_mask(pets_dir / "annotations" / "trimaps" / f"{name}.png"), name)


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda path: None, "no such file"),
        (lambda path: path.mkdir(), "a folder"),
        (lambda path: path.write_bytes(b""), r"empty \(0 bytes\)"),
        (lambda path: path.write_text("no picture at all"), "no picture of a known format"),
        (lambda path: path.write_bytes(jpeg()[:-200]), "truncated"),
    ],
)
@pytest.mark.parametrize("read", [read_image, read_mask])
def test_unreadable_files_are_named(
    tmp_path: Path, read: Callable[[Any], Any], write: Callable[[Path], Any], words: str
) -> None:
    path = tmp_path / "photo.jpg"
    write(path)
    for source in (path, {"bytes": None, "path": str(path)}):
        with pytest.raises(InputError, match=rf"photo\.jpg can't be read as .*: .*{words}") as error:
            read(source)
        assert one_line(error)


def jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(draw(40, 60)).save(buffer, "JPEG")
    return buffer.getvalue()


def test_unusable_arrays_and_dicts_are_told() -> None:
    for bad in (np.zeros((3, 8, 6), np.uint8), np.zeros((8, 6, 3), np.float32), np.zeros(4, np.uint8)):
        for read in (read_image, read_mask):
            with pytest.raises(InputError, match=r"array of shape .*give \(height, width"):
                read(bad)
    with pytest.raises(InputError, match="neither bytes nor a path"):
        read_image({"bytes": None, "path": None})


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_damaged_files_give_one_line_or_a_picture(data: st.DataObject) -> None:
    buffer = io.BytesIO()
    kind = data.draw(st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "WEBP"]))
    Image.fromarray(draw()).save(buffer, kind)
    content = bytearray(buffer.getvalue())
    for position, value in data.draw(st.lists(st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255)))):
        content[position] = value
    content = content[: data.draw(st.integers(0, len(content)))]
    for read in (read_image, read_mask):
        try:
            assert read(bytes(content)).dtype.kind in "ui"
        except InputError as error:
            assert "\n" not in str(error)


# ---- masks ----


def test_masks_keep_their_raw_values(tmp_path: Path) -> None:
    ids = np.array([[0, 1, 2], [3, 200, 255]], np.uint8)
    palette = Image.fromarray(ids).convert("P")
    palette.putpalette(draw(16, 16).tobytes())
    for image, suffix in ((Image.fromarray(ids), ".png"), (palette, ".png"), (palette, ".gif"), (palette, ".tif")):
        mask = read_mask(save(image, tmp_path / f"mask{suffix}"))
        if suffix != ".gif":  # which may reorder its colours
            assert mask.dtype == np.uint8 and np.array_equal(mask, ids), (image.mode, suffix)
    assert np.array_equal(read_mask(save(palette, tmp_path / "t.png", transparency=2)), ids)
    wide = ids.astype(np.uint16) * 257
    for suffix in (".png", ".tif"):
        mask = read_mask(save(Image.fromarray(wide), tmp_path / f"wide{suffix}"))
        assert mask.dtype == np.uint16 and np.array_equal(mask, wide)
    integers = read_mask(save(Image.fromarray(ids.astype(np.int32) - 7), tmp_path / "i.tif"))
    assert integers.dtype == np.int32 and np.array_equal(integers, ids.astype(int) - 7)
    floats = read_mask(save(Image.fromarray(ids.astype(np.float32)), tmp_path / "f.tif"))
    assert floats.dtype == np.int32 and np.array_equal(floats, ids)


def test_bilevel_masks_are_0_and_1(tmp_path: Path) -> None:
    inside = draw()[..., 0] > 127
    mask = read_mask(save(Image.fromarray(inside), tmp_path / "mask.png"))
    assert mask.dtype == np.uint8 and np.array_equal(mask, inside)
    assert np.array_equal(read_mask(inside), inside) and read_mask(inside).dtype == np.uint8


def test_rgb_masks_stay_colours_even_when_grey(tmp_path: Path) -> None:
    grey = np.repeat(draw()[..., :1], 3, 2)
    assert np.array_equal(read_mask(save(Image.fromarray(grey), tmp_path / "mask.png")), grey)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_of_masks_is_dropped_only_when_opaque(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(draw()).convert(mode)
    expected = draw() if mode == "RGBA" else np.array(Image.fromarray(draw()).convert("L"))
    mask = read_mask(save(image, tmp_path / "mask.png"))
    assert np.array_equal(mask, expected) and mask.flags.c_contiguous
    alpha = np.full((6, 8), 255, np.uint8)
    alpha[5, 7] = 254
    image.putalpha(Image.fromarray(alpha))
    with pytest.raises(InputError, match=r"mask\.png.*transparent.*without alpha"):
        read_mask(save(image, tmp_path / "mask.png"))


def test_masks_of_other_kinds_are_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"mask\.jpg.*CMYK.*PNG"):
        read_mask(save(Image.fromarray(draw()).convert("CMYK"), tmp_path / "mask.jpg"))
    for bad in (0.5, np.nan, np.inf, 1e12):
        with pytest.raises(InputError, match=r"mask\.tif.*fractions"):
            read_mask(save(Image.fromarray(np.full((2, 2), bad, np.float32)), tmp_path / "mask.tif"))


def test_exif_orientation_is_applied_to_masks(tmp_path: Path) -> None:
    ids = draw()[..., 0]
    mask = read_mask(save(Image.fromarray(ids), tmp_path / "mask.png", orientation=6))
    assert np.array_equal(mask, np.rot90(ids, -1))


# ---- pairs ----


def test_pairs_of_unequal_size_are_named(tmp_path: Path) -> None:
    check_pair(draw().shape[:2], draw()[..., 0], "mask.png")
    with pytest.raises(
        InputError, match=r"mask\.png: the mask is \(4, 8\), its image \(6, 8\) \(height, width\)"
    ) as error:
        check_pair(draw().shape[:2], draw(4)[..., 0], "mask.png")
    assert "EXIF" not in str(error.value) and one_line(error)


def test_a_turned_image_explains_the_sizes(tmp_path: Path) -> None:
    turned = save(Image.fromarray(draw()), tmp_path / "photo.jpg", orientation=6)
    straight = save(Image.fromarray(draw(8, 6)), tmp_path / "straight.jpg")
    mask = draw()[..., 0]
    for source in (turned, {"bytes": None, "path": str(turned)}, turned.read_bytes()):
        with pytest.raises(InputError, match=r"mask\.png.*\(6, 8\).*\(8, 6\).*is turned by its EXIF orientation"):
            check_pair(read_image(source).shape[:2], mask, "mask.png", source)
    for other in (straight, None, draw(8, 6)):
        with pytest.raises(InputError, match="may be turned"):
            check_pair(draw(8, 6).shape[:2], mask, "mask.png", other)


# ---- writing ----


@settings(max_examples=60, deadline=None)
@given(
    pred=arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=9)),
    num_colors=st.integers(1, 255),
    dtype=st.sampled_from([np.uint8, np.uint16, np.int64]),
)
def test_saved_masks_are_read_back(
    tmp_path_factory: pytest.TempPathFactory, pred: np.ndarray, num_colors: int, dtype: type
) -> None:
    path = tmp_path_factory.mktemp("masks") / "mask.png"
    palette = build_palette(num_colors)
    save_mask(pred.astype(dtype), palette, path)
    assert np.array_equal(read_mask(path), pred)
    colors = np.zeros((256, 3), np.uint8)
    colors[:num_colors] = palette
    assert np.array_equal(read_image(path), colors[pred])


def test_masks_are_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mask.png"
    save_mask(np.zeros((2, 2), np.uint8), build_palette(2), path)
    before = path.read_bytes()
    assert path.stat().st_mode & 0o444

    def fail(*args: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(images.os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        save_mask(np.ones((2, 2), np.uint8), build_palette(2), path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_overlay_blends_classes_and_leaves_ignored_pixels() -> None:
    image = np.full((1, 3, 3), 100, np.uint8)
    pred = np.array([[0, 1, 255]], np.uint8)
    blended = overlay(image, pred, [(200, 0, 101), (0, 0, 0)], alpha=0.5)
    assert blended.dtype == np.uint8
    assert blended[0].tolist() == [[150, 50, 100], [50, 50, 50], [100, 100, 100]]
    assert np.array_equal(overlay(image, pred, [(1, 2, 3)], alpha=0), image)
    assert overlay(image, pred, [(1, 2, 3)], alpha=1)[0, 0].tolist() == [1, 2, 3]
    with pytest.raises(InputError, match="alpha is 2"):
        overlay(image, pred, [(0, 0, 0)], alpha=2)

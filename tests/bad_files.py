"""Bad pictures, masks, layouts, recipes and models for test_bad_inputs.py; each maker writes into a folder.

A case is (maker, words): the maker returns what to read, and the words stand in the one line that refuses it. Where the
words are None, it is handled right, and the maker returns what must come out as well.
"""

import io
import json
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

GREY = np.arange(64, dtype=np.uint8).reshape(8, 8) * 3
COLOR = np.stack([GREY, GREY[::-1], 255 - GREY], -1)
MASK = (np.arange(64).reshape(8, 8) % 2).astype(np.uint8)
Case = tuple[Callable[[Path], Any], str | None]


def save(array: Any, path: Path, form: str | None = None, mode: str | None = None, **options: Any) -> Path:
    image = array if isinstance(array, Image.Image) else Image.fromarray(array)
    (image.convert(mode) if mode else image).save(path, form, **options)
    return path


def write(path: Path, content: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def encoded(array: Any, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, form, **options)
    return buffer.getvalue()


def png(width: int, height: int, data: bytes = b"", extra: bytes = b"", color_type: int = 2) -> bytes:
    """A PNG whose header claims a size."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, color_type, 0, 0, 0)
    body = chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def text_bomb() -> bytes:
    content = b"Comment\0\0" + zlib.compress(bytes(80 * 2**20))
    return struct.pack(">I", len(content)) + b"zTXt" + content + struct.pack(">I", zlib.crc32(b"zTXt" + content))


def linked(path: Path, target: str) -> Path:
    path.symlink_to(target)
    return path


def flipped(content: bytes, position: int) -> bytes:
    return content[:position] + bytes([content[position] ^ 0xFF]) + content[position + 1 :]


def turned(folder: Path, orientation: int) -> tuple[Path, np.ndarray]:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(COLOR, folder / "turned.png", exif=exif)
    return path, np.asarray(ImageOps.exif_transpose(Image.open(path)))


EPS = "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n(x) run\n%%EOF\n"
NOISE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)

IMAGES: dict[str, Case] = {
    "empty": (lambda f: write(f / "a.jpg", b""), "0 bytes"),
    "text": (lambda f: write(f / "a.jpg", "hello"), "no picture of a known format"),
    "html": (lambda f: write(f / "a.png", "<html>404</html>"), "no picture of a known format"),
    "svg": (lambda f: write(f / "a.png", '<svg xmlns="http://www.w3.org/2000/svg"/>'), "no picture"),
    "postscript, which a program would run": (lambda f: write(f / "a.png", EPS), "no picture of a known format"),
    "pdf": (lambda f: write(f / "a.png", "%PDF-1.4\n"), "no picture of a known format"),
    "cut JPEG": (lambda f: write(f / "a.jpg", encoded(NOISE, "JPEG")[:-900]), "truncated"),
    "cut PNG": (lambda f: write(f / "a.png", encoded(NOISE, "PNG")[:-900]), "truncated"),
    "cut in the header": (lambda f: write(f / "a.png", encoded(NOISE, "PNG")[:20]), "can't be read"),
    "PNG with a wrong byte": (lambda f: write(f / "a.png", flipped(encoded(NOISE, "PNG"), 60)), "can't be read"),
    "JPEG without size": (lambda f: write(f / "a.jpg", b"\xff\xd8\xff\xe0" + bytes(60)), "can't be read"),
    "broken WebP": (lambda f: write(f / "a.webp", encoded(NOISE, "WEBP")[:60]), "can't be read"),
    "broken TIFF": (lambda f: write(f / "a.tif", b"II*\0\x08\0\0\0\xff\xff" + bytes(40)), "can't be read"),
    "broken BMP": (lambda f: write(f / "a.bmp", b"BM" + b"\xff" * 60), "can't be read"),
    "no file": (lambda f: f / "absent.png", "no such file"),
    "dead link": (lambda f: linked(f / "a.png", "nowhere.png"), "no such file"),
    "link to itself": (lambda f: linked(f / "a.png", "a.png"), "can't be read"),
    "folder": (lambda f: (f / "a.png", (f / "a.png").mkdir())[0], "it is a folder"),
    "bomb": (lambda f: write(f / "a.png", png(60_000, 60_000)), "pixels that are read"),
    "smaller bomb": (lambda f: write(f / "a.png", png(10_000, 10_000)), "pixels that are read"),
    "GIF bomb": (lambda f: write(f / "a.gif", b"GIF89a\xff\xff\xff\xff\0\0\0;"), "can't be read"),
    "bomb in a PNG's text": (lambda f: write(f / "a.png", png(8, 8, extra=text_bomb())), "can't be read"),
    "no pixels": (lambda f: write(f / "a.png", png(0, 8)), "can't be read"),
    "nan": (lambda f: save(np.full((8, 8), np.nan, np.float32), f / "a.tif"), "nan"),
    "negative": (lambda f: save(np.full((8, 8), -1, np.float32), f / "a.tif"), "from -1 to "),
    "line break in the name": (lambda f: write(f / "a\nhfseg: all is well.png", b""), r"a\nhfseg: all is well.png"),
    "control characters in the name": (lambda f: write(f / "\x1b[2Ja.png", b""), r"\x1b[2Ja.png"),
    "PNG named .jpg": (lambda f: (save(COLOR, f / "a.jpg", "PNG"), COLOR), None),
    "GIF named .jpg": (lambda f: (save(GREY, f / "a.jpg", "GIF"), np.stack([GREY] * 3, -1)), None),
    "alpha": (lambda f: (save(COLOR, f / "a.png", mode="RGBA"), COLOR), None),
    "16 bit": (lambda f: (save(GREY.astype(np.uint16) * 257, f / "a.png"), np.stack([GREY] * 3, -1)), None),
    "one channel": (lambda f: (save(GREY, f / "a.png"), np.stack([GREY] * 3, -1)), None),
    "turned by EXIF": (lambda f: turned(f, 3), None),
    "mirrored by EXIF": (lambda f: turned(f, 2), None),
    "EXIF out of range": (lambda f: (turned(f, 99)[0], COLOR), None),
    "umlauts and spaces": (lambda f: (save(COLOR, f / "Bär (1) #%.png"), COLOR), None),
}


def palette(folder: Path, values: np.ndarray) -> Path:
    image = Image.fromarray(values).convert("P")
    image.putpalette([9, 8, 7] * 256)
    image.save(folder / "m.png")
    return folder / "m.png"


def rgba(alpha: int) -> Image.Image:
    image = Image.fromarray(np.stack([MASK] * 3, -1)).convert("RGBA")
    image.putalpha(alpha)
    return image


MASKS: dict[str, Case] = {
    "empty": (lambda f: write(f / "m.png", b""), "0 bytes"),
    "cut": (lambda f: write(f / "m.png", encoded(NOISE[..., 0], "PNG")[:-900]), "truncated"),
    "bomb": (lambda f: write(f / "m.png", png(60_000, 60_000, color_type=0)), "pixels that are read"),
    "numpy file": (lambda f: (np.save(f / "m.npy", MASK), f / "m.npy")[1], "no picture of a known format"),
    "value of no class": (lambda f: save(MASK * 7, f / "m.png"), "[7] belong to no class"),
    "many values": (lambda f: save(GREY, f / "m.png"), " in all] belong to no class"),
    "16-bit value": (lambda f: save(MASK.astype(np.uint16) * 1000, f / "m.png"), "[1000] belong to no class"),
    "RGB without a table": (lambda f: save(COLOR, f / "m.png"), "there is no colour table"),
    "JPEG": (lambda f: save(np.where(NOISE[:8, :8, 0] > 99, 1, 255).astype(np.uint8), f / "m.jpg"), "belong to no"),
    "transparent": (lambda f: save(rgba(0), f / "m.png"), "transparent pixels"),
    "cmyk": (lambda f: save(COLOR, f / "m.tif", mode="CMYK"), "can't be a CMYK picture"),
    "fractions": (lambda f: save(MASK.astype(np.float32) / 2, f / "m.tif"), "fractions"),
    "negative": (lambda f: save(MASK.astype(np.int32) * -1, f / "m.tif"), "[-1] belong to no class"),
    "smaller": (lambda f: save(MASK[:4], f / "m.png"), "the mask is (4, 8), its image (8, 8)"),
    "larger": (lambda f: save(np.tile(MASK, (2, 2)), f / "m.png"), "the mask is (16, 16)"),
    "ids": (lambda f: (save(MASK, f / "m.png"), MASK), None),
    "palette": (lambda f: (palette(f, MASK), MASK), None),
    "bilevel": (lambda f: (save(Image.fromarray(MASK * 255).convert("1"), f / "m.png"), MASK), None),
    "opaque alpha": (lambda f: (save(Image.fromarray(MASK).convert("LA"), f / "m.png"), MASK), None),
    "16 bit": (lambda f: (save(MASK.astype(np.uint16), f / "m.png"), MASK), None),
    "float": (lambda f: (save(MASK.astype(np.float32), f / "m.tif"), MASK), None),
    "all ignored": (lambda f: (save(np.full_like(MASK, 255), f / "m.png"), np.full_like(MASK, 255)), None),
}


def layout(folder: Path, *, names: tuple[str, ...] = ("a", "b"), classes: str | bytes | None = "x\ny\n") -> Path:
    for split in ("train", "val"):
        for kind, array in (("images", COLOR), ("masks", MASK)):
            (folder / kind / split).mkdir(parents=True, exist_ok=True)
            for name in names:
                save(array, folder / kind / split / f"{name}.png")
    if classes is not None:
        write(folder / "classes.txt", classes)
    return folder


def changed(folder: Path, change: Callable[[Path], Any], **options: Any) -> Path:
    change(layout(folder, **options))
    return folder


def emptied(path: Path) -> None:
    for file in path.iterdir():
        file.unlink()


LAYOUTS: dict[str, Case] = {
    "no folder": (lambda f: f / "absent", "is no folder"),
    "a file": (lambda f: write(f / "file", b""), "is no folder"),
    "nothing in it": (lambda f: f, "no classes.txt"),
    "no images": (lambda f: write(f / "classes.txt", "x\n").parent, "holds no images"),
    "no masks": (lambda f: changed(f, lambda r: (r / "masks").rename(r / "mask")), "Images without a mask"),
    "a mask is missing": (lambda f: changed(f, lambda r: (r / "masks/train/a.png").unlink()), "Images without a mask"),
    "an image is missing": (lambda f: changed(f, lambda r: (r / "images/train/a.png").unlink()), "without an image"),
    "two of one name": (lambda f: changed(f, lambda r: save(COLOR, r / "images/train/a.jpg")), "have the same name"),
    "an empty split": (lambda f: changed(f, lambda r: emptied(r / "images/val")), "holds no images"),
    "unknown splits": (lambda f: changed(f, lambda r: (r / "images").rename(r / "pictures")), "holds no images"),
    "masks is a file": (
        lambda f: changed(f, lambda r: ((r / "masks").rename(r / "m"), write(r / "masks", b""))),
        "Images without a mask",
    ),
    "no classes": (lambda f: layout(f, classes=None), "no classes.txt"),
    "empty classes": (lambda f: layout(f, classes=""), "is empty"),
    "doubled classes": (lambda f: layout(f, classes="x\nx\n"), "stand more than once"),
    "a blank class": (lambda f: layout(f, classes="x\n\ny\n"), "empty line, 2"),
    "300 classes": (lambda f: layout(f, classes="\n".join(map(str, range(300)))), "300 classes given"),
    "classes of bytes": (lambda f: layout(f, classes=b"\xff\xfe\x00x"), "is not UTF-8"),
    "too few classes": (lambda f: layout(f, classes="x\n"), "[1] belong to no class"),
    "other ids": (lambda f: changed(f, lambda r: write(r / "id2label.json", '{"1": "x"}'), classes=None), "must map"),
    "ids of no JSON": (lambda f: changed(f, lambda r: write(r / "id2label.json", "{"), classes=None), "valid JSON"),
    "nested JSON": (
        lambda f: changed(f, lambda r: write(r / "id2label.json", "[" * 10**5), classes=None),
        "valid JSON",
    ),
    "two lists": (lambda f: changed(f, lambda r: write(r / "id2label.json", '{"0": "z"}')), "name different classes"),
    "a bad colour": (lambda f: changed(f, lambda r: write(r / "colors.json", '{"x": [1, 2]}')), "give [r, g, b]"),
    "a colour of no class": (lambda f: changed(f, lambda r: write(r / "colors.json", '{"q": [1, 2, 3]}')), "names 'q'"),
    "a loop of links": (lambda f: changed(f, lambda r: os.symlink(r, r / "images/train/loop.png")), "without a mask"),
    "an empty mask": (lambda f: changed(f, lambda r: write(r / "masks/train/a.png", b"")), "0 bytes"),
    "whole": (lambda f: (layout(f), 2), None),
    "other files between": (
        lambda f: (changed(f, lambda r: [write(r / "images/train" / n, b"") for n in (".a.png", "b.txt")]), 2),
        None,
    ),
}

RECIPES: dict[str, tuple[str | bytes, str]] = {
    "empty": ("", "is not valid JSON"),
    "cut": ('{"dataset": "pets"', "is not valid JSON"),
    "a list": ("[]", "holds a list"),
    "bytes": (b"\xff\xfe{}", "is not valid JSON"),
    "nested without end": ("[" * 100_000, "is not valid JSON"),
    "a key twice": ('{"seed": 1, "seed": 2}', "'seed' stands twice"),
    "not a number": ('{"learning_rate": NaN}', "NaN is no number"),
    "infinite": ('{"learning_rate": 1e999}', "learning_rate is inf"),
    "a huge number": ('{"num_train_epochs": ' + "9" * 5000 + "}", "recipe.json"),
    "an unknown key": ('{"modle": "x"}', "Did you mean 'model'"),
    "a line break in a key": ('{"mod\\nel": "x"}', "There is no option 'mod\\nel'"),
    "remote code": ('{"trust_remote_code": true}', "There is no option 'trust_remote_code'"),
    "a token": ('{"hub_token": "hf_secretsecret"}', "hub_token stands in the recipe"),
    "a word for a number": ('{"learning_rate": "fast"}', "invalid float value"),
    "an object for a number": ('{"learning_rate": {"a": 1}}', "invalid float value"),
    "a list for a word": ('{"dataset": ["pets", "folder"]}', "folder: more values than"),
    "no batch": ('{"per_device_train_batch_size": 0}', "per_device_train_batch_size is 0"),
    "a negative batch": ('{"per_device_eval_batch_size": -2}', "per_device_eval_batch_size is -2"),
    "no accumulation": ('{"gradient_accumulation_steps": 0}', "gradient_accumulation_steps is 0"),
    "negative workers": ('{"dataloader_num_workers": -1}', "dataloader_num_workers is -1"),
    "a negative rate": ('{"learning_rate": -1}', "learning_rate is -1"),
    "negative epochs": ('{"num_train_epochs": -1}', "num_train_epochs is -1"),
    "a negative seed": ('{"seed": -1}', "seed is -1"),
    "a huge image": ('{"image_size": 1000000}', "image_size is [1000000]"),
    "a huge crop": ('{"crop_size": [99999, 8]}', "crop_size is [99999, 8]"),
    "an unknown loss": ('{"loss": "focal"}', "loss is 'focal'"),
    "an unknown model": ('{"dataset": "synthetic", "num_images": 8, "model": "segformer-b9"}', "There is no model"),
    "an unknown data set": ('{"dataset": "imagenet"}', "There is no data set 'imagenet'"),
    "an unknown scheduler": ('{"lr_scheduler_type": "magic"}', "magic"),
    "an unknown optimiser": ('{"optim": "magic"}', "magic"),
    "a wrong table": ('{"label_map": [1, 2]}', "2: more values than"),
    "another data set's option": ('{"dataset": "synthetic", "binary": true}', "has no option binary"),
    "wrong weights": ('{"dataset": "synthetic", "num_images": 8, "class_weights": ["1", "2"]}', "has 2 values"),
}

CODE = """
from pathlib import Path
Path({sentinel!r}).touch()
from transformers import SegformerConfig as Config, SegformerForSemanticSegmentation as Model
from transformers import SegformerImageProcessor as Processor
"""


def write_model(folder: Path, **config: Any) -> Path:
    """A whole small bundle, as a start."""
    from transformers import SegformerConfig, SegformerForSemanticSegmentation, SegformerImageProcessor

    small = SegformerConfig(
        depths=[1] * 4, hidden_sizes=[8] * 4, num_attention_heads=[1] * 4, decoder_hidden_size=8, num_labels=3
    )
    SegformerForSemanticSegmentation(small).save_pretrained(folder)
    SegformerImageProcessor().save_pretrained(folder)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    return folder


class Evil:
    """What a pickle of an enemy holds."""

    def __init__(self, sentinel: Path) -> None:
        self.sentinel = sentinel

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.sentinel,))


def pickled(folder: Path) -> Path:
    import torch

    write_model(folder)
    (folder / "model.safetensors").unlink()
    torch.save({"weight": Evil(folder / "exploded")}, folder / "pytorch_model.bin")
    return folder


def with_code(folder: Path, *, own_type: bool = True, processor: bool = False) -> Path:
    auto_map = {
        "AutoConfig": "code.Config",
        "AutoModelForSemanticSegmentation": "code.Model",
        "AutoModel": "code.Model",
    }
    write_model(folder, auto_map=auto_map, **({"model_type": "evil"} if own_type else {}))
    (folder / "code.py").write_text(CODE.format(sentinel=str(folder / "exploded")))
    if processor:
        path = folder / "preprocessor_config.json"
        settings = json.loads(path.read_text()) | {"auto_map": {"AutoImageProcessor": "code.Processor"}}
        path.write_text(json.dumps(settings | {"image_processor_type": "EvilProcessor"}))
    return folder


def remade(folder: Path, name: str, content: bytes | str) -> Path:
    write_model(folder)
    write(folder / name, content)
    return folder


MODELS: dict[str, Case] = {
    "nothing": (lambda f: f, "no config.json"),
    "remote code": (with_code, "trust_remote_code"),
    "remote code of a processor": (lambda f: with_code(f, own_type=False, processor=True), "trust_remote_code"),
    "a pickle": (pickled, "pickled weights"),
    "no weights": (lambda f: (write_model(f) / "model.safetensors").unlink() or f, "can't be loaded"),
    "cut weights": (lambda f: remade(f, "model.safetensors", b"half"), "can't be loaded"),
    "weights with a bomb for a header": (
        lambda f: remade(f, "model.safetensors", struct.pack("<Q", 2**60) + b"{}"),
        "can't be loaded",
    ),
    "no JSON": (lambda f: remade(f, "config.json", "{"), "can't be loaded"),
    "an unknown type": (lambda f: write_model(f, model_type="nothing"), "can't be loaded"),
    "another kind of model": (lambda f: write_model(f, model_type="bert"), "can't be loaded"),
    "other sizes": (lambda f: write_model(f, hidden_sizes=[16] * 4), "can't be loaded"),
    "no processor": (lambda f: (write_model(f) / "preprocessor_config.json").unlink() or f, "can't be loaded"),
    "a processor of no JSON": (lambda f: remade(f, "preprocessor_config.json", "[" * 10**5), "can't be loaded"),
    "a recipe of no JSON": (lambda f: remade(f, "recipe.json", "{"), "recipe.json"),
    "metrics of no JSON": (lambda f: remade(f, "metrics.json", "[]"), "metrics.json"),
    "whole": (lambda f: (write_model(f), None), None),
}

"""`hfseg check`: every kind of bad file is found by name, whatever the layout, and good data passes."""

import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset, DatasetDict, Features
from datasets import Image as ImageFeature
from PIL import Image

from hfseg import check
from hfseg.audit.sample import KINDS
from hfseg.audit.survey import survey
from hfseg.data import hub_dataset, load
from hfseg.labels import Labels
from hfseg.logs import show_errors

SIZE = (48, 40)  # width, height
Drawn = Callable[[int], tuple[Image.Image, Image.Image]]


def draw_pair(seed: int) -> tuple[Image.Image, Image.Image]:
    """A picture of its own, and a mask of two classes and ignored pixels."""
    rng = np.random.default_rng(seed)
    picture = Image.fromarray(rng.integers(0, 256, (5, 6, 3), np.uint8)).resize(SIZE, Image.Resampling.BICUBIC)
    mask = np.zeros(SIZE[::-1], np.uint8)
    top, left = rng.integers(2, 20, 2)
    mask[top : top + 16, left : left + 20] = 1
    mask[:2] = 255
    return picture, Image.fromarray(mask)


def write_folder(root: Path, **splits: int) -> Path:
    seed = 0
    for split, count in splits.items():
        for kind in ("images", "masks"):
            (root / kind / split).mkdir(parents=True)
        for i in range(count):
            picture, mask = draw_pair(seed := seed + 1)
            picture.save(root / "images" / split / f"{i:02}.jpg", quality=90)
            mask.save(root / "masks" / split / f"{i:02}.png")
    (root / "classes.txt").write_text("ground\nthing\nother\n")
    return root


def run(out: Path, *argv: Any, code: int) -> dict[str, Any]:
    assert show_errors(check.main, [*map(str, argv), "--output_dir", str(out), "--num_workers", "0"]) == code
    result = json.loads((out / "check.json").read_text())
    page = (out / "index.html").read_text()
    assert not re.search(r'<script|<[^>]*src="(?!data:image/jpeg;base64,)|<link|url\(', page), "needs no other file"
    assert sum(result["counts"].values()) == len(result["issues"])
    return result


def pairs_of(result: dict[str, Any]) -> set[tuple[str, str]]:
    return {(issue["file"], issue["kind"]) for issue in result["issues"]}


def save_turned(picture: Image.Image, path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture.save(path, exif=exif)


def test_good_data_has_no_issue(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_folder(tmp_path / "data", train=8, validation=3)
    result = run(tmp_path / "out", "folder", "--data_dir", folder, code=0)
    assert result["issues"] == [] and result["splits"] == {"train": 8, "validation": 3} and result["num_files"] == 22
    assert result["sizes"] == {"image_size": [32, 64], "histogram": [{"height": 40, "width": 48, "images": 11}]}
    train = result["classes"]["pixels"]["train"]
    assert sum(train.values()) == 8 * 48 * 40 and train["ignored"] == 8 * 2 * 48 and train["other"] == 0
    ratio = train["ground"] / train["thing"]
    weights = result["classes"]["class_weights"]
    assert weights[1] / weights[0] == pytest.approx(ratio, rel=1e-3) and weights[2] == 0
    assert result["notes"] == ["Without a pixel in train: other."]
    said = capsys.readouterr().out
    assert "no issues in 22 files" in said and "--image_size 32 64" in said and "No issue." in page(tmp_path / "out")


def page(out: Path) -> str:
    return (out / "index.html").read_text()


def spoil(root: Path) -> set[tuple[str, str]]:
    """Makes one bad file of each kind; returns what is to be found."""
    images, masks = root / "images" / "train", root / "masks" / "train"
    picture, mask = draw_pair(99)
    values = np.asarray(mask)
    expected: set[tuple[str, str]] = set()

    def add(name: str, *kinds: str, image: Any = None, target: Any = None, kind_of: str = "images") -> None:
        seed = 1000 + len(expected)
        own, own_mask = draw_pair(seed)
        if image is None:
            own.save(images / f"{name}.jpg")
        else:
            image(own, images / f"{name}.jpg")
        if target is None:
            own_mask.save(masks / f"{name}.png")
        else:
            target(own_mask, masks / f"{name}.png")
        suffix = ".jpg" if kind_of == "images" else ".png"
        expected.update((f"{kind_of}/train/{name}{suffix}", kind) for kind in kinds)

    def to_bytes(picture: Image.Image, form: str = "JPEG") -> bytes:
        buffer = io.BytesIO()
        picture.save(buffer, form)
        return buffer.getvalue()

    def cmyk_in_rgba(own: Image.Image, path: Path) -> None:
        own.convert("CMYK").save(path)

    def half(own: Image.Image, path: Path) -> None:
        path.write_bytes(to_bytes(own)[:-400])

    def deep(own: Image.Image, path: Path) -> None:
        Image.fromarray(np.asarray(own.convert("L")).astype(np.uint16) * 257).save(path, "PNG")

    def soft(own: Image.Image, path: Path) -> None:
        ids = np.asarray(own).copy()
        ids[ids == 1] = 2
        ids[ids == 255] = 0
        small = Image.fromarray(ids).resize((24, 20), Image.Resampling.NEAREST)
        small.resize(SIZE, Image.Resampling.BILINEAR).save(path)

    add("empty", "empty", image=lambda own, path: path.write_bytes(b""))
    add("cut", "truncated", image=half)
    add("text", "unreadable", image=lambda own, path: path.write_text("not a picture"))
    add("png", "wrong_extension", image=lambda own, path: own.save(path, "PNG"))
    add("rgba", "wrong_extension", "alpha", image=lambda own, path: own.convert("RGBA").save(path, "PNG"))
    add("deep", "wrong_extension", "16_bit", image=deep)
    add("cmyk", "cmyk", image=cmyk_in_rgba)
    add("turned", "exif_rotation", image=lambda own, path: save_turned(own, path, 6))
    add("flipped", "exif_rotation", image=lambda own, path: save_turned(own, path, 3))
    add("size", "size_differs", target=lambda own, path: own.resize((30, 20), 0).save(path), kind_of="masks")
    add(
        "values",
        "values_outside_classes",
        target=lambda own, path: Image.fromarray(np.where(values == 1, 7, 0).astype(np.uint8)).save(path),
        kind_of="masks",
    )
    add(
        "void",
        "all_ignored",
        target=lambda own, path: Image.fromarray(np.full_like(values, 255)).save(path),
        kind_of="masks",
    )
    add(
        "one",
        "single_class",
        target=lambda own, path: Image.fromarray(np.zeros_like(values)).save(path),
        kind_of="masks",
    )
    add("soft", "anti_aliased", target=soft, kind_of="masks")
    lossy = ("lossy_mask", "wrong_extension", "values_outside_classes", "anti_aliased")
    add("lossy", *lossy, target=save_lossy, kind_of="masks")
    add("clear", "alpha", target=save_clear, kind_of="masks")
    picture.save(images / "alone.jpg")
    mask.save(masks / "lone.png")
    draw_pair(98)[0].convert("L").save(images / "alone.png")
    shutil.copy(images / "00.jpg", images / "again.jpg")
    shutil.copy(masks / "00.png", masks / "again.png")
    (images / "photo.heic").write_bytes(b"x")
    (images / ".hidden.jpg").write_bytes(b"x")
    (images / "notes.md").write_text("x")
    (root / "images" / "extra").mkdir()
    draw_pair(77)[0].save(root / "images" / "extra" / "left.jpg")
    (root / "images" / "extra" / "broken.png").write_bytes(b"")
    shutil.copy(images / "01.jpg", root / "images" / "validation" / "leak.jpg")
    shutil.copy(masks / "01.png", root / "masks" / "validation" / "leak.png")
    return expected | {
        ("images/train/alone.jpg", "no_mask"),
        ("images/train/alone.png", "same_name"),
        ("masks/train/lone.png", "no_image"),
        ("images/train/photo.heic", "not_read"),
        ("images/extra/left.jpg", "in_no_split"),
        ("images/extra/broken.png", "in_no_split"),
        ("images/extra/broken.png", "empty"),
        ("images/validation/leak.jpg", "duplicate_across_splits"),
        ("images/train/again.jpg", "duplicate"),
    }


def save_lossy(own: Image.Image, path: Path) -> None:
    Image.fromarray(np.where(np.asarray(own) == 1, 2, 0).astype(np.uint8) * 100).save(path, "JPEG", quality=40)


def save_clear(own: Image.Image, path: Path) -> None:
    clear = own.convert("RGBA")
    clear.putalpha(100)
    clear.save(path)


@pytest.fixture(scope="module")
def spoiled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, set[tuple[str, str]]]:
    root = write_folder(tmp_path_factory.mktemp("spoiled") / "data", train=6, validation=3)
    return root, spoil(root)


def test_every_kind_of_bad_file_is_found(spoiled: tuple[Path, set[tuple[str, str]]], tmp_path: Path) -> None:
    root, expected = spoiled
    result = run(tmp_path, "folder", "--data_dir", root, code=1)
    found = pairs_of(result)
    assert found == expected
    assert {kind for _, kind in found} == set(KINDS) - {"not_on_disk", "too_large"}, "each kind is tried here"
    assert any("notes.md" in note for note in result["notes"]) and "hidden" not in json.dumps(result)
    assert [row["value"] for row in result["values_outside_classes"]][0] != "255"
    assert "data:image/jpeg" in page(tmp_path)


def test_processes_find_the_same(spoiled: tuple[Path, set[tuple[str, str]]], tmp_path: Path) -> None:
    root = spoiled[0]
    big = tmp_path / "big"
    shutil.copytree(root, big)
    for i in range(60):
        picture, mask = draw_pair(5000 + i)
        picture.save(big / "images" / "train" / f"more{i}.jpg")
        mask.save(big / "masks" / "train" / f"more{i}.png")
    one = run(tmp_path / "one", "folder", "--data_dir", big, code=1)
    argv = ["folder", "--data_dir", str(big), "--output_dir", str(tmp_path / "two"), "--num_workers", "2"]
    assert show_errors(check.main, argv) == 1
    assert json.loads((tmp_path / "two" / "check.json").read_text()) == one


def test_texts_of_users_are_escaped(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "data", train=2)
    bad = '<img src=x onerror="alert(1)">.png'
    (folder / "images" / "train" / bad).write_bytes(b"")
    (folder / "classes.txt").write_text("<b>ground</b>\n{{ 7 * 7 }}\n</style>\n")
    run(tmp_path / "out", "folder", "--data_dir", folder, code=1)
    text = page(tmp_path / "out")
    assert "<img src=x" not in text and "&lt;img src=x" in text and "<b>" not in text and "{{ 7 * 7 }}" in text
    assert text.count("</style>") == 1


def test_pets(pets_dir: Path, tmp_path: Path) -> None:
    """A sixth of it, with the two files that are known to be odd."""
    names = [path.stem for path in sorted((pets_dir / "images").glob("*.jpg"))[::8]] + ["Abyssinian_34", "Abyssinian_5"]
    root = tmp_path / "pets"
    for folder in ("images", "annotations/trimaps"):
        (root / folder).mkdir(parents=True)
    for name in set(names):
        (root / "images" / f"{name}.jpg").symlink_to(pets_dir / "images" / f"{name}.jpg")
        trimap = f"annotations/trimaps/{name}.png"
        (root / trimap).symlink_to(pets_dir / trimap)
    for name in ("trainval.txt", "test.txt"):
        shutil.copy(pets_dir / "annotations" / name, root / "annotations")
    (root / "annotations" / "trimaps" / f"{names[0]}.png").unlink()
    (root / "images" / f"{names[1]}.jpg").unlink()
    result = run(tmp_path / "out", root, code=1)  # its layout says that it is pets
    assert result["dataset"] == "pets"
    found = pairs_of(result)
    assert {
        ("images/Abyssinian_34.jpg", "wrong_extension"),
        ("images/Abyssinian_34.jpg", "in_no_split"),
        ("annotations/trimaps/Abyssinian_34.png", "single_class"),
        ("images/Abyssinian_5.jpg", "wrong_extension"),
        ("images/Abyssinian_5.jpg", "alpha"),
        (f"images/{names[0]}.jpg", "no_mask"),
        (f"annotations/trimaps/{names[1]}.png", "no_image"),
        ("annotations/test.txt", "not_on_disk"),
    } <= found
    assert ("images/Abyssinian_34.jpg", "a GIF named .jpg") in {(i["file"], i["detail"]) for i in result["issues"]}


def test_cityscapes(tmp_path: Path) -> None:
    root = tmp_path / "city"
    for split, name, what in (
        ("train", "a", "both"),
        ("train", "b", "image"),
        ("val", "c", "both"),
        ("test", "d", "both"),
        ("train_extra", "e", "image"),
    ):
        picture, _ = draw_pair(ord(name))
        image = root / "leftImg8bit" / split / "town" / f"{name}_leftImg8bit.png"
        mask = root / "gtFine" / split / "town" / f"{name}_gtFine_labelIds.png"
        for path in (image, mask):
            path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(image)
        ids = np.full(SIZE[::-1], 0 if split == "test" else 7, np.uint8)
        ids[10:20] = 0 if split == "test" else 40 if name == "c" else 26
        if what == "both":
            Image.fromarray(ids).save(mask)
    result = run(tmp_path / "out", "cityscapes", "--data_dir", root, code=1)
    assert pairs_of(result) == {
        ("leftImg8bit/train/town/b_leftImg8bit.png", "no_mask"),
        ("leftImg8bit/train_extra/town/e_leftImg8bit.png", "no_mask"),
        ("leftImg8bit/train_extra/town/e_leftImg8bit.png", "in_no_split"),
        ("gtFine/val/town/c_gtFine_labelIds.png", "values_outside_classes"),
    }


def test_drawn_data_is_clean(tmp_path: Path) -> None:
    result = run(tmp_path, "synthetic", "--num_images", 12, code=0)
    assert result["splits"] == {"train": 12, "validation": 1, "test": 1}


def test_rows_of_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row without image or mask, bytes that are no picture, a split of another name: found, not stumbled over."""

    def rows(count: int, start: int, **changes: Any) -> Dataset:
        columns: dict[str, list[Any]] = {"picture": [], "label": []}
        for seed in range(start, start + count):
            for name, image in zip(columns, draw_pair(seed)):
                buffer = io.BytesIO()
                image.save(buffer, "PNG")
                columns[name].append({"bytes": buffer.getvalue(), "path": None})
        for name, value in changes.items():
            columns[name][1] = value
        return Dataset.from_dict(columns, features=Features({name: ImageFeature() for name in columns}))

    broken = {"bytes": b"no picture", "path": "b.png"}
    parts = DatasetDict(train=rows(20, 0, picture=None), test=rows(3, 30, label=broken), extra=rows(2, 60))
    opened = (parts, ("picture", "label"), Labels(["ground", "thing"]))
    monkeypatch.setattr(hub_dataset, "open_repo", lambda *_, **__: opened)
    result = run(tmp_path, "user/data", "--validation_fraction", 0.2, code=1)
    assert result["splits"] == {"train": 16, "validation": 4, "test": 3, "no split": 2}
    assert pairs_of(result) == {
        ("train, row 1", "no_image"),
        ("test, row 1, mask b.png", "unreadable"),
        ("extra", "in_no_split"),
    }


def test_splits_are_those_of_training(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "data", train=20, test=3)
    options = {"data_dir": str(folder), "validation_fraction": 0.2, "split_seed": 3}
    loaded = load("folder", **options)[0]
    for split, part in loaded.items():
        paths = [row["path"] for row in part.cast_column("image", ImageFeature(decode=False))["image"]]
        listed = [sample.image for sample in survey("folder", options).samples if sample.split == split]
        assert listed == paths and len(listed) == {"train": 16, "validation": 4, "test": 3}[split]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ([], "Which data set?"),
        (["peds"], "Did you mean 'pets'"),
        (["folder"], "needs data_dir"),
        (["folder", "--data_dir", "nowhere"], "is no folder"),
        (["."], "has no classes.txt"),
        (["synthetic", "--num_workers", "-1"], "num_workers is -1"),
        (["synthetic", "--binary", "true"], "has no option binary"),
        (["synthetic", "--output_dirs", "x"], "Did you mean 'output_dir'"),
    ],
)
def test_mistakes_get_one_line(argv: list[str], words: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert show_errors(check.main, argv) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("hfseg: error: ") and words in error and "\n" not in error

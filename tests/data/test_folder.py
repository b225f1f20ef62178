"""A user's own pairs: layouts, tables, templates, and every mistake of a first day."""

import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Image as ImageFeature
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hfseg.data import classes, folder, load
from hfseg.data.transforms import SegTransform, build_processor, prepare
from hfseg.errors import InputError
from hfseg.images import read_mask

CAMVID = ["sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist"]
NAMES = ["sky", "road", "car"]


def write(root: Path, *names: str, mask: Any = None) -> Path:
    """Writes images and masks; what they hold follows from the folder's name."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        values = np.zeros((4, 5), np.uint8) if mask is None else np.asarray(mask)
        picture = np.zeros((4, 5, 3), np.uint8)
        Image.fromarray(values if "mask" in name or "gt" in name else picture).save(path)
    return root


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for split, names in (("train", "abcd"), ("validation", "ef"), ("test", "g")):
        for name in names:
            write(tmp_path, f"images/{split}/{name}.jpg", f"masks/{split}/{name}.png")
    (tmp_path / "classes.txt").write_text("sky\nroad\ncar\n")
    return tmp_path


def files(dataset: Any, column: str = "image") -> list[str]:
    return [
        "/".join(Path(row["path"]).parts[-2:])
        for row in dataset.cast_column(column, ImageFeature(decode=False))[column]
    ]


def sizes(dataset: Any) -> dict[str, int]:
    return {name: len(part) for name, part in dataset.items()}


def load_error(root: Path, **options: Any) -> str:
    with pytest.raises(InputError) as error:
        folder.load(root, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


# ---- layouts ----


def test_camvid(camvid_dir: Path) -> None:
    dataset, labels = load("folder", data_dir=str(camvid_dir), classes=CAMVID, ignore_values=[11])
    assert sizes(dataset) == {"train": 367, "validation": 101} and labels.names == tuple(CAMVID)
    row = dataset["validation"][7]
    raw = np.array(row["mask"])
    assert row["image"].size == row["mask"].size == (480, 360)
    encoded = labels.encode(raw)
    assert ((encoded == 255) == (raw == 11)).all() and (encoded[raw < 11] == raw[raw < 11]).all()
    assert "11" in load_error(camvid_dir, classes=CAMVID), "a value outside the classes shows at once"
    assert "no classes.txt" in load_error(camvid_dir)
    assert "no classes.txt" in load_error(camvid_dir, ignore_values=[11])


def test_images_and_masks_are_matched_by_name(tree: Path) -> None:
    write(tree, "images/train/z.two.PNG", "masks/train/z.two.png")
    for junk in ("images/train/Thumbs.db", "images/train/.DS_Store", "masks/train/._a.png", "masks/notes.txt"):
        (tree / junk).write_bytes(b"junk")
    dataset, labels = folder.load(tree)
    assert sizes(dataset) == {"train": 5, "validation": 2, "test": 1}
    assert files(dataset["train"]) == ["train/a.jpg", "train/b.jpg", "train/c.jpg", "train/d.jpg", "train/z.two.PNG"]
    assert files(dataset["train"], "mask") == [f"train/{name}.png" for name in ("a", "b", "c", "d", "z.two")]
    assert labels.names == ("sky", "road", "car") and dataset["train"][0]["image"].size == (5, 4)


@pytest.mark.parametrize("alias", ["val", "valid", "dev", "validation"])
def test_names_of_splits(tree: Path, alias: str) -> None:
    (tree / "images" / "validation").rename(tree / "images" / alias)
    (tree / "masks" / "validation").rename(tree / "masks" / "val")
    (tree / "images" / "train").rename(tree / "images" / "training")
    (tree / "masks" / "train").rename(tree / "masks" / "training")
    assert sizes(folder.load(tree)[0]) == {"train": 4, "validation": 2, "test": 1}


def test_validation_is_held_out_where_there_is_none(tree: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tree, *[f"{kind}/train/{i:02d}.png" for kind in ("images", "masks") for i in range(16)])
    for kind in ("images", "masks"):
        for path in (tree / kind / "validation").iterdir():
            path.unlink()
        (tree / kind / "validation").rmdir()
    with caplog.at_level(logging.INFO):
        dataset = folder.load(tree, validation_fraction=0.2)[0]
    assert sizes(dataset) == {"train": 16, "validation": 4, "test": 1} and "4 of 20" in caplog.text
    both = files(dataset["train"]) + files(dataset["validation"])
    assert len(set(both)) == 20 and files(dataset["train"]) == sorted(files(dataset["train"]))
    again, other = (folder.load(tree, validation_fraction=0.2, split_seed=seed)[0] for seed in (0, 1))
    assert files(again["validation"]) == files(dataset["validation"]) != files(other["validation"])
    assert sizes(folder.load(tree, validation_fraction=0)[0]) == {"train": 20, "test": 1}
    assert sizes(folder.load(tree, validation_fraction=0.01)[0])["validation"] == 1
    assert sizes(folder.load(tree, validation_fraction=1.0)[0])["train"] == 1


def test_a_test_split_alone_can_be_evaluated(tree: Path) -> None:
    for kind in ("images", "masks"):
        for split in ("train", "validation"):
            (tree / kind / split).rename(tree / f"{kind}-{split}")
    assert sizes(folder.load(tree)[0]) == {"test": 1}


@pytest.mark.parametrize(
    ("image_glob", "mask_glob", "names"),
    [
        ("images/{split}/*.jpg", "masks/{split}/{stem}_mask.png", ["images/val/a.jpg", "masks/val/a_mask.png"]),
        ("{split}/*/img_*.png", "{split}/*/mask_*.png", ["val/berlin/img_1.png", "val/berlin/mask_1.png"]),
        ("{split}/*.jpg", "{split}/{stem}.png", ["val/mask.jpg", "val/mask.png"]),
        ("rgb/{split}/*/*_rgb.png", "gt/{split}/*/*_gt.png", ["rgb/val/x/1_rgb.png", "gt/val/x/1_gt.png"]),
        ("rgb/{split}/*.png", "all_masks/{stem}.png", ["rgb/val/1.png", "all_masks/1.png"]),
    ],
)
def test_templates(tmp_path: Path, image_glob: str, mask_glob: str, names: list[str]) -> None:
    for name in names:
        write(tmp_path, name, name.replace("val/", "train/").replace("1", "2"))
    options = {"image_glob": image_glob, "mask_glob": mask_glob, "classes": NAMES}
    dataset = folder.load(tmp_path, **options)[0]
    assert sizes(dataset) == {"train": 1, "validation": 1}
    for column, name in zip(("image", "mask"), names):
        assert files(dataset["validation"], column) == ["/".join(Path(name).parts[-2:])]
    (tmp_path / names[1]).rename(tmp_path / names[1].replace("1", "3").replace("mask.png", "other.png"))
    assert "Images without a mask" in load_error(tmp_path, **options)


def test_a_template_without_split_is_all_train(tmp_path: Path) -> None:
    write(tmp_path, *[f"{kind}/{i}.png" for kind in ("rgb", "gt") for i in range(10)])
    dataset = folder.load(tmp_path, image_glob="rgb/*.png", mask_glob="gt/*.png", classes=NAMES)[0]
    assert sizes(dataset) == {"train": 9, "validation": 1}


def test_names_with_special_characters_in_the_folders(tmp_path: Path) -> None:
    root = tmp_path / "my [data] {split} *"
    write(root, "images/train/a+b (1).png", "masks/train/a+b (1).png", "images/train/c[2].png", "masks/train/c[2].png")
    assert sizes(folder.load(root, classes=NAMES)[0]) == {"train": 1, "validation": 1}


def test_thousands_of_files_are_paired(tmp_path: Path) -> None:
    write(tmp_path, "images/train/0.png", "masks/train/0.png")
    for kind in ("images", "masks"):
        real = tmp_path / kind / "train" / "0.png"
        for i in range(1, 5_000):
            real.with_name(f"{i}.png").symlink_to(real)
    assert sizes(folder.load(tmp_path, classes=NAMES)[0]) == {"train": 4_500, "validation": 500}


# ---- classes ----


def test_where_class_names_come_from(tree: Path) -> None:
    assert folder.load(tree, classes=["x", "y", "z"])[1].names == ("x", "y", "z")
    (tree / "id2label.json").write_text(json.dumps({"1": "road", "0": "sky", "2": "car"}))
    assert folder.load(tree)[1].names == ("sky", "road", "car")
    (tree / "classes.txt").unlink()
    assert folder.load(tree)[1].names == ("sky", "road", "car")
    (tree / "classes.txt").write_text("\ufeffsky\r\n  open road \r\n\r\n", encoding="utf-8")
    assert "name different classes" in load_error(tree)
    (tree / "id2label.json").unlink()
    assert folder.load(tree)[1].names == ("sky", "open road")


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("classes.txt", b"", "classes.txt is empty"),
        ("classes.txt", b"sky\n\ncar\n", "has an empty line, 2"),
        ("classes.txt", b"sky\nsky\n", r"\['sky'\] stand more than once"),
        ("classes.txt", b"\xff\xfes\x00", "not UTF-8"),
        ("id2label.json", b"[1]", "must hold a JSON object"),
        ("id2label.json", b"{", "not valid JSON"),
        ("id2label.json", b'{"1": "sky", "7": "car"}', r"must map the class ids 0, 1, 2.*\['1', '7'\].*label_map"),
        ("colors.json", b'{"sky": [1, 2]}', r"colors has sky: \[1, 2\]; give \[r, g, b\]"),
        ("colors.json", b'{"sky": [1, 2, 256]}', "numbers from 0 to 255"),
        ("colors.json", b'{"sky": [1, 2, 3], "car": [1, 2, 3]}', r"\[1, 2, 3\] to two classes, car"),
    ],
)
def test_bad_class_files_are_told(tree: Path, file: str, content: bytes, words: str) -> None:
    (tree / "classes.txt").unlink()
    (tree / file).write_bytes(content)
    with pytest.raises(InputError, match=words):
        folder.load(tree)


def test_raw_values_by_options() -> None:
    raw = np.array([[0, 1, 2, 3, 255]], np.uint8)
    for options, wanted in [
        ({"ignore_values": [3]}, [0, 1, 2, 255, 255]),
        ({"ignore_values": [0, 3]}, [255, 1, 2, 255, 255]),
        ({"reduce_zero_label": True}, [255, 0, 1, 2, 255]),
        ({"reduce_zero_label": True, "ignore_values": [2]}, [255, 0, 255, 2, 255]),
        ({"label_map": {"0": "car", "1": "sky", "2": 1, "3": "ignore"}}, [2, 0, 1, 255, 255]),
        ({"label_map": {0: 0, 1: 0, 2: 1, 3: 255, 255: 2}}, [0, 0, 1, 255, 2]),
        ({"label_map": {0: 0, 1: 1, 2: 2}, "ignore_values": [3]}, [0, 1, 2, 255, 255]),
    ]:
        labels = classes.read_labels(Path("nowhere"), classes=NAMES, **options)  # type: ignore[arg-type]
        assert labels.encode(raw)[0].tolist() == wanted, options
    with pytest.raises(InputError, match=r"values \[3\]"):
        classes.read_labels(Path("nowhere"), classes=NAMES, label_map={0: 0, 1: 1, 2: 2}).encode(raw)


@settings(max_examples=50, deadline=None)
@given(
    st.dictionaries(st.integers(0, 65535), st.sampled_from([*NAMES, "ignore", 0, 1, 2, 255]), min_size=1),
    st.lists(st.integers(0, 65535), max_size=3),
)
def test_label_maps_as_json(table: dict[int, Any], ignored: list[int]) -> None:
    text = json.loads(json.dumps(table))  # keys become strings
    labels = classes.read_labels(Path("nowhere"), classes=NAMES, label_map=text, ignore_values=ignored)
    meaning = {name: i for i, name in enumerate(NAMES)} | {"ignore": 255}
    wanted = {255: 255} | {raw: meaning.get(value, value) for raw, value in table.items()}
    wanted |= dict.fromkeys(ignored, 255)
    assert labels.encode(np.array([sorted(wanted)], np.int32))[0].tolist() == [wanted[raw] for raw in sorted(wanted)]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"label_map": {"0": "rod"}}, r"label_map names 'rod', but the classes are sky, road, car, .*'road'\?"),
        ({"label_map": {"0": 3}}, r"maps to \[3\]; allowed are the class ids 0 to 2"),
        ({"label_map": {"x": 0}}, "'x' in label_map or ignore_values is no mask value"),
        ({"label_map": {"0": 0}, "reduce_zero_label": True}, "exclude each other"),
        ({"ignore_values": [70000]}, r"mask values \[70000\]"),
        ({"colors": {"rode": [0, 0, 0]}}, "colors names 'rode'"),
        ({"classes": ["a", "a"]}, "more than once"),
        ({"classes": []}, "0 classes"),
    ],
)
def test_bad_tables_are_told(tree: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        folder.load(tree, **options)


def test_rgb_masks_with_a_colour_table(tmp_path: Path) -> None:
    colors = {"sky": [0, 0, 200], "road": [[90, 90, 90], [91, 91, 91]], "ignore": [0, 0, 0]}
    mask = np.array([[[0, 0, 200], [90, 90, 90], [91, 91, 91], [0, 0, 0]]], np.uint8)
    write(tmp_path, "images/train/a.png", "masks/train/a.png", mask=mask)
    assert "RGB picture, and there is no colour table" in load_error(tmp_path, classes=["sky", "road"])
    (tmp_path / "colors.json").write_text(json.dumps(colors))
    for options in ({}, {"classes": ["sky", "road"]}, {"colors": colors}):
        dataset, labels = folder.load(tmp_path, **options)
        assert labels.names == ("sky", "road") and labels.palette == ((0, 0, 200), (90, 90, 90))
        assert labels.encode(read_mask(dataset["train"][0]["mask"]))[0].tolist() == [0, 1, 1, 255]
    message = load_error(tmp_path, colors={"sky": [0, 0, 200]})
    assert "a.png: colours" in message and "(90, 90, 90)" in message


def test_palette_masks_are_read_by_index(tmp_path: Path) -> None:
    mask = Image.fromarray(np.array([[0, 1, 2, 255]], np.uint8)).convert("P")
    mask.putpalette([9, 9, 9] * 256)
    write(tmp_path, "images/train/a.png", "masks/train/b.png")
    mask.save(tmp_path / "masks/train/a.png")
    (tmp_path / "masks/train/b.png").unlink()
    dataset, labels = folder.load(tmp_path, classes=NAMES)
    assert labels.encode(read_mask(dataset["train"][0]["mask"]))[0].tolist() == [0, 1, 2, 255]


def test_masks_of_0_and_255_are_pointed_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path, "images/train/a.png", "masks/train/a.png", mask=np.array([[0, 255]], np.uint8))
    labels = folder.load(tmp_path, classes=["no", "yes"])[1]
    assert "255 is ignored. If it means yes, give label_map" in caplog.text
    caplog.clear()
    labels = folder.load(tmp_path, classes=["no", "yes"], label_map={"0": 0, "255": 1})[1]
    assert labels.encode(np.array([[0, 255]], np.uint8)).tolist() == [[0, 1]] and not caplog.text


# ---- mistakes ----


def test_missing_folders_are_told(tree: Path) -> None:
    with pytest.raises(InputError, match="needs data_dir: a folder with images/<split>/ and masks/<split>/"):
        folder.load()
    assert "nowhere is no folder" in load_error(tree / "nowhere")
    message = load_error(tree / "images", classes=NAMES)
    assert "holds no images in images/{split}/*; its folders are ['test', 'train', 'validation']" in message
    (tree / "masks").rename(tree / "labels")
    assert "Images without a mask: images/train/a.jpg" in load_error(tree)


def test_unpaired_files_are_named(tree: Path) -> None:
    for name in "abcd":
        (tree / "masks" / "train" / f"{name}.png").unlink()
    message = load_error(tree)
    assert (
        "Images without a mask: images/train/a.jpg, images/train/b.jpg, images/train/c.jpg, ... (4 in all)" in message
    )
    assert "looked for in masks/train/{stem}.*" in message
    write(tree, *[f"masks/train/{name}.png" for name in "abcdx"], "masks/test/y.png")
    assert "Masks without an image: masks/test/y.png, masks/train/x.png. Images are looked for" in load_error(tree)


def test_masks_of_a_split_without_images_are_named(tree: Path) -> None:
    (tree / "images" / "test").rename(tree / "elsewhere")
    assert "Masks without an image: masks/test/g.png" in load_error(tree)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_a_name_that_is_no_text_is_told(tree: Path) -> None:
    os.rename(tree / "images" / "train" / "a.jpg", os.fsencode(tree / "images" / "train") + b"/\xff.jpg")
    assert "is not UTF-8" in load_error(tree)


def test_two_files_of_one_name_are_told(tree: Path) -> None:
    write(tree, "images/train/a.png")
    message = load_error(tree)
    assert "a.jpg" in message and "a.png have the same name" in message or "a.jpg have the same name" in message


def test_empty_splits_are_told(tree: Path) -> None:
    (tree / "images" / "test" / "g.jpg").rename(tree / "images" / "test" / "g.txt")
    assert "images/test holds no images; pictures end with .jpg" in load_error(tree)


def test_bad_masks_are_named_at_once(tree: Path) -> None:
    write(tree, "masks/validation/f.png", mask=np.full((4, 5), 9, np.uint8))
    assert "validation/f.png: mask values [9]" in load_error(tree)
    (tree / "masks" / "validation" / "f.png").write_bytes(b"")
    assert "validation/f.png can't be read as a mask: it is empty" in load_error(tree)


def test_other_mistakes_show_as_samples_are_read(tree: Path) -> None:
    write(tree, "masks/test/g.png", mask=np.zeros((5, 4), np.uint8))
    dataset, labels = folder.load(tree)
    with pytest.raises(InputError, match=r"test/g\.png: the mask is \(5, 4\), its image \(4, 5\)"):
        prepare(dataset["test"], SegTransform(labels, build_processor((8, 8))))[0]
    (tree / "images" / "train" / "b.jpg").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"train/b\.jpg can't be read as an image"):
        prepare(dataset["train"], SegTransform(labels, build_processor((8, 8))))[1]


@pytest.mark.parametrize(
    ("image_glob", "mask_glob", "words"),
    [
        ("images/{split}/*", None, "belong together"),
        (None, "masks/{split}/{stem}.png", "belong together"),
        ("images/**/*.jpg", "masks/{stem}.png", r"only \*, \{split\} and \{stem\}"),
        ("images/[ab]*.jpg", "masks/{stem}.png", "have a meaning"),
        ("../*.jpg", "masks/{stem}.png", "relative to data_dir"),
        ("/tmp/*.jpg", "masks/{stem}.png", "relative to data_dir"),
        ("images/{stem}.jpg", "masks/{stem}.png", "stands once, in mask_glob"),
        ("images/{split}/*/*.jpg", "masks/{split}/*.png", "the same number of"),
        ("images/*.jpg", "masks/{split}/{stem}.png", "Write it in both"),
        ("nothing/{split}/*.jpg", "masks/{split}/{stem}.png", "holds no images in nothing/{split}"),
    ],
)
def test_bad_templates_are_told(tree: Path, image_glob: str | None, mask_glob: str | None, words: str) -> None:
    with pytest.raises(InputError, match=words):
        folder.load(tree, image_glob=image_glob, mask_glob=mask_glob)


def test_bad_fractions_are_told(tree: Path) -> None:
    assert "validation_fraction is -0.1" in load_error(tree, validation_fraction=-0.1)

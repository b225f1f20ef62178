"""Data sets of the Hub, as Parquet served on loopback to the genuine `load_dataset` in processes of its own."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import ClassLabel, Features, Image, List, Value

from hfseg.data import load
from hfseg.data.hub_dataset import find_class_names, find_columns
from hfseg.errors import InputError
from tests.loopback_hub import LoopbackHub

ROOT = Path(__file__).parents[2]
NAMES = ["wall", "sky", "tree"]


def run(hub: LoopbackHub, home: Path, *command: str, xet: bool = True, **settings: str) -> str:
    """A process that knows no other Hub; what it printed."""
    environment = os.environ | {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "PYTHONPATH": str(ROOT)}
    environment["HF_DATASETS_CACHE"] = str(home / "datasets")
    environment |= {"HF_TOKEN": "hf_user", "HF_HUB_DISABLE_XET": str(int(not xet)), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, *command], env=environment | settings, cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


def load_all(hub: LoopbackHub, home: Path, cases: Sequence[Any], **settings: str) -> list[dict[str, Any]]:
    script, out = str(Path(__file__).with_name("load_datasets.py")), home / "out.json"
    run(hub, home, script, json.dumps(cases), str(out), **settings)
    return json.loads(out.read_text())


@pytest.fixture(scope="module", params=[True, pytest.param(False, marks=pytest.mark.slow)], ids=["xet", "no xet"])
def hub(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopbackHub]:
    folder = tmp_path_factory.mktemp("hub")
    hub = LoopbackHub(folder / "store").start()
    run(hub, folder / "home", str(Path(__file__).with_name("publish_datasets.py")), xet=request.param)
    yield hub
    hub.stop()


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "listed": ("user/listed", {}),
    "ade": ("user/ade", {"reduce_zero_label": True}),
    "plain": ("user/plain", {"classes": NAMES, "split_seed": 1}),
    "plain quarter": ("user/plain", {"classes": NAMES, "validation_fraction": 0.25}),
    "plain whole": ("user/plain", {"classes": NAMES, "validation_fraction": 0.0}),
    "odd": ("user/odd", {"image_column": "left", "mask_column": "right"}),
    "two": ("user/two", {"classes": NAMES, "mask_column": "label"}),
    "v1": ("user/two", {"classes": NAMES, "dataset_revision": "v1", "mask_column": "label"}),
    "streamed": ("user/listed", {"streaming": True}),
    "streamed ade": ("user/ade", {"streaming": True, "reduce_zero_label": True}),
    "small": ("user/configs", {"classes": NAMES, "dataset_config": "small"}),
}
MISTAKES: dict[str, tuple[str, dict[str, Any], str]] = {
    "no such": ("user/none", {}, r"There is no data set user/none on the Hub that you can read.*hf auth login"),
    "no revision": ("user/two", {"dataset_revision": "v9"}, r"'v9' is no branch, tag or commit of user/two"),
    "no config": ("user/configs", {}, r"user/configs can't be loaded: .*small.*Give one as dataset_config"),
    "other config": ("user/configs", {"dataset_config": "big"}, r"'big' not found.*Give one as dataset_config"),
    "no classes": ("user/two", {"mask_column": "mask"}, r"user/two does not say what its masks mean.*Give classes"),
    "which column": (
        "user/odd",
        {},
        r"image_column: which column of user/odd is it\?.*\['left', 'right'\]",
    ),
    "two columns": ("user/two", {}, r"mask_column: .*\['mask', 'label'\] could be meant"),
    "text": ("user/odd", {"image_column": "note"}, r"image_column: the column 'note' of user/odd holds no pictures"),
    **{
        f"private, {token}": ("user/odd", {"as_user": token}, r"user/odd.*hf auth login")
        for token in ("hf_other", "", "hf_unknown")
    },
    "gated": ("user/gated", {"as_user": "hf_other"}, r"user/gated.*gated.*hf auth login"),
    "streamed, no split": ("user/plain", {"streaming": True, "classes": NAMES}, r"has no .*validation split"),
    "streamed, no such": ("user/none", {"streaming": True}, r"There is no data set user/none"),
    "zero": ("user/ade", {}, r"mask values \[3\] belong to no class"),
}


@pytest.fixture(scope="module")
def home(hub: LoopbackHub, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """HF_HOME of those who load: another one than the publisher's, whose cache must not help."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def loaded(hub: LoopbackHub, home: Path) -> dict[str, dict[str, Any]]:
    cases = [*CASES.values(), *((name, options) for name, options, _ in MISTAKES.values())]
    return dict(zip([*CASES, *MISTAKES], load_all(hub, home, cases), strict=True))


def sizes(result: dict[str, Any]) -> dict[str, int]:
    return {split: len(rows) for split, rows in result["rows"].items()}


def draw_mask(i: int, num_values: int) -> np.ndarray:
    return ((np.arange(12 * 16).reshape(12, 16) + i) % num_values).astype(np.uint8)


def test_columns_and_classes_come_from_the_features(loaded: dict[str, dict[str, Any]]) -> None:
    result = loaded["listed"]
    assert sizes(result) == {"train": 6, "validation": 2}, "val is validation"
    assert result["names"] == NAMES
    for i, row in enumerate(result["rows"]["train"]):
        assert row["image"] == 10 * i
        assert np.array_equal(row["mask"], draw_mask(i, 3))
    assert result["fed"] == {"size": [3, 12, 16], "labels": draw_mask(0, 3).tolist()}
    assert any("class names are those of the column classes_on_image" in line for line in result["said"])


def test_zero_is_reduced_and_names_come_from_id2label_json(loaded: dict[str, dict[str, Any]]) -> None:
    result = loaded["ade"]
    assert result["names"] == NAMES, "and not those of scene_category"
    assert sizes(result) == {"train": 4, "validation": 1}
    assert any("split test: the masks are withheld" in line for line in result["said"])
    for i, row in enumerate(result["rows"]["train"]):
        raw, mask = draw_mask(i, 4), np.array(row["mask"])
        assert (mask[raw == 0] == 255).all() and (mask[raw > 0] == raw[raw > 0] - 1).all()
        assert set(np.unique(mask)) == {0, 1, 2, 255}


def test_parquet_without_features_is_understood_and_a_part_is_held_out(loaded: dict[str, dict[str, Any]]) -> None:
    assert sizes(loaded["plain"]) == {"train": 18, "validation": 2}
    assert sizes(loaded["plain quarter"]) == {"train": 15, "validation": 5}
    assert sizes(loaded["plain whole"]) == {"train": 20}, "a single split is train, whatever its name"
    parts = [[row["image"] for row in rows] for rows in loaded["plain"]["rows"].values()]
    assert sorted(sum(parts, [])) == [10 * i for i in range(20)] and all(part == sorted(part) for part in parts)


def test_columns_are_taken_as_given(loaded: dict[str, dict[str, Any]]) -> None:
    result = loaded["odd"]
    assert result["names"] == NAMES
    assert any(line.startswith("WARNING") and "one class an image" in line for line in result["said"])


def test_revision_and_configuration(loaded: dict[str, dict[str, Any]]) -> None:
    assert sum(sizes(loaded["two"]).values()) == 5
    assert sum(sizes(loaded["v1"]).values()) == 3
    assert sum(sizes(loaded["small"]).values()) == 3


def test_a_stream_holds_what_a_download_holds(loaded: dict[str, dict[str, Any]]) -> None:
    for name, whole in (("streamed", "listed"), ("streamed ade", "ade")):
        for what in ("rows", "names", "fed"):
            assert loaded[name][what] == loaded[whole][what]
        assert any("read as a stream" in line for line in loaded[name]["said"])


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_get_one_line(loaded: dict[str, dict[str, Any]], mistake: str) -> None:
    message = loaded[mistake]["error"]
    assert "\n" not in message
    with pytest.raises(InputError, match=MISTAKES[mistake][2]):
        raise InputError(message)


def test_the_cache_is_used_without_a_network(hub: LoopbackHub, home: Path, loaded: dict[str, dict[str, Any]]) -> None:
    after, nothing = load_all(hub, home, [CASES["ade"], ("user/other", {})], HF_HUB_OFFLINE="1")
    assert after["rows"] == loaded["ade"]["rows"] and after["names"] == NAMES
    assert any("the Hub can't be reached" in line for line in after["said"])
    assert (
        "user/other can't be loaded: The Hub can't be reached" in nothing["error"]
        and "check the network" in nothing["error"]
    )


def test_trains_and_measures_by_recipe(hub: LoopbackHub, tmp_path: Path) -> None:
    recipe = ["recipes/segformer_hub.json", "--dataset", "user/plain", "--classes", *NAMES, "--ignore_values", "none"]
    small = ["--image_size", "32", "--crop_size", "32", "--weights", "scratch", "--max_steps", "2", "--use_cpu", "true"]
    train = ["train", *recipe, *small, "--output_dir", str(tmp_path)]
    test = ["eval", str(tmp_path / "best"), "--split", "validation", "--use_cpu", "true"]
    code = f"from hfseg.cli import main; import sys; sys.exit(main({train}) or main({test}))"
    said = run(hub, tmp_path / "home", "-c", code)
    assert "user/plain: 18 train, 2 validation images" in said
    metrics = json.loads((tmp_path / "validation" / "metrics.json").read_text())
    assert (metrics["dataset"], metrics["num_images"]) == ("user/plain", 2)
    assert np.sum(metrics["confusion_matrix"]) == 2 * 12 * 16


@pytest.mark.slow
def test_trains_on_a_stream(hub: LoopbackHub, tmp_path: Path) -> None:
    recipe = [
        "recipes/segformer_hub.json",
        "--dataset",
        "user/listed",
        "--streaming",
        "true",
        "--ignore_values",
        "none",
    ]
    recipe += ["--classes", "none", "--label_map", "none"]
    small = ["--image_size", "32", "--crop_size", "32", "--weights", "scratch", "--max_steps", "3", "--use_cpu", "true"]
    small += ["--per_device_train_batch_size", "2"]
    train = ["train", *recipe, *small, "--output_dir", str(tmp_path)]
    said = run(hub, tmp_path / "home", "-c", f"from hfseg.cli import main; import sys; sys.exit(main({train}))")
    assert "user/listed: 6 train, 2 validation images" in said
    card = (tmp_path / "best" / "README.md").read_text()
    assert "6 train, 2 validation images" in card
    kept = [str(path) for path in (tmp_path / "home").rglob("*train*") if path.suffix in (".parquet", ".arrow")]
    assert not kept, "the training images were downloaded"


# ---- without a Hub ----
def test_a_folder_of_that_name_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data" / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="data/mine is a folder here: give dataset folder and data_dir data/mine"):
        load("data/mine")
    with pytest.raises(InputError, match="data/mine has no option data_dir"):
        load("data/mine", data_dir="x")


def test_columns_are_told_by_name() -> None:
    pictures = {name: Image() for name in ("image", "annotation", "instance")}
    assert find_columns(Features(pictures), None, None) == ("image", "annotation")
    assert find_columns(Features(pictures), None, "instance") == ("image", "instance")
    with pytest.raises(InputError, match=r"'anotation' of the data set is not there.*Did you mean 'annotation'"):
        find_columns(Features(pictures), None, "anotation")
    with pytest.raises(InputError, match=r"are both 'image'"):
        find_columns(Features(pictures), "image", "image")
    with pytest.raises(InputError, match=r"Columns of pictures are \[\].*none has a usual name"):
        find_columns(Features(label=ClassLabel(names=NAMES)), None, None)
    stored = Features(image=Value("binary"), mask={"bytes": Value("binary"), "path": Value("string")})
    assert find_columns(stored, None, None) == ("image", "mask")


def test_class_names_are_found_inside_other_features() -> None:
    names = ClassLabel(names=NAMES)
    scene = ClassLabel(names=["street"])
    for inner in (List({"category": names}), {"category": List(names)}, List(names)):
        assert find_class_names(Features(scene=scene, objects=inner), "x") == NAMES
    assert find_class_names(Features(kind=names), "x") == NAMES
    with pytest.raises(InputError, match=r"its columns a, b name different classes\. Give classes"):
        find_class_names(Features(a=names, b=scene), "x")


DESCRIBE = """
from hfseg.data import load
from hfseg.provenance import describe_data
dataset, labels = load("user/listed")
facts = describe_data({"dataset": "user/listed"}, dataset)
print(facts.hub_id, facts.revision, sorted(facts.sizes))
"""


def test_a_card_can_name_the_commit_of_the_data(hub: LoopbackHub, tmp_path: Path) -> None:
    commit = hub.repos["dataset", "user/listed"].branches["main"]
    assert f"user/listed {commit} ['train'," in run(hub, tmp_path, "-c", DESCRIBE)


def test_check_reads_every_row(hub: LoopbackHub, tmp_path: Path) -> None:
    """The validation row of user/ade stands in train as well; the masks of its test split are withheld."""
    command = ["-c", "import sys; from hfseg.cli import main; main(sys.argv[1:])", "check", "user/ade"]
    run(hub, tmp_path / "home", *command, "--reduce_zero_label", "true", "--output_dir", str(tmp_path / "out"))
    result = json.loads((tmp_path / "out" / "check.json").read_text())
    assert result["splits"] == {"train": 4, "validation": 1, "test": 4} and result["num_files"] == 14
    assert result["notes"] == ["The masks of the split test are withheld."]
    leaks = {issue["file"] for issue in result["issues"] if issue["kind"] == "duplicate_across_splits"}
    assert "validation, row 0, image" in leaks
    assert sum(result["classes"]["pixels"]["validation"].values()) > 0

import inspect
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hfseg.args import (
    RUN_ONLY_KEYS,
    DataArguments,
    ModelArguments,
    RecipeParser,
    SegTrainingArguments,
    parse,
    read_recipe,
)
from hfseg.data import DATASETS, hub_dataset, streaming
from hfseg.errors import InputError

RECIPES = sorted((Path(__file__).parents[1] / "recipes").glob("*.json"))


def write_recipe(folder: Path, **keys: object) -> str:
    path = folder / "recipe.json"
    path.write_text(json.dumps(keys))
    return str(path)


def test_the_command_line_overrides_the_recipe(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, _about="a note", dataset="pets", num_train_epochs=30, image_size=64, lr_gamma=0.98)
    data, model, args, merged = parse(
        [recipe, "--num_train_epochs", "2", "--image_size", "64", "32", "--lr_gamma=none"]
    )
    assert (data.dataset, data.image_size, args.num_train_epochs, args.lr_gamma) == ("pets", (64, 32), 2.0, None)
    assert merged == {"dataset": "pets", "num_train_epochs": 2.0, "image_size": [64, 32]}


def test_none_is_a_word_where_it_is_a_choice_and_unset_elsewhere(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text('{"cache": "resized", "freeze": "encoder", "lr_gamma": 0.5, "label_files": "labelIds"}')
    data, model, args, recipe = parse([str(path), *["--cache", "none", "--freeze", "none", "--lr_gamma", "none"]])
    assert (data.cache, model.freeze, args.lr_gamma) == ("none", "none", None)
    assert recipe == {"cache": "none", "freeze": "none", "label_files": "labelIds"}
    assert parse([str(path), "--label_files", "null"])[0].label_files is None
    with pytest.raises(InputError, match="Option boundary: invalid choice: 'none'"):
        parse([str(path), "--boundary", "none"])


@pytest.mark.parametrize("loader", [*DATASETS.values(), hub_dataset.load, streaming.load])
def test_every_option_of_a_loader_comes_from_the_recipe(loader: Callable[..., Any]) -> None:
    args, marker = DataArguments(), object()
    names = [name for name, p in inspect.signature(loader).parameters.items() if p.kind is p.KEYWORD_ONLY]
    for name in set(names) - {"num_validation", "num_test", "size", "seed"}:  # of `synthetic`, for tests
        assert hasattr(args, name)
        setattr(args, name, marker)
        assert args.loader_options()[name] is marker


def test_the_merged_recipe_runs_again_as_it_is(tmp_path: Path) -> None:
    recipe = write_recipe(
        tmp_path, dataset="folder", label_map={"3": 1, "4": 255}, crop_size=[32, 48], horizontal_flip=0.5
    )
    given = [recipe, "--output_dir", "x", "--resume_from_checkpoint", "auto", "--overwrite", "true", "--use_cpu"]
    first = parse(given)
    assert not set(RUN_ONLY_KEYS) & set(first[-1])
    again = parse([write_recipe(tmp_path, **json.loads(json.dumps(first[-1])))])
    assert again[-1] == first[-1]
    assert again[0] == first[0]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_shipped_recipe_parses_and_says_what_was_measured(path: Path) -> None:
    parse([str(path), "--use_cpu", "true"])
    about = json.loads(path.read_text())["_about"]
    assert str(about).startswith("not run here") or {"command", "hardware", "time", "score"} <= set(about), about


def test_recipes_were_found() -> None:
    assert len(RECIPES) >= 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--num_train_epoch", "2"], "There is no option 'num_train_epoch'. Did you mean 'num_train_epochs'"),
        (["--learning_rate", "fast"], "Option learning_rate: invalid float value: 'fast'"),
        (["--num_train", "2"], "There is no option 'num_train'"),
        (["--freeze", "all"], "Option freeze: invalid choice: 'all' (choose from"),
        (["--bf16", "maybe"], "Option bf16"),
        (["--crop_size", "1", "2", "3"], "crop_size is [1, 2, 3]; give [height, width] or one number"),
        (["--image_size", "-4"], "image_size is [-4]"),
        (["--validation_fraction", "1.5"], "validation_fraction is 1.5; it must lie between 0 and 1"),
        (["--max_train_samples", "0"], "max_train_samples is 0"),
        (["--label_map", "3:1"], "label_map is not valid JSON"),
        (["--label_map", "[1]"], "label_map is '[1]'; give a JSON object"),
        (["--scale_jitter", "0", "2"], "scale_jitter is [0.0, 2.0]"),
        (["--eval_strategy", "sometimes"], "sometimes is not a valid IntervalStrategy"),
        (["--lr_gamma", "1.5"], "lr_gamma is 1.5"),
        (["--eval_every_epochs", "0"], "eval_every_epochs is 0"),
        (["--load_best_model_at_end", "true"], "output_dir/best"),
        (["--dataset"], "Option dataset: expected one argument"),
    ],
)
def test_mistakes_get_one_line(options: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        parse([write_recipe(tmp_path, dataset="pets"), *options])
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not valid JSON"),
        ("[1]", "holds a list; a recipe is one JSON object"),
        ('{"hub_token": "hf_x"}', "hub_token stands in the recipe"),
        ('{"learning_rate": "fast"}', "Option learning_rate: invalid float value"),
        ('{"num_train_epochs": true}', "Option num_train_epochs: invalid float value"),
        ('{"datset": "pets"}', "There is no option 'datset'. Did you mean 'dataset'"),
        ('{"image_size": []}', "Option image_size: expected at least one argument"),
        ('{"image_size": [64.5, 3]}', "Option image_size: invalid int value"),
    ],
)
def test_bad_recipe_files_get_one_line(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.json"
    path.write_text(text)
    with pytest.raises(InputError) as error:
        parse([str(path)])
    assert message in str(error.value)


def test_a_missing_recipe_names_its_neighbours(tmp_path: Path) -> None:
    write_recipe(tmp_path)
    with pytest.raises(InputError, match="Did you mean"):
        parse([str(tmp_path / "recipes.json")])


def test_a_bundle_folder_stands_for_its_recipe(tmp_path: Path) -> None:
    write_recipe(tmp_path, dataset="pets")
    assert read_recipe(tmp_path) == {"dataset": "pets"}


def test_every_option_of_ours_has_a_help_text() -> None:
    import dataclasses

    for dtype in (DataArguments, ModelArguments):
        for field in dataclasses.fields(dtype):
            assert field.metadata.get("help"), field.name
    assert "lr_gamma" in RecipeParser(SegTrainingArguments).key_names()


@given(
    st.dictionaries(st.text(max_size=8), st.none() | st.booleans() | st.integers() | st.text(max_size=8), max_size=4)
)
def test_any_json_object_parses_or_gets_one_line(recipe: dict) -> None:
    with tempfile.TemporaryDirectory() as folder:
        try:
            parse([write_recipe(Path(folder), **recipe)], (DataArguments, ModelArguments))
        except InputError as error:
            assert str(error)


KEYS = sorted(set(RecipeParser(DataArguments, ModelArguments, SegTrainingArguments).key_names()) - {"output_dir"})
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**6), 10**20) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)


@settings(max_examples=40)
@given(st.dictionaries(st.sampled_from(KEYS), JSON, max_size=3))
def test_any_value_of_any_key_parses_or_gets_one_line(recipe: dict) -> None:
    with tempfile.TemporaryDirectory() as folder:
        try:
            parse([write_recipe(Path(folder), **recipe), "--use_cpu", "true", "--output_dir", folder])
        except InputError as error:
            assert str(error)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("accelerator_config", False, "^accelerator_config: can't read 'False': No such file or directory.$"),
        ("accelerator_config", {"a": 1}, "unexpected keyword argument 'a'"),
        ("deepspeed", True, "deepspeed>=.* was not found"),
    ],
)
def test_a_value_that_transformers_ends_on_gets_one_line(key: str, value: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        parse([write_recipe(tmp_path, **{key: value}), "--use_cpu", "true", "--output_dir", str(tmp_path)])


@pytest.mark.skipif(torch.accelerator.is_available(), reason="bf16 needs no other word there")
def test_bf16_needs_no_other_word_on_a_cpu(tmp_path: Path) -> None:
    *_, args, recipe = parse([write_recipe(tmp_path, bf16=True), "--output_dir", str(tmp_path)])
    assert args.bf16 and args.device.type == "cpu" and recipe == {"bf16": True}


def test_help_lists_the_options() -> None:
    command = [sys.executable, "-c", "from hfseg.args import parse; parse(['--help'])"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "--lr_gamma" in result.stdout and "gradient_accumulation_steps" in result.stdout

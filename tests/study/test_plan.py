import json
import re
from pathlib import Path
from typing import Any

import pytest

from hfseg.errors import InputError
from hfseg.study import main, select_jobs
from hfseg.study.plan import build_jobs, read_study

ROOT = Path(__file__).parents[2]
RECIPE = {"dataset": "synthetic", "weights": "scratch", "learning_rate": 1e-3, "num_train_epochs": 4, "seed": 7}


def write_study(folder: Path, runs: list[dict[str, Any]], **rest: Any) -> Path:
    (folder / "base.json").write_text(json.dumps(RECIPE))
    rows = [{"recipe": "base.json"} | run for run in runs]
    path = folder / "study.json"
    path.write_text(json.dumps({"runs": rows} | rest))
    return path


SOURCE = {"name": "source", "seeds": [0]}
TUNED = {"name": "tuned", "weights_from": "source", "overrides": {"freeze": "encoder"}}


def test_recipe_then_study_then_run_then_command_line(tmp_path: Path) -> None:
    path = write_study(
        tmp_path,
        [{"name": "a", "overrides": {"learning_rate": 3e-3}}, {"name": "b_1"}, {"name": "b_2"}],
        overrides={"learning_rate": 2e-3, "num_train_epochs": 5},
    )
    rates = [run.recipe["learning_rate"] for run in read_study(path)]
    assert rates == [3e-3, 2e-3, 2e-3]
    runs = read_study(path, {"num_train_epochs": ["9"], "b_*.learning_rate": ["4e-3"], "b_2.learning_rate": ["5e-3"]})
    assert [run.recipe["learning_rate"] for run in runs] == [3e-3, 4e-3, 5e-3]
    assert [run.recipe["num_train_epochs"] for run in runs] == [9, 9, 9]
    assert runs[2].changed == {
        "num_train_epochs": {"from": 5, "to": 9},
        "learning_rate": {"from": 2e-3, "to": 5e-3},
    }
    assert "seed" not in runs[0].recipe and "use_cpu" not in runs[0].recipe


def test_jobs_wait_for_those_whose_weights_they_take(tmp_path: Path) -> None:
    path = write_study(tmp_path, [TUNED, SOURCE, {"name": "late", "after": ["tuned"]}], seeds=[0, 1])
    jobs = build_jobs(read_study(path), tmp_path / "out")
    names = [job.name for job in jobs]
    assert names == ["source seed 0", "tuned seed 0", "late seed 0", "tuned seed 1", "late seed 1"]
    tuned = next(job for job in jobs if job.name == "tuned seed 1")
    recipe = tuned.recipe()
    assert recipe["weights"] == str(tmp_path / "out" / "source" / "seed0" / "best")
    assert recipe["seed"] == 1 and recipe["freeze"] == "encoder"
    assert [job.name for job in select_jobs(jobs, ["tuned"])] == ["source seed 0", "tuned seed 0", "tuned seed 1"]


def test_the_hash_knows_the_recipe_and_its_source_but_not_the_folder(tmp_path: Path) -> None:
    path = write_study(tmp_path, [SOURCE, TUNED])

    def tuned_hash(folder: str, **changes: str) -> str:
        return build_jobs(read_study(path, {k: [v] for k, v in changes.items()}), tmp_path / folder)[-1].hash()

    assert tuned_hash("one") == tuned_hash("two")
    assert tuned_hash("one") != tuned_hash("one", learning_rate="2e-3")
    assert tuned_hash("one") != tuned_hash("one", **{"source.learning_rate": "2e-3"})


def test_weights_on_the_command_line_take_the_place_of_an_earlier_run(tmp_path: Path) -> None:
    runs = read_study(write_study(tmp_path, [SOURCE, TUNED]), {"tuned.weights": ["weights.pth"]})
    assert runs[1].recipe["weights"] == "weights.pth" and runs[1].weights_from is None and runs[1].after == []


@pytest.mark.parametrize(
    ("runs", "changes", "message"),
    [
        ([{"name": "a", "weights_from": "b"}], {}, "a waits for b, which is not in the study"),
        ([{"name": "a", "after": ["b"]}, {"name": "b", "after": ["a"]}], {}, "wait for each other: a -> b -> a"),
        ([{"name": "a", "after": ["a"]}], {}, "wait for each other: a -> a"),
        ([{"name": "a"}, {"name": "a"}], {}, "the run a is there 2 times"),
        ([{"name": "../a"}], {}, "'../a' is no name for a run"),
        ([], {}, "has no list of runs"),
        ([{"name": "a", "override": {}}], {}, "no key 'override'.*Did you mean 'overrides'"),
        ([{"name": "a", "recipe": "bose.json"}], {}, "There is no recipe .*bose.json. Did you mean"),
        ([{"name": "a", "overrides": {"learning_rat": 1}}], {}, "a: There is no option 'learning_rat'"),
        ([{"name": "a", "seeds": [1, 1]}], {}, "different whole numbers"),
        ([{"name": "a", "seeds": ["x"]}], {}, "different whole numbers"),
        ([{"name": "a", "seeds": [True]}], {}, "different whole numbers"),
        ([{"name": "a", "seeds": 3}], {}, "The run a has seeds 3. Give a list of whole numbers"),
        ([{"name": "a", "seeds": 0}], {}, "The run a has seeds 0. Give a list of whole numbers"),
        ([{"name": "a", "overrides": 5}], {}, "The run a has overrides 5. Give an object of options"),
        ([{"name": "a", "after": "b"}, {"name": "b"}], {}, "The run a has after 'b'. Give a list of names"),
        ([{"name": "a", "after": [["b"]]}], {}, r"The run a has after \[\['b'\]\]. Give a list of names"),
        ([{"name": "a", "weights_from": ["b"]}], {}, r"The run a has weights_from \['b'\]. Give the name of one run"),
        ([{"name": "a", "recipe": 5}], {}, "The run a has recipe 5. Give the path of a file"),
        ([{"name": "a"}], {"seed": ["3"]}, "sets seed, which a study sets itself"),
        ([{"name": "a"}], {"b.learning_rate": ["3"]}, "there is no run 'b'; there are a"),
        ([{"name": "a"}], {"a.learning_rat": ["3"]}, "There is no option 'learning_rat'"),
    ],
)
def test_mistakes_get_one_line(
    runs: list[dict[str, Any]], changes: dict[str, list[str]], message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message) as error:
        read_study(write_study(tmp_path, runs), changes)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("rest", [{"overrides": 5}, {"overrides": []}, {"seeds": 3}, {"seeds": "01"}])
def test_mistakes_above_the_runs_get_one_line(rest: dict[str, Any], tmp_path: Path) -> None:
    ((key, value),) = rest.items()
    with pytest.raises(InputError, match=re.escape(f"A study has {key} {value!r}. Give a")) as error:
        read_study(write_study(tmp_path, [{"name": "a"}], **rest))
    assert "\n" not in str(error.value)


def test_the_record_takes_no_other_file_s_place(tmp_path: Path) -> None:
    path = write_study(tmp_path, [{"name": "a"}])
    before = path.read_text()
    with pytest.raises(InputError, match="study.json is no record of a study.*Give another --output_dir"):
        main([str(path), "--output_dir", str(tmp_path)])
    assert path.read_text() == before and not (tmp_path / "a").exists()


def test_an_unknown_run_after_only_is_told(tmp_path: Path) -> None:
    jobs = build_jobs(read_study(write_study(tmp_path, [SOURCE, TUNED])), tmp_path)
    with pytest.raises(InputError, match="no run 'tune' in the study.*Did you mean 'tuned'"):
        select_jobs(jobs, ["tune"])


def test_every_study_that_comes_with_the_project_can_be_read() -> None:
    sizes = {p.stem: len(build_jobs(read_study(p), "out")) for p in sorted((ROOT / "recipes/studies").glob("*.json"))}
    assert sizes == {"lite0_strategies": 12, "pets_strategies": 22, "smoke": 5}


def test_pets_strategies_holds_the_runs_of_the_study() -> None:
    runs = {run.name: run for run in read_study(ROOT / "recipes/studies/pets_strategies.json")}
    assert list(runs) == [
        *("fcn_scratch", "fcn_finetune", "fcn_frozen", "segformer_cityscapes", "segformer_scratch"),
        *("segformer_finetune", "segformer_finetune_half_lr", "segformer_frozen"),
    ]
    base = json.loads((ROOT / "recipes/segformer_pets.json").read_text())
    for name, run in runs.items():
        changed = {"model", "dataset", "weights", "freeze", "learning_rate", "seed", "_about", "image_size"}
        assert all(run.recipe[key] == base[key] for key in set(base) - changed), name
        assert run.recipe["learning_rate"] == (5e-4 if name.endswith("half_lr") else 1e-3)
        assert (run.recipe.get("freeze") == "encoder") == name.endswith("frozen")
    sources = {name: run.weights_from for name, run in runs.items() if run.weights_from}
    assert set(sources.values()) == {"segformer_cityscapes"} and len(sources) == 3

"""Studies as a user runs them, in processes of their own."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
BASE = {
    "dataset": "synthetic",
    "num_images": 32,
    "image_size": 32,
    "model": "segformer-b0",
    "weights": "scratch",
    "num_train_epochs": 6,
    "per_device_train_batch_size": 8,
    "learning_rate": 1e-3,
    "horizontal_flip": 0.5,
    "use_cpu": True,
}
RUNS = [
    {"name": "source", "recipe": "base.json", "seeds": [1]},
    {"name": "broken", "recipe": "base.json", "overrides": {"weights": "no_such_file.pth"}},
    {"name": "behind_broken", "recipe": "base.json", "weights_from": "broken"},
    {"name": "tuned", "recipe": "base.json", "weights_from": "source", "overrides": {"freeze": "encoder"}},
]
MEASURED = ("train_seconds", "images_per_second", "peak_memory_mb")  # what no two runs have in common


def write_study(folder: Path, runs: list[dict[str, Any]] = RUNS) -> Path:
    (folder / "base.json").write_text(json.dumps(BASE))
    path = folder / "study.json"
    path.write_text(json.dumps({"runs": runs}))
    return path


def command(study: Path, out: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "hfseg.cli", "study", str(study), "--output_dir", str(out), *options]


def run(*arguments: Any, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), cwd=ROOT, capture_output=True, text=True, timeout=1800, **options)


def table(out: Path, name: str) -> list[dict[str, str]]:
    rows = list(csv.DictReader((out / "report" / f"{name}.csv").open()))
    return [{key: value for key, value in row.items() if key not in MEASURED} for row in rows]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def whole(study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "out"
    result = run(study, out)
    assert result.returncode == 1, result.stdout + result.stderr  # one run failed
    assert "2 finished, 1 failed, 1 not run of 4" in result.stdout
    return out


@pytest.mark.slow
def test_a_failed_run_stops_only_those_that_need_it(whole: Path) -> None:
    jobs = {job["run"]: job for job in json.loads((whole / "study.json").read_text())["jobs"]}
    assert {name: job["state"] for name, job in jobs.items()} == {
        "source": "finished",
        "broken": "failed",
        "behind_broken": "not run",
        "tuned": "finished",
    }
    assert "no_such_file.pth" in jobs["broken"]["reason"] and "\n" not in jobs["broken"]["reason"]
    assert jobs["behind_broken"]["reason"] == "needs broken seed 0, which did not finish"
    recipe = json.loads((whole / "tuned" / "seed0" / "best" / "recipe.json").read_text())
    assert recipe["weights"] == str(whole / "source" / "seed1" / "best")
    assert "no_such_file.pth" in (whole / "report" / "comparison.csv").read_text()
    assert not list(whole.glob("*/*/checkpoint-*"))


@pytest.mark.slow
def test_a_finished_run_is_not_run_again_and_a_failed_one_is(whole: Path, study: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole.glob("*/*/*.json") if "broken" not in str(path)}
    failures = (whole / "broken" / "seed0" / "console.log").read_text().count("hfseg: error")
    assert len(before) >= 8
    assert run(study, whole).returncode == 1
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert (whole / "broken" / "seed0" / "console.log").read_text().count("hfseg: error") == failures + 1


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "Z" not in Path(f"/proc/{pid}/stat").read_text().split()[2]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the broken run goes on by itself")
def test_a_killed_study_goes_on_to_the_same_table(whole: Path, study: Path, tmp_path: Path) -> None:
    """SIGKILL in the middle of a run, twice: of the study alone, then of the study and of its run at once.

    It is started again right away, and has to wait for the run of the one that was killed alone.
    """
    out = tmp_path / "out"
    killed, runs = 0, list[int]()
    for name in ("source/seed1", "tuned/seed0"):
        process = subprocess.Popen(command(study, out), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 900
        while not list((out / name).glob("checkpoint-*")) and time.monotonic() < deadline:
            time.sleep(0.01)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        assert children, "no run was under way"
        process.send_signal(signal.SIGKILL)
        if name == "tuned/seed0":
            for child in children:
                os.kill(int(child), signal.SIGKILL)
        process.wait()
        killed += not (out / name / "finished.json").exists()
        runs += [int(child) for child in children]
    assert killed == 2
    result = run(study, out)
    assert result.returncode == 1, result.stderr
    assert not any(alive(child) for child in runs), "the training outlived its study"
    for name in ("comparison", "seeds", "claims"):
        text, expected = (json.dumps(table(folder, name)).replace(str(folder), "OUT") for folder in (out, whole))
        assert text == expected
    for name in ("source/seed1", "tuned/seed0"):
        one, two = (json.loads((folder / name / "run.json").read_text())["test"] for folder in (out, whole))
        assert one == two


@pytest.mark.slow
def test_only_the_runs_asked_for_and_those_that_they_need(whole: Path, study: Path) -> None:
    result = run(study, whole, "--only", "tuned")
    assert result.returncode == 0 and "2 finished of 2" in result.stdout, result.stdout + result.stderr
    jobs = {job["run"]: job["state"] for job in json.loads((whole / "study.json").read_text())["jobs"]}
    assert jobs == {"source": "finished", "broken": "failed", "behind_broken": "not run", "tuned": "finished"}
    result = run(study, whole, "--only", "tuned2")
    assert result.returncode == 2 and "There is no run 'tuned2'" in result.stderr and "tuned" in result.stderr


@pytest.mark.slow
def test_another_recipe_in_the_same_folder_is_refused(whole: Path, study: Path) -> None:
    result = run(study, whole, "--tuned.learning_rate", "3e-4")
    assert result.returncode == 2 and "Traceback" not in result.stderr
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("hfseg: error: ")]
    assert "holds a run of another recipe (learning_rate is 0.001 there and 0.0003 here)" in line


class Page(HTMLParser):
    """What a browser would fetch, and what a reader can click."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {key: value or "" for key, value in attrs}
        self.tags.append(tag)
        self.ids += [values["id"]] if "id" in values else []
        self.links += [values["href"]] if tag == "a" else []
        if tag in ("img", "image", "script", "link", "iframe", "use", "source"):
            self.fetched += [values[key] for key in ("src", "href", "xlink:href") if key in values]


@pytest.mark.slow
def test_the_page_stands_alone_and_links_to_what_is_there(whole: Path) -> None:
    report = whole / "report"
    text = (report / "index.html").read_text(encoding="utf-8")
    page = Page()
    page.feed(text)
    assert page.fetched and all(source.startswith(("data:", "#")) for source in page.fetched)
    assert not re.search(r"@import|url\((?!#)", text)
    assert len(page.ids) == len(set(page.ids))
    for link in page.links:
        assert link[1:] in page.ids if link.startswith("#") else (report / link).is_file(), link
    figures = sorted(path.stem for path in report.glob("fig*.svg"))
    assert len(figures) == page.tags.count("svg") >= 5
    assert {stem[:5] for stem in figures} >= {"fig01", "fig03", "fig05", "fig08", "fig09"}
    assert all((report / f"{stem}.png").is_file() for stem in figures)
    assert 'name="viewport"' in text and "prefers-color-scheme: dark" in text
    assert sum(path.stat().st_size for path in report.iterdir()) < 5e6


@pytest.mark.slow
def test_confusion_matrix_of_the_report_is_that_of_the_training(whole: Path) -> None:
    facts = json.loads((whole / "tuned" / "seed0" / "run.json").read_text())
    (path,) = (whole / "report").glob("fig08_tuned_scores_confusion.csv")
    counts = [[int(value) for value in list(row.values())[1:]] for row in csv.DictReader(path.open())]
    assert counts == facts["test"]["confusion_matrix"]

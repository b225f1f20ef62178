"""The rules of the house that a machine can hold: imports go one way, no file shadows a package, promises stay true."""

import ast
import importlib.metadata
import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "hfseg"
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")  # which is lazy

# A module may import those of its own floor and of the floors before it; data and models share one, but not each other.
FLOORS = [
    {"ahead", "errors", "labels", "files", "malloc", "manifest", "sharded", "strict_json", "workers"},
    {
        *("images", "losses", "metrics", "upsampling", "bands", "mean_iou", "roc", "plots", "logs", "hub_errors"),
        *("card_text", "pictures"),
    },
    {"data", "models"},
    {"bundle"},
    {
        *("segmenter", "provenance", "samples", "checkpoints", "clock", "card", "callbacks", "trainer", "trackers"),
        *("run_facts", "hub", "push_queue", "resume", "saving", "stops", "nonfinite", "inputs", "evaluation"),
        *("failures", "global_batch"),
    },
    {"args", "data_args", "hub_args"},
    {
        *("train", "eval", "predict", "launch", "elastic", "topology", "catalog", "push", "publish", "study", "report"),
        *("audit", "check"),
    },
    {"cli"},
]
SELF_CONTAINED = ("models/torchvision_seg.py", "models/timm_seg.py")  # they travel to the Hub with their weights


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def floor(name: str) -> int:
    return next(i for i, names in enumerate(FLOORS) if name in names)


def imported_rooms(path: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names] if node.module == "hfseg" else [node.module]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        rooms |= {name.split(".")[1] for name in names if name and name.startswith("hfseg.")}
    return {name for name in rooms if (PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").is_file()}


def test_imports_go_one_way() -> None:
    checked = 0
    for path in FILES:
        here = room(path)
        for other in imported_rooms(path):
            assert floor(other) <= floor(here), f"{path.name} imports {other} from a later floor"
            assert {here, other} != {"data", "models"}, f"{path.name} ties data and models together"
            checked += 1
    assert checked > 40


def test_only_commands_import_args() -> None:
    commands = FLOORS[-2]
    importers = {room(path) for path in FILES if "args" in imported_rooms(path)}
    assert importers and importers <= commands


def test_model_files_that_travel_are_self_contained() -> None:
    for name in SELF_CONTAINED:
        tree = ast.parse((PACKAGE / name).read_text(encoding="utf-8"))
        guarded = {id(n) for node in ast.walk(tree) if isinstance(node, ast.Try) for n in ast.walk(node)}
        roots = set()
        for node in ast.walk(tree):
            if id(node) in guarded:
                continue
            if isinstance(node, ast.ImportFrom):
                roots.add((node.module or "").split(".")[0])
            elif isinstance(node, ast.Import):
                roots |= {alias.name.split(".")[0] for alias in node.names}
        outside = roots - set(sys.stdlib_module_names)
        assert outside and outside <= {"torch", "torchvision", "timm", "transformers"}, (name, outside)


def test_no_file_shadows_a_package() -> None:
    """`accelerate launch hfseg/train.py` puts hfseg/ itself first on sys.path."""
    installed = set(importlib.metadata.packages_distributions()) - {"hfseg"}
    assert len(installed) > 50
    own = {room(path) for path in FILES}
    assert not own & (installed | set(sys.stdlib_module_names))


def test_files_stay_rooms() -> None:
    for path in FILES:
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 300, path
        assert not re.match(r"(utils|helpers|common|base|misc)", path.stem), path


def test_import_and_help_load_no_torch() -> None:
    code = "import sys, hfseg.cli, hfseg; hfseg.cli.main(['--help']); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_only_models_with_a_timm_encoder_wait_for_timm() -> None:
    importers = {
        path.name
        for path in FILES
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.Import) and "timm" in [alias.name for alias in node.names]
    }
    assert importers == {"timm_builder.py"}


def test_every_file_in_the_readme_exists() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    recipes = re.findall(r"recipes/[\w/]+\.json", text)
    assert links and recipes
    for name in links + recipes:
        assert (ROOT / name).exists(), name


def test_changelog_names_the_version() -> None:
    import hfseg

    assert f"## {hfseg.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_lowest_versions_are_those_that_are_declared() -> None:
    """`make test-lowest` installs the lower ends of the ranges."""
    makefile, project = ((ROOT / name).read_text(encoding="utf-8") for name in ("Makefile", "pyproject.toml"))
    declared = dict(re.findall(r'"(\w+)>=([\d.]+)[,"]', project))
    listed = makefile.split("LOWEST_VERSIONS = ")[1].split("\n\n")[0].replace("\\\n", " ")
    pinned = dict(re.findall(r"(\w+)==([\d.]+?)(?:\.\*)?(?=\s|$)", listed))
    assert len(pinned) >= 6 and all(declared[name] == version for name, version in pinned.items()), pinned


def test_results_hold_what_they_say() -> None:
    """Each metrics.json under results/ is whole: its mean IoU follows from its own confusion matrix."""
    files = sorted((ROOT / "results").rglob("metrics.json"))
    for path in files:
        result = json.loads(path.read_text(encoding="utf-8"))
        matrix = result["confusion_matrix"]
        size = range(len(matrix))
        unions = [sum(matrix[i]) + sum(row[i] for row in matrix) - matrix[i][i] for i in size]
        ious = [matrix[i][i] / unions[i] for i in size if unions[i]]
        assert abs(sum(ious) / len(ious) - result["mean_iou"]) < 1e-9, path
    assert files

"""Writes a report on runs or studies: `hfseg report RUN_OR_STUDY_DIR ... [--output_dir OUT]`."""

import logging
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from hfseg.args import split_options
from hfseg.errors import InputError, near_names
from hfseg.logs import show_errors, start_log
from hfseg.report.records import Run, read_runs

logger = logging.getLogger(__name__)

MARKS = ("index.html", "comparison.json", "claims.json")  # every report has these
OWN_FILES = re.compile(r"index\.html|README\.md|(comparison|seeds|claims)\.(csv|json)|fig\d\d+_.+\.(png|svg|csv|json)")
USAGE = """usage: hfseg report RUN_OR_STUDY_DIR ... [--output_dir OUT]

Writes OUT/index.html, one page that needs no network, with its figures (PNG, SVG) and numbers (CSV, JSON) beside it.

  --output_dir OUT   unset: report/ in the first folder"""


def main(argv: Sequence[str] | None = None) -> int:
    argv = list(sys.argv[1:] if argv is None else argv)
    if "--help" in argv or "-h" in argv:
        print(USAGE)
        return 0
    first = next((i for i, token in enumerate(argv) if token.startswith("--")), len(argv))
    folders, options = [Path(token) for token in argv[:first]], split_options(argv[first:])
    if not folders:
        raise InputError("Which runs? Give folders of runs or studies first: hfseg report runs/smoke_study.")
    for key in options:
        if key != "output_dir":
            raise InputError(f"There is no option {key!r}; there is output_dir.{near_names(key, ['output_dir'])}")
    given = options.get("output_dir", [str(folders[0] / "report")])
    if len(given) != 1:
        raise InputError(f"output_dir is {' '.join(given) or 'empty'}; give one folder.")
    start_log()
    print(f"report  {write_report(folders, Path(given[0]))}")
    return 0


def write_report(folders: Sequence[Path], output_dir: Path) -> Path:
    """Reads the runs, draws the figures, and writes the folder of the report.

    Returns:
        The page.

    Raises:
        InputError: there is nothing to report on.
    """
    output_dir = output_dir.expanduser().resolve()
    check_output_dir(output_dir)
    # ---- runs -> rows and claims ----
    runs, commands = read_runs(folders)
    from hfseg.report.claims import check_claims
    from hfseg.report.comparison import comparison_rows, group_runs, write_paragraph
    from hfseg.report.figures import FigureList
    from hfseg.report.files import write_figure, write_table, write_text
    from hfseg.report.page import build_tables, render_markdown, render_page

    groups, sources = group_runs(runs)
    rows = comparison_rows(runs, groups)
    claims = check_claims(groups)

    # ---- figures ----
    figures = FigureList(groups, sources)

    # ---- files, in a new folder that then replace the old ones ----
    new = output_dir.with_name(f".{output_dir.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    inline = []
    for entry in figures.entries:
        inline.append((entry, write_figure(new, entry.stem, entry.figure)))
        for name, table in entry.tables.items():
            write_table(new, f"{entry.stem}_{name}", table)
    write_table(new, "comparison", rows)
    write_table(new, "seeds", [row for run in runs for row in seed_rows(run)])
    write_table(new, "claims", [claim_row(claim) for claim in claims])
    models, datasets = (list(dict.fromkeys(names)) for names in zip(*((g.model, g.dataset) for g in groups)))
    title = f"Training strategies compared: {', '.join(models)} on {', '.join(datasets)}"
    content = {
        "paragraphs": write_paragraph(groups),
        "tables": build_tables(rows),
        "claims": claims,
        "notes": figures.notes,
        "facts": list_facts(rows, commands),
    }
    write_text(new / "index.html", render_page(title, content, inline))
    write_text(new / "README.md", render_markdown(title, content, figures.entries))
    replace_files(output_dir, new)
    for note in figures.notes:
        logger.warning(note)
    return output_dir / "index.html"


def check_output_dir(output_dir: Path) -> None:
    """The folder must be new, empty, or an older report and nothing else, since its files are replaced.

    Raises:
        InputError: it is a file, or holds something that no report does.
    """
    if output_dir.exists() and not output_dir.is_dir():
        raise InputError(f"output_dir {output_dir} is a file; give a folder.")
    there = sorted(path.name for path in output_dir.iterdir()) if output_dir.is_dir() else []
    foreign = [name for name in there if not OWN_FILES.fullmatch(name) or not (output_dir / name).is_file()]
    if there and (foreign or not {*MARKS} <= {*there}):
        what = foreign[0] if foreign else there[0]
        raise InputError(
            f"output_dir {output_dir} holds something other than a report of hfseg ({what}), which would be deleted. "
            "Give a new or empty folder, or one with a report and nothing else."
        )


def replace_files(output_dir: Path, new: Path) -> None:
    """Moves the files of `new` to output_dir and deletes those of an older report; the folder itself stays.

    It may be the current one, or a link.
    """
    output_dir.mkdir(parents=True, exist_ok=True)
    names = {path.name for path in new.iterdir()}
    for name in names:
        (new / name).replace(output_dir / name)
    for path in output_dir.iterdir():
        if path.name not in names and OWN_FILES.fullmatch(path.name):
            path.unlink()
    new.rmdir()


def seed_rows(run: Run) -> list[dict[str, object]]:
    return [
        {"run": run.name, "seed": seed.seed, "test_mean_iou": seed.score}
        | {f"iou_{name}": row["iou"] for name, row in seed.test["per_class"].items()}
        | {"epochs_to_90": seed.epochs_to_90(), "fluctuation": seed.fluctuation(), "gap": seed.gap()}
        | {k: seed.facts.get(k) for k in ("train_seconds", "images_per_second", "peak_memory_mb", "hardware", "commit")}
        for seed in run.finished
    ]


def claim_row(claim: object) -> dict[str, object]:
    row = dict(vars(claim))
    parts = [f"{part.label}: {part.verdict}. {part.text}" for part in row.pop("parts")]
    return row | {"verdict": claim.verdict, "numbers": parts}  # type: ignore[attr-defined]


def list_facts(rows: Sequence[dict], commands: Sequence[str]) -> list[tuple[str, str]]:
    """Command, commit, hardware: what a reader needs to repeat the figures."""
    facts = [("command", command) for command in commands]
    for key in ("commit", "hardware"):
        values = sorted({value for row in rows for value in row[key]})
        facts += [(key, ", ".join(values))] if values else []
    return facts


if __name__ == "__main__":
    sys.exit(show_errors(main))

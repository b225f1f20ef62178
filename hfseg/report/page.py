"""The page and the Markdown of a report, from its rows, claims and figures."""

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from hfseg.report.claims import Claim
from hfseg.report.figures import Entry
from hfseg.report.template import render

Cell = tuple[str, Any]  # what is shown, and by what it is sorted

RESULTS = ("to 90 %", "change", "gap", "trained", "time", "img/s", "memory")
SETTINGS = ("seeds", "epochs", "lr", "weights", "frozen", "model")
LEGEND = (
    "test mIoU: mean over the seeds ± standard deviation. To 90 %: first validated epoch that reaches 90 % of the "
    "run's best validation mIoU. Change: mean change, up or down, of validation mIoU from one validation to the next, "
    "of the validations from half of the last validated epoch on; the recipe's eval_every_epochs says how far they lie "
    "apart. Gap: training minus validation mIoU at the kept epoch. Trained: parameters that move. Time: from the first "
    "step to the last, with validation. Memory: peak of the process, on a GPU of the tensors."
)


def build_tables(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One table per data set, since the classes differ: {title, columns, rows of cells}."""
    tables = []
    for data in dict.fromkeys(row["data"] for row in rows):
        part = [row for row in rows if row["data"] == data]
        classes = list(dict.fromkeys(name for row in part for name in row["per_class_iou"]))
        columns = ["run", "test mIoU", *classes, *RESULTS, *SETTINGS]
        tested = next((row for row in part if row["split"]), None)
        where = f", tested on {tested['split']} at {tested['resolution']} size" if tested else ""
        cells = [_cells(row, classes) for row in part]
        tables.append({"title": f"{data}{where}", "columns": columns, "rows": cells, "notes": list_notes(part)})
    return tables


def list_notes(rows: Sequence[dict[str, Any]]) -> list[str]:
    """What was not run and why, and what the command line changed; runs of one note share it."""
    notes: dict[str, list[str]] = {}
    for row in rows:
        texts = [f"not run. {row['not_run']}"] if row["not_run"] else []
        texts += [
            f"{key} is {_shown(change['to'])} instead of {_shown(change['from'])}, by the command line"
            for key, change in row["changed"].items()
        ]
        for text in texts:
            notes.setdefault(text.rstrip(".") + ".", []).append(row["run"])
    return [f"{'every run' if len(names) == len(rows) > 1 else ', '.join(names)}: {t}" for t, names in notes.items()]


def _shown(value: Any) -> str:
    """A setting for people; of a path the last part."""
    if value is None:
        return "unset"
    text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else f"{value}"
    return text.rpartition("/")[2] if isinstance(value, str) else text.removesuffix(".0")


def _cells(row: dict[str, Any], classes: Sequence[str]) -> list[Cell]:
    score, spread = row["test_mean_iou"], row["test_mean_iou_spread"]
    shown = "-" if score is None else f"{score:.4f}" + (f" ± {spread:.4f}" if spread is not None else "")
    # An early stop differs from the plan, and is said.
    planned, epochs = row["planned_epochs"], row["epochs"]
    short = epochs is not None and planned is not None and epochs < planned
    seconds, memory = row["train_seconds"], row["peak_memory_mb"]
    return [
        (row["run"], row["run"]),
        (shown, score),
        *(_number(row["per_class_iou"].get(name), ".4f") for name in classes),
        _number(row["epochs_to_90"], ".1f"),
        _number(row["fluctuation"], ".4f"),
        _number(row["gap"], "+.4f"),
        ("-", None) if row["trained_parameters"] is None else _millions(row["trained_parameters"]),
        ("-", None)
        if seconds is None
        else (f"{seconds / 60:.1f} min" if seconds > 90 else f"{seconds:.0f} s", seconds),
        _number(row["images_per_second"], ".1f"),
        ("-", None) if memory is None else (f"{memory / 1024:.2f} GiB", memory),
        (str(len(row["seeds"])), len(row["seeds"])) if row["seeds"] else ("not run", None),
        (f"{epochs:g} of {planned:g}", epochs) if short else _number(epochs if epochs is not None else planned, "g"),
        _number(row["learning_rate"], "g"),
        (row["weights"], row["weights"]),
        (row["frozen"] if row["frozen"] != "none" else "-", row["frozen"]),
        (row["model"], row["model"]),
    ]


def _number(value: float | None, style: str) -> Cell:
    return ("-", None) if value is None else (f"{value:{style}}", value)


def _millions(count: float) -> Cell:
    return f"{count / 1e6:.2f} M", count


def render_page(title: str, content: dict[str, Any], entries: Sequence[tuple[Entry, str]]) -> str:
    """The whole page as HTML: text is escaped, figures are inline.

    Args:
        title: of the page.
        content: tables, claims, paragraphs, notes, facts.
        entries: each figure with its inline SVG.
    """
    # S704: the figures are matplotlib's output, which escapes texts.
    figures = [
        {"entry": e, "svg": Markup(svg), "wide": e.figure.get_size_inches()[0] > 7}  # noqa: S704
        for e, svg in entries
    ]
    return render("report/page.html", title, figures=figures, legend=LEGEND, **content)


def render_markdown(title: str, content: dict[str, Any], figures: Sequence[Entry]) -> str:
    """Paragraphs, tables and claims as Markdown, for a README."""
    lines = [f"# {title}", ""]
    for text in content["paragraphs"]:
        lines += [_plain(text), ""]
    for table in content["tables"]:
        lines += [f"## {_plain(table['title'])}", "", f"| {' | '.join(map(_plain, table['columns']))} |"]
        lines.append("|" + "---|" * len(table["columns"]))
        lines += [f"| {' | '.join(_plain(shown) for shown, _ in row)} |" for row in table["rows"]]
        lines += ["", *(f"- {_plain(note)}" for note in table["notes"])]
        lines.append("")
    lines += [LEGEND, "", "## The study's claims", "", "| | claim | verdict | numbers |", "|---|---|---|---|"]
    for claim in content["claims"]:
        lines.append(
            f"| {claim.letter} | {_plain(claim.statement)} | **{claim.verdict}** | {_plain(_numbers(claim))} |"
        )
    lines += ["", "## Figures", ""]
    for entry in figures:
        lines += [
            f"![Figure {entry.number}]({entry.stem}.png)",
            "",
            f"Figure {entry.number}. {_plain(entry.caption)}",
            "",
        ]
    lines += [_plain(note) + "\n" for note in content["notes"]]
    lines += ["## How", "", *(f"- {name}: {_code(value)}" for name, value in content["facts"])]
    return "\n".join(lines) + "\n"


def _numbers(claim: Claim) -> str:
    return "; ".join(f"{part.label}: {part.verdict} ({part.text})" for part in claim.parts)


def _plain(text: object) -> str:
    line = " ".join(str(text).split())
    for mark in "\\`*_[]<>|":
        line = line.replace(mark, "\\" + mark)
    return line


def _code(text: object) -> str:
    return "`" + " ".join(str(text).split()).replace("`", "'") + "`"

"""A report's figures and tables as files."""

import csv
import io
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from hfseg.checkpoints import write_json
from hfseg.files import save_figure, write_whole
from hfseg.plots.style import INK, PAPER


def write_table(folder: Path, name: str, rows: Sequence[dict[str, Any]]) -> None:
    """Writes <name>.csv and <name>.json; nested values become columns `a.b`, lists one cell."""
    rows = [_without_nan(row) for row in rows]
    write_json(folder / f"{name}.json", rows)
    flat = [_flatten(row) for row in rows]
    columns = list(dict.fromkeys(key for row in flat for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows(flat)
    write_text(folder / f"{name}.csv", text.getvalue())


def write_text(path: Path, text: str) -> None:
    """Writes a file whole or not at all."""
    write_whole(path, text)


def write_figure(folder: Path, stem: str, figure: Figure) -> str:
    """Writes <stem>.png and <stem>.svg.

    Returns:
        The SVG as it stands in a page: ink in the page's colour, no paper.
    """
    save_figure(folder / f"{stem}.png", figure)
    file = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": stem}):  # the same figure gives the same bytes
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = file.getvalue()
    write_text(folder / f"{stem}.svg", svg)
    return to_inline(svg, stem)


def to_inline(svg: str, prefix: str) -> str:
    """An SVG file as an element of a page that holds others: ids of its own, and the page's colours."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' id="image[0-9a-f]+"', "", svg)  # a digest of the picture, which a figure may hold twice
    svg = re.sub(r'\bid="', f'id="{prefix}-', svg)
    svg = re.sub(r'xlink:href="#', f'xlink:href="#{prefix}-', svg).replace("url(#", f"url(#{prefix}-")
    return svg.replace(INK, "currentColor").replace(PAPER, "none")


def _without_nan(value: Any) -> Any:
    """JSON has neither NaN nor infinity: of a training that diverged, they are null."""
    if isinstance(value, dict):
        return {key: _without_nan(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _flatten(row: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in row.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}.")
        elif isinstance(value, list | tuple):
            flat[prefix + key] = " ".join(v if isinstance(v, str) else json.dumps(v) for v in value)
        else:
            flat[prefix + key] = value
    return flat

import csv
import json
import math
import re
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from hfseg.labels import Labels
from hfseg.plots import plot_samples
from hfseg.plots.style import INK, PAPER, style
from hfseg.report.files import write_figure, write_table


def a_figure() -> Figure:
    with style():
        figure = Figure(figsize=(3, 2))
        figure.subplots().plot([0, 1], [0, 1], clip_on=True)
        figure.axes[0].set_title("title")
    return figure


def test_tables_are_csv_and_json(tmp_path: Path) -> None:
    write_table(tmp_path, "t", [{"a": {"x": 1, "y": math.nan}, "b": [1, 2]}, {"c": 'a "word", and'}])
    rows = list(csv.DictReader((tmp_path / "t.csv").open()))
    assert rows == [{"a.x": "1", "a.y": "", "b": "1 2", "c": ""}, {"a.x": "", "a.y": "", "b": "", "c": 'a "word", and'}]
    assert json.loads((tmp_path / "t.json").read_text())[0]["a"] == {"x": 1, "y": None}


def test_inline_figures_take_the_colours_of_the_page_and_share_no_ids(tmp_path: Path) -> None:
    one, two = (write_figure(tmp_path, stem, a_figure()) for stem in ("fig01_a", "fig02_b"))
    ids = [set(re.findall(r'id="([^"]+)"', svg)) for svg in (one, two)]
    assert ids[0] and not ids[0] & ids[1]
    for svg in (one, two):
        used = set(re.findall(r'(?:href="|url\()#([^")]+)', svg))
        assert used and used <= ids[0] | ids[1]
        assert INK not in svg and PAPER not in svg and "currentColor" in svg and svg.startswith("<svg")
    assert INK in (tmp_path / "fig01_a.svg").read_text(), "the file keeps its own"
    before = (tmp_path / "fig01_a.svg").read_bytes()
    write_figure(tmp_path, "fig01_a", a_figure())
    assert (tmp_path / "fig01_a.svg").read_bytes() == before


def test_a_picture_may_be_in_a_figure_twice(tmp_path: Path) -> None:
    picture = np.zeros((4, 4, 3), np.uint8)
    figure = plot_samples([picture, picture], [picture[..., 0]] * 2, Labels(["a", "b"]))
    svg = write_figure(tmp_path, "fig01", figure)
    ids = re.findall(r'\bid="([^"]+)"', svg)
    assert svg.count("<image") == 4 and len(ids) == len(set(ids)) > 4

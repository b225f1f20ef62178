"""The page as a browser shows it; on machines without Chromium these tests are skipped."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from hfseg.report.claims import check_claims
from hfseg.report.comparison import comparison_rows, group_runs, write_paragraph
from hfseg.report.figures import Entry
from hfseg.report.files import write_figure
from hfseg.report.page import build_tables, render_page
from hfseg.report.records import Run
from tests.report.test_comparison import STUDY

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PHONE, DESKTOP = 390, 1280  # pixels
RUNS = [*STUDY[1:], Run("unrun", {"model": "segformer-b0", "dataset": "pets", "weights": "scratch"}, [])]

# What is looked at inside the page, which then tells the page around it.
PROBE = """
<script>
addEventListener("load", () => {
  const shown = name => [...document.querySelectorAll("table.runs tbody tr")].map(row => row.cells[name].textContent);
  const head = [...document.querySelectorAll("table.runs th button")];
  const column = head.findIndex(button => button.textContent === "test mIoU");
  const count = head.findIndex(button => button.textContent === "seeds");
  const orders = {};
  for (const [name, which, clicks] of [["up", column, 1], ["down", column, 1], ["seeds", count, 1]]) {
    for (let i = 0; i < clicks; i++) head[which].click();
    orders[name] = shown(0);
  }
  const pictures = [...document.querySelectorAll("figure svg")].map(svg => svg.getBoundingClientRect().width);
  parent.postMessage(JSON.stringify({
    width: innerWidth, content: document.documentElement.scrollWidth, orders, pictures,
    requests: performance.getEntriesByType("resource").map(entry => entry.name),
  }), "*");
});
</script>
"""
HOST = """<!doctype html><body><iframe width="{width}" height="2000" style="border:0" srcdoc="{page}"></iframe>
<script>addEventListener("message", event => {{ document.body.textContent = "RESULT" + event.data + "END"; }});</script>
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Made as `hfseg.report.write_report` makes it, of drawn results, with a narrow figure and a wide one."""
    folder = tmp_path_factory.mktemp("page")
    groups, _ = group_runs(RUNS)
    content = {
        "paragraphs": write_paragraph(groups),
        "tables": build_tables(comparison_rows(RUNS, groups)),
        "claims": check_claims(groups),
        "notes": ["Figure 9 is not drawn. <b>There is no such file.</b>"],
        "facts": [("command", "hfseg study " + "a_long_word_" * 20)],
    }
    entries = []
    for number, width in ((4, 6), (6, 14)):
        entry = Entry(number, "drawn", "A caption.", Figure(figsize=(width, 3)))
        entry.figure.subplots().plot([0, 1], [0, 1])
        entries.append((entry, write_figure(folder, entry.stem, entry.figure)))
    return render_page("Training strategies compared", content, entries)


def look(page: str, width: int, folder: Path) -> dict[str, Any]:
    """What the page is in a window of this width."""
    host = folder / f"host_{width}.html"
    host.write_text(HOST.format(width=width, page=html.escape(page.replace("</body>", PROBE + "</body>"))))
    assert PROBE not in page and CHROMIUM is not None
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}"]
    command += ["--window-size=1400,2100", "--virtual-time-budget=5000", "--dump-dom", host.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    found = re.search("RESULT(.*)END", done.stdout)
    assert found, done.stdout[-2000:] + done.stderr[-2000:]
    return json.loads(html.unescape(found[1]))


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")
@pytest.mark.parametrize("width", [PHONE, DESKTOP])
def test_the_page_fits_its_window_and_its_tables_sort(width: int, page: str, tmp_path: Path) -> None:
    seen = look(page, width, tmp_path)
    assert seen["width"] == width
    assert seen["content"] <= width, "the page has to be pushed sideways"
    narrow, wide = seen["pictures"]
    # A wide figure keeps a size at which its words can be read, inside a frame that scrolls.
    assert narrow <= width and (wide > 600 if width == PHONE else wide <= width)
    assert seen["requests"] == []
    orders = seen["orders"]
    assert orders["up"] == ["scratch", "frozen", "half", "finetune", "unrun"]
    assert orders["down"] == ["finetune", "half", "frozen", "scratch", "unrun"]
    assert orders["seeds"][-1] == "unrun"

"""The page of a check: what was found, the worst examples drawn, classes and sizes."""

from collections.abc import Sequence
from typing import Any

from hfseg.audit.sample import KINDS, Issue
from hfseg.report.template import render

ROWS = 1000  # of issues on the page; check.json has all
SIZES = 20


def render_page(title: str, result: dict[str, Any], issues: Sequence[Issue], examples: Sequence[dict[str, Any]]) -> str:
    """One page of HTML that needs no other file; every text is escaped.

    Args:
        title: of the page.
        result: as check.json holds it.
        issues: all of them; the first thousand are listed.
        examples: as `hfseg.audit.drawing.draw_examples` gives them.
    """
    num_images = sum(row["images"] for row in result["sizes"]["histogram"])
    return render(
        "audit/page.html",
        title,
        kinds=KINDS,
        issues=issues[:ROWS],
        num_issues=len(issues),
        examples=examples,
        class_rows=_list_classes(result["classes"]),
        sizes=result["sizes"]["histogram"][:SIZES],
        num_sizes=len(result["sizes"]["histogram"]),
        num_images=num_images,
        result=result,
    )


def _list_classes(classes: dict[str, Any]) -> list[list[str]]:
    """One row a class: its share of each split's valid pixels, and its weight."""
    totals = {split: sum(part.values()) - part["ignored"] for split, part in classes["pixels"].items()}
    rows = []
    for i, name in enumerate(classes["names"]):
        shares = [
            f"{part[name] / totals[split]:.2%}" if totals[split] else "-" for split, part in classes["pixels"].items()
        ]
        weights = classes["class_weights"]
        rows.append([name, *shares, "-" if weights is None else f"{weights[i]:g}"])
    return rows

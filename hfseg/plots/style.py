"""Colours and type of every figure.

Ink and paper are colours that nothing else has: a page that shows a figure inline may put its own in their place.
"""

from contextlib import AbstractContextManager
from typing import Any

import matplotlib

INK, PAPER = "#1b1c1d", "#fdfdfe"

# Lines of runs: Okabe-Ito's darker colours, each with its own dashes so that colour is never the only difference. The
# classes of the usual data sets have the others (see hfseg.labels.OKABE_ITO).
LINES: tuple[tuple[str, Any], ...] = (
    ("#0072b2", "-"),
    ("#d55e00", (0, (6, 1.5))),
    ("#cc79a7", (0, (3, 1, 1, 1))),
    ("#009e73", (0, (1.5, 1))),
    ("#8a6d00", (0, (8, 2, 2, 2))),
    ("#5b5fc7", (0, (4, 1, 1, 1, 1, 1))),
    ("#7f7f7f", (0, (2, 2))),
)


def style() -> AbstractContextManager[None]:
    """matplotlib's settings while a figure is made."""
    return matplotlib.rc_context(
        {
            **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
            **dict.fromkeys(("figure.facecolor", "axes.facecolor"), PAPER),
            **dict.fromkeys(("axes.spines.top", "axes.spines.right", "legend.frameon"), False),
            "font.size": 9,
            "axes.titlesize": 10,
            "grid.color": "#8a8a8a",
            "grid.alpha": 0.25,
        }
    )

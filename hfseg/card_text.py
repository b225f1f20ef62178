"""Pieces of Markdown: whatever users wrote comes out as plain text, and tables stay tables."""

import json
import math
import re
import unicodedata
from collections.abc import Sequence
from typing import Any

# Marks that turn the direction of text around, with which a name could show as another.
DIRECTION_MARKS = dict.fromkeys([0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)])
MAX_LENGTH = 200


def one_line(text: object) -> str:
    """Text without line breaks, control characters and marks of direction, 200 characters at most."""
    text = str(text).translate(DIRECTION_MARKS)
    text = "".join(" " if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") else c for c in text)
    text = " ".join(text.split())
    return text if len(text) <= MAX_LENGTH else text[: MAX_LENGTH - 3] + "..."


def plain(text: object) -> str:
    """Text that Markdown shows as it is: no markup, no HTML, no link, no formula."""
    line = re.sub(r"[\\`*_\[\]<>|&~$#{}!]", r"\\\g<0>", one_line(text))
    line = re.sub(r"(?<=:)/|@", r"\\\g<0>", line)  # or addresses would turn into links
    line = re.sub(r"(?i)\bwww\.", lambda m: m[0][:-1] + "\\.", line)
    return re.sub(r"^(\d*)([-+=.)])(?=\s|$)", r"\1\\\2", line)  # no list


def code(text: object) -> str:
    """Text in a code span."""
    line = one_line(text)
    return f"`{line}`" if line and "`" not in line and "|" not in line else plain(line) or "-"


def in_table(value: object) -> str:
    """A value of a recipe, or a name, as a table's cell; JSON where it is no text."""
    return plain(value) or "-" if isinstance(value, str) else code(json.dumps(value, default=str))


def table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def bullet_list(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def score(value: Any) -> str:
    return "-" if value is None or not math.isfinite(value) else f"{value:.4f}"


def percent(pixels: Sequence[int] | None, i: int) -> str:
    """One class's share."""
    total = sum(pixels) if pixels else 0
    return f"{100 * pixels[i] / total:.1f} %" if pixels and total else "-"


def log_rows(log: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The trainer's log_history as one row an evaluation: epoch, step, train_loss, train_mean_iou, loss, mean_iou."""
    rows, training = [], {}
    for entry in log:
        if "loss" in entry:
            training = {"train_loss": entry["loss"], "train_mean_iou": entry.get("train_mean_iou")}
        if "eval_loss" in entry:
            row = {"epoch": entry.get("epoch", 0), "step": entry.get("step", 0)}
            rows.append(row | training | {k: entry.get(f"eval_{k}") for k in ("loss", "mean_iou")})
    return rows

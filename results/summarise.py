"""Prints the tables of results/README.md from the metrics.json and run.json of every run."""

import json
import statistics
from pathlib import Path

ROOT = Path(__file__).parent


def main() -> None:
    for dataset in sorted(path for path in ROOT.iterdir() if path.is_dir()):
        rows = {
            row: sorted(path.parent for path in row.glob("seed*/metrics.json")) for row in sorted(dataset.iterdir())
        }
        if not any(rows.values()):
            continue
        print(f"\n### {dataset.name}\n")
        print(
            "| row | options | mIoU, seeds 0 1 2 | mean | spread | per class, mean | images, size | training | commit |"
        )
        print("|---|---|---|---|---|---|---|---|---|")
        for row, folders in rows.items():
            if folders:
                print(table_row(row.name, folders))


def table_row(name: str, folders: list[Path]) -> str:
    metrics = [json.loads((folder / "metrics.json").read_text()) for folder in folders]
    runs = [json.loads((folder / "run.json").read_text()) for folder in folders]
    scores = [m["mean_iou"] for m in metrics]
    spread = statistics.stdev(scores) if len(scores) > 1 else 0.0  # sample standard deviation
    classes = {c: statistics.mean(m["per_class"][c]["iou"] for m in metrics) for c in metrics[0]["per_class"]}
    cells = [
        name,
        "`" + runs[0]["command"].removeprefix("hfseg train ").partition(" --seed")[0] + "`",
        " ".join(f"{score:.4f}" for score in scores),
        f"**{statistics.mean(scores):.4f}**",
        f"{spread:.4f}",
        ", ".join(f"{c} {value:.3f}" for c, value in classes.items()),
        f"{metrics[0]['num_images']} {metrics[0]['split']}, {metrics[0]['resolution']}",
        f"{statistics.median(run['seconds'] for run in runs):.0f} s",
        " ".join(sorted({run["commit"] for run in runs})),
    ]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()

"""Prints the table of results/README.md from the metrics.json and run.json of every run."""

import json
import statistics
from pathlib import Path

ROOT = Path(__file__).parent


def main() -> None:
    for dataset in sorted(path for path in ROOT.iterdir() if path.is_dir()):
        print(f"\n### {dataset.name}\n")
        print("| row | options | mIoU, seeds 0 1 2 | mean | spread | per class, mean | training | commit |")
        print("|---|---|---|---|---|---|---|---|")
        for row in sorted(path for path in dataset.iterdir() if path.is_dir()):
            folders = sorted(path for path in row.iterdir() if (path / "metrics.json").is_file())
            if folders:
                print(table_row(row.name, folders))


def table_row(name: str, folders: list[Path]) -> str:
    metrics = [json.loads((folder / "metrics.json").read_text()) for folder in folders]
    runs = [json.loads((folder / "run.json").read_text()) for folder in folders]
    scores = [m["mean_iou"] for m in metrics]
    spread = statistics.stdev(scores) if len(scores) > 1 else 0.0
    classes = {c: statistics.mean(m["per_class"][c]["iou"] for m in metrics) for c in metrics[0]["per_class"]}
    per_class = ", ".join(f"{c} {value:.3f}" for c, value in classes.items())
    seconds = statistics.median(run["seconds"] for run in runs)
    commits = " ".join(sorted({run["commit"] for run in runs}))
    shown = " ".join(f"{score:.4f}" for score in scores)
    return (
        f"| {name} | `{runs[0]['options']}` | {shown} | **{statistics.mean(scores):.4f}** | {spread:.4f} | "
        f"{per_class} ({metrics[0]['split']}, {runs[0]['resolution']} size) | {seconds:.0f} s | {commits} |"
    )


if __name__ == "__main__":
    main()

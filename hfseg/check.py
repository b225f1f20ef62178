"""Finds bad data before it costs an epoch: `hfseg check pets --data_dir DIR`, or `hfseg check DIR`."""

import dataclasses
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from hfseg.args import DataArguments, option, parse
from hfseg.card_text import one_line
from hfseg.checkpoints import write_json
from hfseg.data import DATASETS
from hfseg.errors import InputError
from hfseg.logs import show_errors, start_log

# What an official layout has, and no other.
LAYOUTS = {"pets": "annotations/trimaps", "cityscapes": "leftImg8bit"}


@dataclass
class CheckArguments:
    """How a data set is checked."""

    output_dir: str = option("Where check.json and index.html go.", "check")
    num_workers: int | None = option("Processes that read files; unset: one a core.")


def main(argv: Sequence[str] | None = None) -> int:
    # ---- data set -> options ----
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv and not argv[0].startswith("-"):
        argv = [*name_dataset(argv[0]), *argv[1:]]
    elif not {"-h", "--help"} & set(argv):
        raise InputError(f"Which data set? Give {', '.join(DATASETS)}, USER/NAME or a folder first: hfseg check pets.")
    data_args, args, _ = parse(argv, (DataArguments, CheckArguments))
    check_names(args)
    start_log()
    from hfseg.audit.drawing import draw_examples
    from hfseg.audit.duplicates import find_duplicates
    from hfseg.audit.page import render_page
    from hfseg.audit.summary import name_duplicates, summarise
    from hfseg.audit.survey import survey
    from hfseg.audit.workers import examine_survey
    from hfseg.report.files import write_text

    # ---- every file of the layout, read ----
    options = data_args.loader_options()
    found = survey(data_args.dataset, options)
    workers = args.num_workers if args.num_workers is not None else os.cpu_count() or 1
    bar = tqdm(examine_survey(found, workers), total=len(found.samples), unit="pair", dynamic_ncols=True)
    findings = list(bar)

    # ---- the set as a whole ----
    splits = [sample.split for sample in found.samples]
    pairs = find_duplicates([f.grey for f in findings], [f.digest for f in findings], splits)
    issues = [*found.issues, *(issue for finding in findings for issue in finding.issues)]
    issues += name_duplicates(found, pairs)
    given = {key: value for key, value in options.items() if value is not None}
    result: dict[str, Any] = {"dataset": data_args.dataset, "options": given, **summarise(found, findings, issues)}

    # ---- check.json, index.html, a few lines ----
    output_dir = Path(args.output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    write_json(output_dir / "check.json", {"issues": [dataclasses.asdict(issue) for issue in issues], **result})
    title = f"Data set {data_args.dataset}"
    page = render_page(title, result, issues, draw_examples(found, issues, pairs))
    write_text(output_dir / "index.html", page)
    first = {issue.kind: issue.file for issue in reversed(issues)}
    for kind, count in result["counts"].items():
        print(f"{kind:24} {count:7d}  {one_line(first[kind])}{' ...' if count > 1 else ''}")
    print(f"{len(issues) or 'no'} issue{'' if len(issues) == 1 else 's'} in {result['num_files']} files")
    for key, value in (
        ("image_size", result["sizes"]["image_size"]),
        ("class_weights", result["classes"]["class_weights"]),
    ):
        if value is not None:
            print(f"suggested --{key} {' '.join(map(str, value))}")
    print(f"written to {output_dir / 'index.html'} and check.json beside it")
    return 1 if issues else 0


def name_dataset(given: str) -> list[str]:
    """The options for a data set's name, or for a folder, whose layout says which data set it is."""
    if given in DATASETS or not Path(given).is_dir():
        return ["--dataset", given]
    name = next((name for name, part in LAYOUTS.items() if (Path(given) / part).is_dir()), "folder")
    return ["--dataset", name, "--data_dir", given]


def check_names(args: CheckArguments) -> None:
    """What can be told before a file is read."""
    if Path(args.output_dir).is_file():
        raise InputError(f"output_dir {args.output_dir} is a file; give a folder.")
    if args.num_workers is not None and args.num_workers < 0:
        raise InputError(f"num_workers is {args.num_workers}; give a number of processes, or leave it out.")


if __name__ == "__main__":
    sys.exit(show_errors(main))

"""What a training has to do with the Hub: before it, the repo; after it, the last words and the exit line."""

import dataclasses
import json
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hfseg.args import DataArguments, ModelArguments, SegTrainingArguments
from hfseg.bundle import add_files, read_metrics
from hfseg.card import PICTURES, RunRecord, build_card
from hfseg.card_text import log_rows, score
from hfseg.checkpoints import find_checkpoint, unwrap
from hfseg.hub import HubRepo, describe_best
from hfseg.pictures import draw_curves, to_png
from hfseg.push_queue import PushQueue
from hfseg.trainer import SegTrainer


def connect(args: SegTrainingArguments) -> HubRepo | None:
    """The repo on the Hub that this run pushes to or resumes from, checked; the token leaves the arguments."""
    token, args.hub_token = args.hub_token, None  # Trainer saves its arguments with each checkpoint
    if token:
        sys.argv[:] = [word.replace(token, "***") for word in sys.argv]  # trackers save the command line
    if not args.push_best and not args.resume_from_hub:
        return None
    name = args.hub_model_id or Path(str(args.output_dir)).absolute().name
    repo = HubRepo(name, token=token, private=args.hub_private_repo)
    if args.push_best and args.process_index == 0:
        repo.check()
    return repo


def fetch_checkpoint(repo: HubRepo, args: SegTrainingArguments) -> str | None:
    """The checkpoint on the Hub, brought into output_dir by one process of each machine."""
    with args.main_process_first(desc="fetching the checkpoint"):
        if args.local_process_index == 0:
            return repo.fetch_checkpoint(Path(str(args.output_dir)))
        return find_checkpoint(str(args.output_dir), "auto")


def changed_options(recipe: dict[str, Any]) -> dict[str, Any]:
    """The keys of a recipe whose values differ from their defaults; of paths, the last part."""
    types = (DataArguments, ModelArguments, SegTrainingArguments)
    defaults = {f.name: f.default for dtype in types for f in dataclasses.fields(dtype)}
    changed = {key: value for key, value in recipe.items() if value != defaults.get(key)}
    return {k: Path(v).name if isinstance(v, str) and Path(v).is_absolute() else v for k, v in changed.items()}


def finish_bundle(
    folder: Path, trainer: SegTrainer, record: RunRecord, tests: list[dict[str, Any]], queue: PushQueue | None
) -> None:
    """Writes the test metrics, the whole training log and the time into the best bundle, and pushes it once more."""
    log, metrics = trainer.state.log_history, read_metrics(folder)
    # Without a test split, the training has measured the validation split at the first of the two sizes already.
    if queue is not None:
        record.model_id = queue.repo.full_name
    record.tests = [t for t in tests if (t["split"], t["resolution"]) != ("validation", metrics.get("resolution"))]
    pictures = [name for name in PICTURES if (folder / name).is_file()]
    curves = to_png(draw_curves(log_rows(log), metrics.get("step")))
    card = build_card(unwrap(trainer.model), record, metrics, log, pictures)
    texts = {"README.md": card, "test_metrics.json": json.dumps(record.tests, indent=2, allow_nan=False) + "\n"}
    add_files(folder, {"curves.png": curves, **{name: text.encode() for name, text in texts.items()}})
    if queue is not None:
        scores = ", ".join(f"{score(t['mean_iou'])} at {t['resolution']} size" for t in tests)
        queue.push(folder, f"{tests[0]['split'].capitalize()} mIoU {scores}. {describe_best(folder)}")


@contextmanager
def report_broken_push(queue: PushQueue | None, args: SegTrainingArguments) -> Iterator[None]:
    """A run that is stopped or fails says as well whether its best model is on the Hub."""
    try:
        yield
    except BaseException:
        if queue is not None:
            report_push(queue, args)
        raise


def report_push(queue: PushQueue, args: SegTrainingArguments) -> int:
    """Says whether the best model is on the Hub; the exit code."""
    repo = queue.repo
    if queue.failure is None and queue.commit is None:
        return 0  # the run ended before there was a model
    if queue.failure is None:
        print(f"on the Hub   {repo.url} (commit {str(queue.commit)[:8]}, read back)")
        return 0
    print(f"NOT pushed   {queue.failure}")
    if queue.arrived is not None:
        print(f"the Hub has  {queue.arrived}")
    private = ["--hub_private_repo", "true"] if args.hub_private_repo else []  # the repo may have to be made yet
    print(f"push again   {shlex.join(['hfseg', 'push', str(args.output_dir), repo.repo_id, *private])}")
    return int(args.hub_required)

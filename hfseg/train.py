"""Trains a recipe and keeps the best model: `accelerate launch hfseg/train.py RECIPE.json [--key value ...]`."""

import logging
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from datasets import DatasetDict
from transformers import set_seed
from transformers.trainer_callback import PrinterCallback
from transformers.trainer_callback import ProgressCallback as StockProgressCallback

from hfseg.args import DataArguments, SegTrainingArguments, parse
from hfseg.bundle import read_bundle
from hfseg.callbacks import BadSampleCallback, BestBundleCallback, EpochCallback, ProgressCallback
from hfseg.card import RunRecord
from hfseg.checkpoints import check_same_run, find_checkpoint, prepare_output_dir, reload_weights, unwrap, write_json
from hfseg.data import limit, load
from hfseg.data.augment import Augmentation
from hfseg.data.bad_samples import BadSamples
from hfseg.data.cache import is_cached, prepare_cached
from hfseg.data.transforms import SegTransform, build_processor, class_pixels, prepare
from hfseg.errors import InputError
from hfseg.failures import explain_failures
from hfseg.files import save_figure
from hfseg.global_batch import keep_global_batch
from hfseg.labels import Labels
from hfseg.logs import FILE_LOGGER, log_file, show_errors, start_log
from hfseg.losses import LOSSES, compute_class_weights
from hfseg.malloc import keep_freed_memory
from hfseg.models import build, normalization
from hfseg.plots import plot_log
from hfseg.provenance import describe_base, describe_data, describe_hardware
from hfseg.publish import changed_options, connect, fetch_checkpoint, finish_bundle, report_broken_push, report_push
from hfseg.push_queue import CheckpointPushCallback, PushQueue
from hfseg.run_facts import write_run_facts
from hfseg.samples import SampleSheet
from hfseg.segmenter import Segmenter, draw_predictions
from hfseg.stops import stop_between_steps
from hfseg.trackers import PredictionPictures, finish_trackers, prepare_trackers
from hfseg.trainer import SegTrainer
from hfseg.workers import follow_launcher, leave

logger = logging.getLogger("hfseg.train")  # also when this file runs as a script

DEFAULT_SIZE = (512, 512)


def main(argv: Sequence[str] | None = None) -> int:
    # ---- recipe -> arguments ----
    argv = list(sys.argv[1:] if argv is None else argv)
    data_args, model_args, args, recipe = parse(argv)
    args.output_dir = default_output_dir(argv, args)
    repo = connect(args)
    checkpoint = find_checkpoint(args.output_dir, args.resume_from_checkpoint)
    if args.should_save:
        resumable = checkpoint is not None or args.resume_from_checkpoint is not None or args.resume_from_hub
        prepare_output_dir(args.output_dir, overwrite=args.overwrite, resume=resumable)
    start_log(args)
    if repo is not None and args.resume_from_hub:
        checkpoint = fetch_checkpoint(repo, args)
    if checkpoint is not None:
        check_same_run(args.output_dir, recipe)
    keep_global_batch(args, checkpoint)
    prepare_trackers(args)
    if args.device.type == "cpu":
        keep_freed_memory()
    set_seed(args.seed)

    # ---- data ----
    dataset, labels = load_data(data_args, args)
    image_size = data_args.image_size or DEFAULT_SIZE
    processor = build_processor(image_size, *normalization(model_args.model))
    augmentation = Augmentation(
        scale_jitter=data_args.scale_jitter,
        crop_size=data_args.crop_size,
        crop_max_class_share=data_args.crop_max_class_share,
        horizontal_flip=data_args.horizontal_flip,
        photometric_distortion=data_args.photometric_distortion,
    )
    options: dict[str, Any] = dict(augmentation=augmentation, seed=args.seed, reduced_jpeg=data_args.reduced_jpeg)
    train_transform = SegTransform(labels, processor, train=True, **options)
    eval_transform = SegTransform(labels, processor, resolution=args.eval_resolution)
    bad = BadSamples(data_args.on_bad_sample, dataset)
    guards = bad.guard(train_transform, "train"), bad.guard(eval_transform, "validation")
    with args.main_process_first(desc="resizing images"):
        train_set = prepare_cached(dataset["train"], train_transform, data_args.cache, guards[0])
        validation_set = prepare_cached(dataset["validation"], eval_transform, data_args.cache, guards[1])

    # ---- model ----
    model = build(
        model_args.model,
        labels,
        weights=model_args.weights,
        freeze=model_args.freeze,
        image_size=data_args.crop_size or image_size,
        aux_loss=model_args.aux_loss,
        head_dropout=model_args.head_dropout,
    )
    whole_cache: Any = "resized" if is_cached(train_set) else "none"
    whole = prepare_cached(dataset["train"], eval_transform, whole_cache, bad.guard(eval_transform, "train"))
    weights = class_weights(args.class_weights, labels, whole)

    # ---- training ----
    record = RunRecord(
        options=changed_options(recipe),
        data=describe_data(recipe, dataset),
        base=describe_base(model_args.model, model_args.weights),
        image_size=image_size,
        hardware=describe_hardware(args),
        model_id=repo.full_name if repo is not None and args.push_best else None,
        resumed=checkpoint is not None,
    )
    pushes = repo is not None and args.push_best and args.process_index == 0
    queue = PushQueue(repo, args.output_dir) if repo is not None and pushes else None
    publish = queue.push_bundle if queue is not None else None
    best = BestBundleCallback(recipe, record, SampleSheet(bad.usable("validation"), labels), publish)
    trainer = SegTrainer(
        model,
        args,
        loss=LOSSES[args.loss],
        class_weights=weights,
        train_dataset=train_set,
        eval_dataset=validation_set,
        processing_class=processor,
        callbacks=[
            EpochCallback(train_transform.set_epoch),
            BadSampleCallback(bad),
            best,
            ProgressCallback(),
            *([CheckpointPushCallback(queue)] if args.push_best and args.hub_checkpoints else []),
        ],
    )
    best.trainer = trainer
    for stock in (StockProgressCallback, PrinterCallback):
        trainer.remove_callback(stock)
    trainer.add_callback(PredictionPictures(trainer, bad.usable("validation"), labels))
    start = time.perf_counter()
    kind = trainer.accelerator.distributed_type.value
    fed = ("crop_size", data_args.crop_size) if data_args.crop_size else ("image_size", image_size)
    log = log_file(Path(args.output_dir) if args.should_save else None)
    with log, explain_failures(trainer, *fed), report_broken_push(queue, args), queue or nullcontext():
        sizes = ", ".join(f"{len(part)} {name}" for name, part in dataset.items())
        logger.info(
            f"{model_args.model} on {data_args.dataset}: {sizes} images of {image_size[0]} x {image_size[1]} pixels"
        )
        if checkpoint is not None:
            logger.info(f"goes on from {checkpoint}")
        elif (args.resume_from_checkpoint or "").lower() in ("auto", "true"):
            logger.info(f"there is no whole checkpoint in {args.output_dir}: starts afresh")
        with stop_between_steps(trainer):
            trainer.train(resume_from_checkpoint=checkpoint)
        record.seconds = time.perf_counter() - start
        logger.info(f"trained in {record.seconds:.0f} s on {args.world_size} x {args.device.type} ({kind})")

        # ---- best model -> test metrics, pictures, the last words of its card ----
        tests = report_best(trainer, recipe, dataset, labels, eval_transform, bad)
        finish_trackers(args)
        if args.should_save:
            finish_bundle(Path(args.output_dir) / "best", trainer, record, tests, queue)
        leave(trainer.accelerator)
    return 0 if queue is None else report_push(queue, args)


def check(argv: Sequence[str]) -> None:
    """Everything of a run that can be wrong before a process is started: options, output_dir, the data's layout."""
    data_args, _, args, _ = parse([*argv, "--use_cpu", "true"])
    output_dir = default_output_dir(argv, args)
    args.output_dir = output_dir
    connect(args)
    checkpoint = find_checkpoint(output_dir, args.resume_from_checkpoint)
    resume = checkpoint is not None or args.resume_from_checkpoint is not None or args.resume_from_hub
    if not args.overwrite:
        prepare_output_dir(output_dir, overwrite=False, resume=resume)
    load_data(data_args, args)


def default_output_dir(argv: Sequence[str], args: SegTrainingArguments) -> str:
    """runs/<the recipe's name> where no output_dir is given."""
    if args.output_dir not in (None, "trainer_output"):
        return args.output_dir
    recipe = Path(argv[0]).stem if argv and not argv[0].startswith("--") else "train"
    return str(Path("runs") / recipe)


def load_data(data_args: DataArguments, args: SegTrainingArguments) -> tuple[DatasetDict, Labels]:
    """The data set with its limits applied; train and validation are there and not empty."""
    with args.main_process_first(desc="loading the data set"):
        dataset, labels = load(data_args.dataset, **data_args.loader_options())
    limits = {"train": data_args.max_train_samples}
    parts = {
        name: limit(part, limits.get(name, data_args.max_eval_samples), data_args.split_seed or 0)
        for name, part in dataset.items()
    }
    for needed in ("train", "validation"):
        if needed not in parts or len(parts[needed]) == 0:
            raise InputError(
                f"The data set {data_args.dataset} has no {needed} images (it has "
                f"{ {name: len(part) for name, part in parts.items()} }). Add them, or raise validation_fraction."
            )
    return DatasetDict(parts), labels


def class_weights(given: Sequence[str] | None, labels: Labels, train_set: Any) -> torch.Tensor | None:
    """(C,) loss weights: None, the numbers given, or 'balanced' from the training masks."""
    if given is None:
        return None
    if list(given) == ["balanced"]:
        return compute_class_weights(class_pixels(train_set, labels.num_labels))
    try:
        weights = torch.tensor([float(value) for value in given])
    except ValueError:
        raise InputError(f"class_weights is {list(given)}; give one number a class, or 'balanced'.") from None
    if len(weights) != labels.num_labels or (weights < 0).any():
        raise InputError(
            f"class_weights has {len(weights)} values; give {labels.num_labels} of 0 or more, one for each of "
            f"{', '.join(labels.names)}."
        )
    return weights


def report_best(
    trainer: SegTrainer,
    recipe: dict[str, Any],
    dataset: DatasetDict,
    labels: Labels,
    transform: SegTransform,
    bad: BadSamples,
) -> list[dict[str, Any]]:
    """Tests the best model at both sizes, draws its curves and predictions, and says where it lies."""
    args: Any = trainer.args
    output_dir = Path(args.output_dir)
    best = output_dir / "best"
    trainer.accelerator.wait_for_everyone()  # the main process may still be writing it
    if not (best / "config.json").is_file():  # training ended before any validation, or there was to be none
        trainer.evaluate()
        trainer.accelerator.wait_for_everyone()
    if not (best / "config.json").is_file():
        raise InputError(
            "The validation masks hold no valid pixel, so that no model is best; the last one lies in "
            f"{args.output_dir}/checkpoint-*. Give validation images whose masks show classes."
        )
    split = "test" if len(dataset.get("test", ())) else "validation"
    reload_weights(unwrap(trainer.model), best)
    trainer.remove_callback(BestBundleCallback)
    metrics = trainer.evaluate(prepare(dataset[split], bad.guard(transform, split)), metric_key_prefix="test")
    about = {"split": split, "num_images": len(dataset[split])}
    tests = [{**about, "resolution": args.eval_resolution, **trainer.eval_metric.compute()}]
    other: Any = "native" if args.eval_resolution == "input" else "input"
    other_transform = SegTransform(labels, trainer.processing_class, resolution=other)
    trainer.evaluate(prepare(dataset[split], bad.guard(other_transform, split)), metric_key_prefix=f"test_{other}")
    tests.append({**about, "resolution": other, **trainer.eval_metric.compute()})
    if not args.should_save:
        return tests
    bad.report()
    write_json(output_dir / "test_metrics.json", tests[0])
    picture = output_dir / "predictions.png"
    draw_predictions(Segmenter(read_bundle(best)), bad.usable(split), labels, picture)
    save_figure(output_dir / "curves.png", plot_log(trainer.state.log_history))
    summary = f"{split} mIoU {metrics['test_mean_iou']:.4f} of the best model, compared at {args.eval_resolution} size"
    logging.getLogger(FILE_LOGGER).info(summary)
    write_run_facts(output_dir, trainer, recipe, {name: len(part) for name, part in dataset.items()}, tests[0])
    print(f"\n{summary}")
    print(f"curves       {output_dir / 'curves.png'}")
    print(f"predictions  {picture}")
    print(f"best model   {best}")
    print(f"use it       hfseg predict {best} photo.jpg --output_dir out")
    return tests


if __name__ == "__main__":
    follow_launcher()
    sys.exit(show_errors(main))

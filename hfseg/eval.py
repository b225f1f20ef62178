"""Measures a model on any data set and split: `hfseg eval BEST --dataset pets --split test --output_dir OUT`."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from transformers.trainer_callback import PrinterCallback
from transformers.trainer_callback import ProgressCallback as StockProgressCallback

from hfseg.args import DataArguments, SegTrainingArguments, option, parse
from hfseg.bundle import Bundle, read_bundle
from hfseg.callbacks import EvaluationBar
from hfseg.checkpoints import write_json
from hfseg.data import find_split, limit, load
from hfseg.data.bad_samples import BadSamples
from hfseg.data.transforms import SegTransform, build_processor, prepare
from hfseg.errors import InputError
from hfseg.labels import Labels
from hfseg.logs import show_errors, start_log
from hfseg.malloc import keep_freed_memory
from hfseg.segmenter import Segmenter, draw_predictions
from hfseg.trainer import SegTrainer
from hfseg.workers import leave


@dataclass
class EvalArguments:
    """How a model is measured."""

    split: str = option("Split to measure on.", "test")
    resolution: Literal["native", "input"] = option(
        "native: predictions are brought to each mask's own size; input: masks to the model's input size.", "native"
    )
    output_dir: str | None = option("Where metrics.json and predictions.png go; unset: beside the model.")
    batch_size: int = option("Images per forward pass of one process.", 16)
    dataloader_num_workers: int | None = option("Processes that read images; unset: by cores and memory.")
    bf16: bool = option("Run the model in bfloat16.", False)
    use_cpu: bool = option("Leave an accelerator alone.", False)


def main(argv: Sequence[str] | None = None) -> int:
    # ---- model -> options ----
    argv = list(sys.argv[1:] if argv is None else argv)
    if {"-h", "--help"} & set(argv):
        parse(["--help"], (DataArguments, EvalArguments))  # prints them, and ends
    if not argv or argv[0].startswith("--"):
        raise InputError("Which model? Give a folder or a Hub id first: hfseg eval runs/pets/best --dataset pets.")
    source = argv.pop(0)
    start_log()
    bundle = read_bundle(source)
    data_args, eval_args, _ = parse(argv, (DataArguments, EvalArguments), recipe_defaults(bundle, argv))
    args = SegTrainingArguments(
        output_dir=eval_args.output_dir or default_output_dir(source, data_args.dataset, eval_args.split),
        per_device_eval_batch_size=eval_args.batch_size,
        dataloader_num_workers=eval_args.dataloader_num_workers,
        eval_resolution=eval_args.resolution,
        bf16=eval_args.bf16,
        use_cpu=eval_args.use_cpu,
        eval_strategy="no",
        disable_tqdm=True,
    )

    if args.device.type == "cpu":
        keep_freed_memory()

    # ---- data ----
    with args.main_process_first(desc="loading the data set"):
        dataset, labels = load(data_args.dataset, **data_args.loader_options())
    part = limit(find_split(dataset, eval_args.split), data_args.max_eval_samples, data_args.split_seed or 0)
    check_classes(bundle, labels)
    processor: Any = bundle.processor
    if data_args.image_size is not None:
        processor = build_processor(data_args.image_size, processor.image_mean, processor.image_std)

    # ---- evaluation ----
    trainer = SegTrainer(bundle.model, args, processing_class=processor, callbacks=[EvaluationBar()])
    for stock in (StockProgressCallback, PrinterCallback):
        trainer.remove_callback(stock)
    bad = BadSamples(data_args.on_bad_sample, {eval_args.split: part})
    transform = SegTransform(labels, processor, resolution=eval_args.resolution)
    trainer.evaluate(prepare(part, bad.guard(transform, eval_args.split)))
    bad.share(args.device)
    leave(trainer.accelerator)
    if not args.should_save:
        return 0
    bad.report()

    # ---- table, metrics.json, picture ----
    result = trainer.eval_metric.compute()
    about = {
        "num_images": len(part),
        "resolution": eval_args.resolution,
        "model": str(source),
        "dataset": data_args.dataset,
        "split": eval_args.split,
    }
    output_dir = Path(str(args.output_dir))
    write_json(output_dir / "metrics.json", result | about)
    rows = bad.usable(eval_args.split)
    draw_predictions(Segmenter(Bundle(bundle.model, processor)), rows, labels, output_dir / "predictions.png")
    print(table(result, about))
    print(f"\nwritten to {output_dir / 'metrics.json'} and predictions.png beside it")
    return 0


def recipe_defaults(bundle: Bundle, argv: Sequence[str]) -> dict[str, Any]:
    """Data options of the model's own recipe; those of its loader only while the data set stays the same."""
    recipe = bundle.recipe
    names = ["validation_fraction", "split_seed"]
    data = DataArguments()
    given = [argv[i + 1] for i, word in enumerate(argv[:-1]) if word == "--dataset"]
    given += [word.partition("=")[2] for word in argv if word.startswith("--dataset=")]
    if not given or given[-1] == recipe.get("dataset", data.dataset):
        names = ["dataset", "max_eval_samples", *data.loader_options()]
    return {name: recipe[name] for name in names if name in recipe}


def default_output_dir(source: str, dataset: str, split: str) -> str:
    folder = Path(source)
    return str(
        folder.parent / split
        if folder.is_dir()
        else Path("runs") / f"{folder.name}_{dataset.replace('/', '_')}_{split}"
    )


def check_classes(bundle: Bundle, labels: Labels) -> None:
    names = list(bundle.labels.names)
    if names != list(labels.names):
        raise InputError(
            f"The model knows the classes {names}, the data set has {list(labels.names)}. Give the data set's options "
            "that bring them together (classes, label_map, binary, ...)."
        )


def table(result: dict[str, Any], about: dict[str, Any]) -> str:
    """The metrics as lines of text."""

    def number(value: float | None) -> str:
        return "     -" if value is None else f"{value:6.4f}"

    width = max(14, *(len(name) for name in result["per_class"]))
    lines = [f"{about['num_images']} {about['split']} images of {about['dataset']}, {about['resolution']} size", ""]
    lines.append(f"{'class':{width}}     IoU  accuracy       pixels")
    for name, row in result["per_class"].items():
        lines.append(f"{name:{width}}  {number(row['iou'])}    {number(row['accuracy'])} {row['pixels']:12d}")
    lines.append("")
    for key in ("mean_iou", "mean_accuracy", "pixel_accuracy"):
        lines.append(f"{key:{width}}  {number(result[key])}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(show_errors(main))

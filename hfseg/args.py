"""Every option of a run: a recipe (one flat JSON file) sets the defaults, `--key value` overrides them."""

import dataclasses
import json
import math
import os
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import HfArgumentParser, TrainingArguments

from hfseg.data_args import DataArguments, option
from hfseg.errors import InputError, near_names
from hfseg.hub_args import HUB_KEYS, HubArguments
from hfseg.losses import LOSSES
from hfseg.strict_json import parse_json

# Keys that belong to one run on one machine: a saved recipe runs again without them.
RUN_ONLY_KEYS = ("output_dir", "overwrite", "resume_from_checkpoint", "local_rank", *HUB_KEYS)

# Values that transformers takes, and that end in a traceback or in nonsense.
LOWEST = {
    "per_device_train_batch_size": 1,
    "per_device_eval_batch_size": 1,
    "gradient_accumulation_steps": 1,
    "dataloader_num_workers": 0,
    "learning_rate": 0,
    "num_train_epochs": 0,
    "weight_decay": 0,
    "seed": 0,
}


@dataclass
class ModelArguments:
    """What is trained, and where its weights start."""

    model: str = option(
        "segformer-b0 ... -b5, fcn_resnet50, timm/<encoder>, ... (hfseg.models.MODELS), or a checkpoint of "
        "AutoModelForSemanticSegmentation: a folder or a Hub id.",
        "segformer-b0",
    )
    weights: str = option(
        "scratch, pretrained, imagenet (torchvision backbones), or a file, folder or Hub id whose encoder is taken.",
        "pretrained",
    )
    freeze: Literal["none", "encoder"] = option("encoder: neither its weights nor its norm statistics move.", "none")
    aux_loss: bool = option("Add torchvision's auxiliary head and 0.4 times its loss.", False)
    head_dropout: float | None = option("SegFormer, timm: dropout before the classifier; unset: 0.1.")


@dataclass
class SegTrainingArguments(HubArguments, TrainingArguments):
    """transformers.TrainingArguments with the defaults of this task, and a few keys that it lacks."""

    num_train_epochs: float = option("Number of epochs.", 30.0)
    per_device_train_batch_size: int = option("Training batch size of one process.", 16)
    per_device_eval_batch_size: int = option("Evaluation batch size of one process.", 16)
    learning_rate: float = option("Peak learning rate.", 6e-5)
    weight_decay: float = option("Weight decay; none on norms and biases.", 0.01)
    logging_strategy: str = option("When the training loss and mIoU are logged: steps or epoch.", "epoch")
    eval_strategy: str = option("When validation runs: no, steps or epoch (see eval_every_epochs).", "epoch")
    save_strategy: str = option("When a checkpoint to resume from is saved: no, steps or epoch.", "epoch")
    save_total_limit: int | None = option("Number of such checkpoints that are kept; best/ is apart from them.", 1)
    # A loss that is not finite must be seen in the log; the filter would also synchronise the device at each step.
    logging_nan_inf_filter: bool = option("Replace NaN and inf losses in the log by the running mean.", False)
    amsgrad: bool = option("AdamW's AMSGrad variant.", False)
    lr_gamma: float | None = option(
        "Multiply the learning rate by this after each epoch, instead of lr_scheduler_type."
    )
    eval_every_epochs: int = option("Validate every so many epochs, and after the last.", 1)
    eval_resolution: Literal["input", "native"] = option(
        "Size at which validation in training compares: the model's input size, or each mask's own.", "input"
    )
    resident_fraction: float = option(
        "A cached data set stays on the GPU where it takes at most this share of its memory; 0: never.", 0.2
    )
    dataloader_num_workers: int | None = option(  # type: ignore[assignment]
        "Processes that read images; unset: by cores and memory where files are read, 0 for a cached data set."
    )
    channels_last: bool = option(
        "Keep images and convolutions with their channels last: faster for networks of convolutions on most devices.",
        False,
    )
    loss: str = option("Name in hfseg.losses.LOSSES.", "cross_entropy")
    class_weights: list[str] | None = option(
        "Loss weights: one number a class, or 'balanced' (median frequency, computed from the training masks)."
    )
    sync_batchnorm: bool = option("With several CUDA processes, BatchNorm sees all of them.", True)
    report_to: list[str] | None = option("Trackers of the run: tensorboard, trackio, wandb; or all that are installed.")
    on_save_error: Literal["stop", "continue"] = option(
        "When a checkpoint or the best bundle can't be written: end, to go on from the last one, or train on.", "stop"
    )
    max_nonfinite_steps: int = option(
        "End after so many steps in a row whose loss or gradients are NaN or inf; each is skipped.", 5
    )
    overwrite: bool = option("Delete an earlier run in output_dir first.", False)

    def __post_init__(self) -> None:
        # set_transform needs the columns that Trainer would drop, and evaluation sums one matrix a batch.
        self.remove_unused_columns = False
        self.batch_eval_metrics = True
        self.label_names = ["labels"]
        self.report_to = self.report_to or []
        if self.accelerator_config is None and self.dataloader_pin_memory and torch.cuda.is_available():
            # From pinned memory, without the host waiting for it and for all that the device has to do before.
            self.accelerator_config = {"non_blocking": True}
        if self.torch_compile or self.torch_compile_backend or self.torch_compile_mode:
            # One graph for each shape. By itself torch.compile makes a second one that fits any, and is slower.
            os.environ.setdefault("ACCELERATE_DYNAMO_USE_DYNAMIC", "false")
        if self.load_best_model_at_end:
            raise InputError(
                "load_best_model_at_end is not used here: the best model is always kept in output_dir/best."
            )
        if self.enable_jit_checkpoint:
            raise InputError("enable_jit_checkpoint is not used here: SIGTERM and SIGINT always save, and then end.")
        if self.max_nonfinite_steps < 1:
            raise InputError(f"max_nonfinite_steps is {self.max_nonfinite_steps}; give 1 or more.")
        if self.eval_every_epochs < 1:
            raise InputError(f"eval_every_epochs is {self.eval_every_epochs}; give 1 or more.")
        if self.lr_gamma is not None and not 0 < self.lr_gamma <= 1:
            raise InputError(f"lr_gamma is {self.lr_gamma}; give a factor above 0 and up to 1.")
        if self.loss not in LOSSES:
            raise InputError(f"loss is {self.loss!r}; allowed are {', '.join(LOSSES)}.")
        for name, lowest in LOWEST.items():
            if getattr(self, name) is not None and not lowest <= getattr(self, name) < math.inf:
                raise InputError(f"{name} is {getattr(self, name)}; give a number of {lowest} or more.")
        if not 0 <= self.resident_fraction <= 1:
            raise InputError(f"resident_fraction is {self.resident_fraction}; it must lie between 0 and 1.")
        self.chooses_workers = self.dataloader_num_workers is None  # see hfseg.inputs
        prefetch, self.dataloader_num_workers = self.dataloader_prefetch_factor, self.dataloader_num_workers or 0
        if self.chooses_workers:  # stock arguments allow a prefetch factor only beside a number of workers
            self.dataloader_prefetch_factor = None
        if self.bf16 and not torch.accelerator.is_available():
            self.use_cpu = True  # transformers refuses bf16 on a CPU that it was not told of
        super().__post_init__()
        self.dataloader_prefetch_factor = prefetch
        # One process drives one device; several are started by accelerate, never by torch.nn.DataParallel.
        self._n_gpu = min(self.n_gpu, 1)


class RecipeParser(HfArgumentParser):
    """HfArgumentParser whose errors are one line, and that takes no abbreviated names."""

    def __init__(self, *dataclass_types: Any) -> None:
        super().__init__(list(dataclass_types), allow_abbrev=False, add_help=False)

    def error(self, message: str) -> None:  # type: ignore[override]
        message = re.sub(r"^argument --(\w+)(/--[\w-]+)?: ", r"Option \1: ", message)
        raise InputError(message[0].upper() + message[1:].rstrip(".") + ".")

    def key_names(self) -> list[str]:
        return [f.name for dtype in self.dataclass_types for f in dataclasses.fields(dtype) if f.init]


def read_recipe(path: str | Path) -> dict[str, Any]:
    """Reads a recipe file: one flat JSON object. Keys that begin with `_` are notes and left out.

    Raises:
        InputError: no such file, no JSON, or not an object.
    """
    path = Path(path)
    if path.is_dir() and (path / "recipe.json").is_file():
        path = path / "recipe.json"
    if not path.is_file():
        there = sorted(str(p) for p in path.parent.glob("*.json")) if path.parent.is_dir() else []
        raise InputError(f"There is no recipe {path}.{near_names(str(path), there)}")
    try:
        recipe = parse_json(path.read_text(encoding="utf-8"), path)
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not valid JSON: {error}.") from None
    if not isinstance(recipe, dict):
        raise InputError(f"{path} holds a {type(recipe).__name__}; a recipe is one JSON object of keys and values.")
    return {key: value for key, value in recipe.items() if not key.startswith("_")}


def parse(
    argv: Sequence[str],
    dataclass_types: Sequence[type] = (DataArguments, ModelArguments, SegTrainingArguments),
    defaults: dict[str, Any] | None = None,
) -> tuple[Any, ...]:
    """Parses `[RECIPE.json] [--key value ...]`.

    Args:
        argv: the command line after the command's name.
        dataclass_types: the arguments to fill; an option none of them has is an error.
        defaults: key -> value below the recipe's.

    Returns:
        One object per dataclass, and last the merged recipe: every key that was given, as flat JSON values, without
        those that belong to one run (`RUN_ONLY_KEYS`).

    Raises:
        InputError: unknown or mistyped keys, values of the wrong kind, an unreadable recipe.
    """
    parser = RecipeParser(*dataclass_types)
    if "--help" in argv or "-h" in argv:
        print(describe_options(dataclass_types))
        raise SystemExit(0)
    argv, recipe = list(argv), dict(defaults or {})
    if argv and not argv[0].startswith("--"):
        given = read_recipe(argv.pop(0))
        if "hub_token" in given:
            raise InputError("hub_token stands in the recipe: log in with `hf auth login` or set HF_TOKEN instead.")
        recipe.update(given)
    overrides = split_options(argv)
    _check_names([*recipe, *overrides], parser.key_names())
    worded = {action.dest for action in parser._actions if action.choices}  # where none is a word of its own, or wrong
    merged = {
        key: value
        for key, value in {**recipe, **overrides}.items()
        if value is not None and value != ["null"] and (value != ["none"] or key in worded)
    }
    namespace, rest = parser.parse_known_args([token for k, v in merged.items() for token in _tokens(k, v)])
    if rest:
        raise InputError(f"{', '.join(rest[:8])}: more values than an option takes. Give one value where no list is.")
    objects = []
    for dtype in parser.dataclass_types:
        try:
            objects.append(dtype(**{f.name: getattr(namespace, f.name) for f in dataclasses.fields(dtype) if f.init}))
        except InputError:
            raise
        except OSError as error:
            keys = [key for key, value in merged.items() if _tokens(key, value) == [f"--{key}={error.filename}"]]
            raise InputError(f"{', '.join(keys)}: can't read {error.filename!r}: {error.strerror}.") from None
        except (ValueError, TypeError, ImportError) as error:  # TrainingArguments checks its values itself
            raise InputError(str(error).strip().replace("\n", " ")) from None
    saved = {k: getattr(namespace, k) for k in merged if k not in RUN_ONLY_KEYS}
    return (*objects, {key: _json_value(key, value) for key, value in saved.items()})


def describe_options(dataclass_types: Sequence[type]) -> str:
    """Every option with its default and help; those of transformers' TrainingArguments by name alone."""
    stock = {f.name for f in dataclasses.fields(TrainingArguments)}
    lines, names = [], []
    for dtype in dataclass_types:
        for f in dataclasses.fields(dtype):
            if f.name in stock and f.name not in (*dtype.__dict__.get("__annotations__", {}), *HUB_KEYS):
                names.append(f.name)
                continue
            default = "" if f.default is None or f.default is dataclasses.MISSING else f" [{f.default}]"
            lines.append(f"  --{f.name:28} {f.metadata.get('help', '')}{default}")
    if names:
        lines += ["", "and transformers.TrainingArguments' own:"]
        lines += textwrap.wrap(" ".join(sorted(names)), 110, initial_indent="  ", subsequent_indent="  ")
    return "\n".join(lines)


def split_options(argv: Sequence[str]) -> dict[str, list[str]]:
    """['--a', '1', '2', '--b=3'] -> {'a': ['1', '2'], 'b': ['3']}; a flag alone has an empty list."""
    options: dict[str, list[str]] = {}
    current: list[str] | None = None
    for token in argv:
        if token.startswith("--") and len(token) > 2:
            name, equals, value = token[2:].partition("=")
            current = options[name.replace("-", "_")] = [value] if equals else []
        elif current is None:
            raise InputError(f"{token!r} stands before any --key: give one recipe first, then --key value pairs.")
        else:
            current.append(token)
    return options


def _tokens(key: str, value: Any) -> list[str]:
    """One key of a recipe as command-line tokens."""
    if isinstance(value, dict):
        return [f"--{key}={json.dumps(value)}"]
    if isinstance(value, list):
        strings = [v if isinstance(v, str) else json.dumps(v) for v in value]
        return [f"--{key}={strings[0]}"] if len(strings) == 1 else [f"--{key}", *strings]
    return [f"--{key}={value}"]


def _json_value(key: str, value: Any) -> Any:
    """A parsed value as it stands in a recipe."""
    if key in ("label_map", "colors"):
        return json.loads(value)
    return value[0] if key in ("image_size", "crop_size") and len(value) == 1 else value


def _check_names(given: Sequence[str], allowed: list[str]) -> None:
    negated = [f"no_{name}" for name in allowed]
    for name in given:
        if name not in allowed and name not in negated:
            raise InputError(f"There is no option {name!r}.{near_names(name, allowed)}")

"""Where a run's data and weights come from, and on what it ran: what a model card has to say of them."""

import os
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, DatasetDict
from huggingface_hub import HfApi, ModelCard
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from hfseg.card_text import code, one_line, plain
from hfseg.data.streamed_dataset import Shards

DATASET_NAMES = {"pets": "Oxford-IIIT Pet", "cityscapes": "Cityscapes", "synthetic": "hfseg's drawn animals"}


@dataclass
class DataFacts:
    """A data set.

    Attributes:
        id: the recipe's word for it.
        name: for people.
        hub_id: of a data set on the Hub.
        revision: its commit on the Hub, or a digest of what was read.
        sizes: images of each split.
        pixels: of the training batches and of the validation split, the pixels of each class.
    """

    id: str = "folder"
    name: str = "folder"
    hub_id: str | None = None
    revision: str | None = None
    sizes: dict[str, int] = field(default_factory=dict)
    pixels: dict[str, list[int]] = field(default_factory=dict)


@dataclass
class BaseModel:
    """What the weights started from.

    Attributes:
        name: for people.
        hub_id: where it is a repo on the Hub.
        license: as the Hub names licences; None: not known.
    """

    name: str
    hub_id: str | None = None
    license: str | None = None
    license_name: str | None = None
    license_link: str | None = None

    def sentence(self) -> str:
        words = f"{self.license}: {self.license_name}" if self.license_name else self.license
        known = f"whose licence is {plain(words)}" if words else "whose licence is not known here"
        return f"started from {code(self.name)}, {known}; it applies to this model as well."


def describe_data(recipe: Mapping[str, Any], dataset: DatasetDict) -> DataFacts:
    """The data set of a recipe; a path gives no more than its last part away."""
    name = str(recipe.get("dataset", "folder"))
    hub_id = name if "/" in name else None
    shown = DATASET_NAMES.get(name, hub_id or name)
    if name == "folder" and recipe.get("data_dir"):
        shown = Path(str(recipe["data_dir"])).expanduser().resolve().name or name
    sizes = {split: len(part) for split, part in dataset.items()}
    return DataFacts(hub_id or name, one_line(shown), hub_id, find_revision(dataset), sizes)


def find_revision(dataset: DatasetDict) -> str:
    """The commit of a data set on the Hub; else a digest over the names and sizes of its files."""
    for part in dataset.values():
        if isinstance(part, Shards):
            return part.revision or part.fingerprint
        for file in part.cache_files:  # `datasets` keeps what it has from the Hub in a folder of the commit's name
            if found := re.search(r"[\\/]([0-9a-f]{40})[\\/]", file["filename"]):
                return found[1]
    digest = blake2b(digest_size=8)
    for split, part in dataset.items():
        digest.update(f"{split} {len(part)}\n".encode())
        for column in ("image", "mask"):
            if column in part.column_names:
                _digest_files(part, column, digest)
    return f"files-{digest.hexdigest()}"


def _digest_files(part: Dataset, column: str, digest: Any) -> None:
    # Through Arrow: the pictures are not decoded.
    for entry in part.with_format("arrow").select_columns([column])[:][column].to_pylist():
        path, data = (entry or {}).get("path") or "", (entry or {}).get("bytes")
        size = len(data) if data is not None else os.path.getsize(path) if os.path.exists(path) else 0
        digest.update(f"{os.path.basename(path)} {size}\n".encode("utf-8", "replace"))


def describe_base(model: str, weights: str) -> BaseModel | None:
    """What `weights` of a recipe stands for, with its licence; None: trained from scratch."""
    if weights == "scratch":
        return None
    if weights in ("pretrained", "imagenet"):
        if model.startswith("segformer-b"):
            source = f"nvidia/mit-{model.removeprefix('segformer-')}"
        elif model.startswith("timm/"):
            import timm  # takes a second, which users of other models need not wait for

            cfg = timm.get_pretrained_cfg(model.removeprefix("timm/"))
            hub_id = getattr(cfg, "hf_hub_id", None)  # timm/resnet18.a1_in1k
            return BaseModel(hub_id or model, hub_id, getattr(cfg, "license", None))
        elif "/" not in model:
            return BaseModel(f"torchvision's {model} ({weights})", None, "bsd-3-clause")
        else:
            source = model
    else:
        source = weights
    if source.startswith("nvidia/mit-"):
        link = "https://github.com/NVlabs/SegFormer/blob/master/LICENSE"
        return BaseModel(source, source, "other", "NVIDIA Source Code License for SegFormer (non-commercial)", link)
    path = Path(source)
    if path.exists():
        folder = path if path.is_dir() else path.parent
        card, name = _read_metadata(folder / "README.md"), path.name
        # What that model started from is the nearest one on the Hub.
        hub_id = base if isinstance(base := card.get("base_model"), str) and _is_repo_id(base) else None
        return BaseModel(name if name != "best" else f"{path.parent.name}/best", hub_id, **_license_of(card))
    return BaseModel(source, source, **_license_of(_ask_metadata(source)))


def _read_metadata(card: Path) -> dict[str, Any]:
    try:
        return ModelCard.load(card, ignore_metadata_errors=True).data.to_dict()
    except (OSError, ValueError):
        return {}


def _ask_metadata(repo_id: str) -> dict[str, Any]:
    try:
        data = HfApi().model_info(repo_id, timeout=5).card_data
    except (OSError, ValueError):  # huggingface_hub's errors are OSErrors
        return {}
    return data.to_dict() if data else {}


def _is_repo_id(name: str) -> bool:
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def _license_of(card: Mapping[str, Any]) -> dict[str, str | None]:
    """The three entries of a card's metadata; `other` says nothing without its name and link."""
    keys = ("license", "license_name", "license_link")
    return {key: card[key] if isinstance(card.get(key), str) else None for key in keys}


def describe_hardware(args: Any) -> str:
    """Devices, precision and versions, as one line."""
    if args.device.type == "cuda":
        device = torch.cuda.get_device_name(args.device)
    else:
        device = f"{os.cpu_count()} cores of {_cpu_name()}" if args.device.type == "cpu" else args.device.type
    precision = "bfloat16 autocast" if args.bf16 else "float16 autocast" if args.fp16 else "float32"
    import transformers

    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    return f"{args.world_size} process{'es' * (args.world_size > 1)} on {device}, {precision}; {versions}"


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file() and (found := re.search(r"model name\s*: (.+)", cpuinfo.read_text(errors="replace"))):
        return found[1].strip()
    return platform.processor() or platform.machine()

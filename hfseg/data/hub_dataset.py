"""Any data set on the Hub that has images and masks, by its id: `user/name`."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value, load_dataset
from datasets.exceptions import DatasetsError
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import httpx  # whichever of its releases huggingface_hub uses

from hfseg.data.classes import FILES, check_some_masks, read_labels
from hfseg.data.splits import SPLITS, draw_held_out
from hfseg.errors import InputError, near_names
from hfseg.hub_errors import describe_hub_error
from hfseg.labels import Labels

logger = logging.getLogger(__name__)

# Names that columns have in the Hub's segmentation data sets; compared in lower case.
IMAGE_NAMES = ("image", "images", "img", "pixel_values", "photo", "picture", "rgb")
MASK_NAMES = (
    *("mask", "masks", "label", "labels", "annotation", "annotations", "annotated", "segmentation", "semantic"),
    *("segmentation_mask", "semantic_mask", "semantic_segmentation", "segmentation_map", "seg_map", "seg", "label_map"),
    *("labelmap", "gt", "ground_truth", "target"),
)
NO_ACCESS = "Check the id; a private or gated one needs `hf auth login` or HF_TOKEN, and its owner's leave."


def load(
    repo_id: str,
    *,
    image_column: str | None = None,
    mask_column: str | None = None,
    dataset_config: str | None = None,
    dataset_revision: str | None = None,
    classes: Sequence[str] | None = None,
    colors: Mapping[str, Any] | None = None,
    ignore_values: Sequence[int] | None = None,
    label_map: Mapping[str | int, int | str] | None = None,
    reduce_zero_label: bool = False,
    validation_fraction: float = 0.1,
    split_seed: int = 0,
    on_bad_sample: str = "stop",
) -> tuple[DatasetDict, Labels]:
    """Downloads a data set through `datasets.load_dataset`, which keeps it in its cache, and reads a few masks.

    Class names are those of `classes`; of classes.txt, id2label.json or colors.json in the repo, as in a folder; or of
    the ClassLabel among the features.

    Args:
        repo_id: user/name.
        image_column, mask_column: columns that hold them; unset: found by name among the columns of images.
        dataset_config: configuration, where the data set has several.
        dataset_revision: branch, tag or commit; unset: main.
        classes, colors, ignore_values, label_map, reduce_zero_label: see `hfseg.data.classes.read_labels`.
        validation_fraction: share of train that is held out where there is no validation split, 0 to 1.
        split_seed: another seed holds out other images.
        on_bad_sample: see `hfseg.data.classes.check_some_masks`.

    Returns:
        The splits there are of train, validation and test (val, dev, ... are known) with `image` and `mask`, and the
        labels. A single split of any name is train; a split whose masks were all withheld is left out.

    Raises:
        InputError: no such data set, configuration, revision or column, no access, columns or classes that can't be
            told, a mask that can't be used.
    """
    if not 0 <= validation_fraction <= 1:
        raise InputError(f"validation_fraction is {validation_fraction}; it must lie between 0 and 1.")
    parts, columns, labels = open_repo(
        repo_id,
        image_column,
        mask_column,
        dataset_config,
        dataset_revision,
        classes=classes,
        colors=colors,
        ignore_values=ignore_values,
        label_map=label_map,
        reduce_zero_label=reduce_zero_label,
    )
    dataset = DatasetDict()
    for name, part in name_splits(parts, repo_id).items():
        if (taken := take_columns(part, columns, f"{repo_id}, split {name}")) is not None:
            check_some_masks(taken.cast_column("mask", Image(decode=False))["mask"], labels, on_bad_sample)
            dataset[name] = taken
    if "train" in dataset and "validation" not in dataset:
        train = dataset["train"]
        if held_out := draw_held_out(len(train), validation_fraction, split_seed):
            logger.info(f"{repo_id}: no validation split; {len(held_out)} of {len(train)} images are held out for it")
            dataset["train"] = train.select(sorted(set(range(len(train))) - set(held_out)))
            dataset["validation"] = train.select(held_out)
    return dataset, labels


def open_repo(
    repo_id: str,
    image_column: str | None = None,
    mask_column: str | None = None,
    config: str | None = None,
    revision: str | None = None,
    **tables: Any,
) -> tuple[DatasetDict, tuple[str, str], Labels]:
    """All splits as they are, the columns of images and masks, and the labels; no row is read. See `load`."""
    if Path(repo_id).is_dir():
        raise InputError(f"{repo_id} is a folder here: give dataset folder and data_dir {repo_id}, or rename it.")
    commit = find_commit(repo_id, revision)
    parts = _download(repo_id, config, commit or revision)
    features = next(iter(name_splits(parts, repo_id).values())).features
    columns = find_columns(features, image_column, mask_column, repo_id)
    files = download_class_files(repo_id, revision)
    told = files is not None and any((files / name).is_file() for name in FILES)
    if tables["classes"] is None and tables["colors"] is None and not told:
        tables["classes"] = find_class_names(features, repo_id)
    return parts, columns, read_labels(files, **tables)


# ---- what a data set says of itself ----
def name_splits(dataset: DatasetDict, repo_id: str) -> dict[str, Dataset]:
    """Train, validation and test: those there are; empty ones are left out."""
    there = {str(name): part for name, part in dataset.items() if len(part)}
    lower = {name.lower(): name for name in there}
    names = {split: lower[a] for split, aliases in SPLITS.items() for a in reversed(aliases) if a in lower}
    if not names and len(there) == 1:
        names = {"train": next(iter(there))}
    if not names:
        usual = ", ".join(alias for aliases in SPLITS.values() for alias in aliases)
        raise InputError(f"{repo_id} has the splits {list(there)}, and none of {usual}. Use a data set that has them.")
    if unused := sorted(set(there) - set(names.values())):
        logger.info(f"{repo_id}: the splits {', '.join(unused)} are not used")
    return {split: there[name] for split, name in names.items()}


def find_columns(
    features: Features, image_column: str | None, mask_column: str | None, repo_id: str = "the data set"
) -> tuple[str, str]:
    """The columns of the images and of the masks, as given or by their names.

    Raises:
        InputError: a column given is not there or holds no pictures; or no column, or several, could be meant.
    """
    pictures = [name for name, feature in features.items() if _is_picture(feature)]
    found = []
    for option, given, names in (
        ("image_column", image_column, IMAGE_NAMES),
        ("mask_column", mask_column, MASK_NAMES),
    ):
        if given is not None and given not in pictures:
            what = "holds no pictures" if given in features else "is not there"
            raise InputError(
                f"{option}: the column {given!r} of {repo_id} {what}; columns of pictures are {pictures}."
                f"{near_names(given, pictures)}"
            )
        candidates = [given] if given else [name for name in pictures if name.lower() in names]
        if len(candidates) != 1:
            which = f"{candidates} could be meant" if candidates else "none has a usual name"
            raise InputError(
                f"{option}: which column of {repo_id} is it? Columns of pictures are {pictures}, and {which}. "
                f"Give {option}."
            )
        found += candidates
    if found[0] == found[1]:
        raise InputError(f"image_column and mask_column are both {found[0]!r}; give two of {pictures}.")
    return found[0], found[1]


def find_class_names(features: Features, repo_id: str) -> list[str]:
    """The names of the one ClassLabel among the features; lists of classes go before one class an image."""
    labels = list(_list_class_labels(features))
    for many in (True, False):
        names = {tuple(feature.names): column for column, feature, is_list in labels if is_list is many}
        if len(names) == 1:
            (classes, column), *_ = names.items()
            said = f"{repo_id}: class names are those of the column {column}"
            if many:
                logger.info(said)
            else:
                logger.warning(f"{said}, which has one class an image. If masks mean other classes, give classes.")
            return list(classes)
        if names:
            break
    several = f"; its columns {', '.join(c for c, *_ in labels)} name different classes" if labels else ""
    raise InputError(
        f"{repo_id} does not say what its masks mean: it has neither classes.txt nor id2label.json, and no ClassLabel "
        f"among its features that tells{several}. Give classes, the names in the order of their ids."
    )


def _list_class_labels(feature: Any, column: str = "", is_list: bool = False) -> Iterator[tuple[str, ClassLabel, bool]]:
    """(column, ClassLabel, whether it stands in a list), also of those inside others."""
    if isinstance(feature, ClassLabel):
        yield column, feature, is_list
    elif isinstance(feature, dict):
        for name, part in feature.items():
            yield from _list_class_labels(part, f"{column}.{name}" if column else name, is_list)
    elif isinstance(feature, list):
        yield from _list_class_labels(feature[0], column, True)
    elif hasattr(feature, "feature"):  # List, LargeList
        yield from _list_class_labels(feature.feature, column, True)


def _is_picture(feature: Any) -> bool:
    """An Image, or what it is stored as where a file does not say so."""
    if isinstance(feature, dict):
        return set(feature) == {"bytes", "path"}
    return isinstance(feature, Image) or (isinstance(feature, Value) and feature.dtype == "binary")


def take_columns(part: Dataset, columns: tuple[str, str], source: str) -> Dataset | None:
    """`image` and `mask` alone; None where no row has a mask."""
    for column, name in zip(columns, ("image", "mask")):
        missing = part.data.column(column).null_count
        if missing == len(part) and name == "mask":
            logger.info(f"{source}: the masks are withheld, so it is left out")
            return None
        if missing:
            raise InputError(
                f"{source}: {missing} of {len(part)} rows have no {name} in the column {column!r}. Remove those rows."
            )
    part = part.select_columns(list(columns)).rename_columns(dict(zip(columns, ("image", "mask"))))
    return part.cast_column("image", Image()).cast_column("mask", Image())


# ---- the Hub ----
def find_commit(repo_id: str, revision: str | None) -> str | None:
    """The commit that a revision names now: `datasets` takes any copy from its cache for a revision that is wrong."""
    try:
        return HfApi().dataset_info(repo_id, revision=revision, timeout=100).sha
    except RevisionNotFoundError:
        raise InputError(f"dataset_revision {revision!r} is no branch, tag or commit of {repo_id}.") from None
    except GatedRepoError:
        raise InputError(f"The data set {repo_id} is gated. {NO_ACCESS}") from None
    except RepositoryNotFoundError:
        raise InputError(f"There is no data set {repo_id} on the Hub that you can read. {NO_ACCESS}") from None
    except HFValidationError as error:
        raise InputError(f"{repo_id!r} is no id on the Hub: {one_line(error)}") from None
    except (OfflineModeIsEnabled, httpx.TransportError) as error:
        logger.warning(f"{repo_id}: the Hub can't be reached ({one_line(error)}); the newest copy in the cache is used")
        return None
    except HfHubHTTPError as error:
        raise InputError(f"The Hub refuses {repo_id}: {one_line(error)} {NO_ACCESS}") from None


def _download(repo_id: str, config: str | None, revision: str | None) -> DatasetDict:
    try:
        return load_dataset(repo_id, config, revision=revision)
    except (DatasetsError, OSError, ValueError, RuntimeError, NotImplementedError, httpx.HTTPError) as error:
        if (told := describe_hub_error(error, repo_id)) is not None:
            raise InputError(f"The data set {repo_id} can't be loaded: {told}") from error
        reason = one_line(error.__cause__ or error)
        advice = " Give one as dataset_config." if "config" in reason.lower() else f" {NO_ACCESS}"
        raise InputError(f"The data set {repo_id} can't be loaded: {reason}{advice}") from error


def download_class_files(repo_id: str, revision: str | None) -> Path | None:
    """A folder with those of `FILES` that the repo has; None where they can't be asked for."""
    try:  # by the revision's own name, which the cache then knows without a network
        return Path(snapshot_download(repo_id, repo_type="dataset", revision=revision, allow_patterns=list(FILES)))
    except (OSError, httpx.HTTPError) as error:
        logger.warning(f"{repo_id}: {', '.join(FILES)} can't be looked for ({one_line(error)})")
        return None


def one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if text.endswith((".", "]")) else f"{text}."

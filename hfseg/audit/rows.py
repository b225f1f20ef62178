"""Data sets that lie in tables: rows of the Hub's, and drawn ones."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, overload

from datasets import Dataset
from datasets import Image as ImageFeature

from hfseg.audit.sample import Issue, Sample
from hfseg.audit.survey import Survey
from hfseg.data import DATASETS, hub_dataset
from hfseg.data.splits import draw_held_out


class Rows(Sequence[Sample]):
    """The rows of all splits as samples, each read from the table when it is asked for.

    Args:
        parts: (split or None, name for messages, rows with `image` and `mask`).
        held_out: names of train's rows that are validation.
    """

    def __init__(self, parts: Sequence[tuple[str | None, str, Dataset]], held_out: set[str]) -> None:
        self.parts, self.held_out = parts, held_out

    def __len__(self) -> int:
        return sum(len(rows) for _, _, rows in self.parts)

    @overload
    def __getitem__(self, i: int) -> Sample: ...
    @overload
    def __getitem__(self, i: slice) -> list[Sample]: ...
    def __getitem__(self, i: int | slice) -> Sample | list[Sample]:
        if isinstance(i, slice):
            return [self[k] for k in range(*i.indices(len(self)))]
        for split, name, rows in self.parts:
            if i < len(rows):
                return self._to_sample(split, name, rows[i], i)
            i -= len(rows)
        raise IndexError(i)

    def __iter__(self) -> Iterator[Sample]:
        for split, name, rows in self.parts:
            for i, row in enumerate(rows):
                yield self._to_sample(split, name, row, i)

    def _to_sample(self, split: str | None, name: str, row: dict[str, Any], i: int) -> Sample:
        image_name, mask_name = (
            f"{name}, row {i}, {kind}" + (f" {row[kind]['path']}" if row[kind] and row[kind].get("path") else "")
            for kind in ("image", "mask")
        )
        if f"{name}, row {i}" in self.held_out:
            split = "validation"
        return Sample(image_name, row["image"], row["mask"], split, mask_name)


def survey_rows(dataset: str, given: Mapping[str, Any]) -> Survey:
    """A data set that is no layout of files, with the options of its loader.

    Raises:
        InputError: as its loader, but not for a row.
    """
    if dataset in DATASETS:
        loaded, labels = DATASETS[dataset](**given)
        return Survey(labels, Rows([(name, name, _undecoded(part)) for name, part in loaded.items()], set()))
    options = {"validation_fraction": 0.1, "split_seed": 0, **given}
    tables = {key: options.get(key) for key in ("classes", "colors", "ignore_values", "label_map")}
    parts, columns, labels = hub_dataset.open_repo(
        dataset,
        options.get("image_column"),
        options.get("mask_column"),
        options.get("dataset_config"),
        options.get("dataset_revision"),
        reduce_zero_label=options.get("reduce_zero_label", False),
        **tables,
    )
    found = Survey(labels, [])
    named = {id(part): split for split, part in hub_dataset.name_splits(parts, dataset).items()}
    rows = []
    held_out: set[str] = set()
    for name, part in parts.items():
        split = named.get(id(part))
        if missing := [column for column in columns if column not in part.column_names]:
            found.issues.append(Issue(str(name), "in_no_split", f"has no column {', '.join(missing)}"))
            continue
        if split is None and len(part):
            found.issues.append(Issue(str(name), "in_no_split", f"{len(part)} rows of a split that is not used"))
        part = part.select_columns(list(columns)).rename_columns(dict(zip(columns, ("image", "mask"))))
        part = _undecoded(part)
        for kind, issue in (("image", "no_image"), ("mask", "no_mask")):
            empty = [i for i, value in enumerate(part.data.column(kind).is_null().to_pylist()) if value]
            if kind == "mask" and len(empty) == len(part):
                found.notes.append(f"The masks of the split {name} are withheld.")
                continue
            found.issues += [Issue(f"{name}, row {i}", issue, "null in the table") for i in empty]
        if split == "train" and "validation" not in named.values():
            drawn = draw_held_out(len(part), options["validation_fraction"], options["split_seed"])
            held_out = {f"{name}, row {i}" for i in drawn}
        rows.append((split, str(name), part))
    found.samples = Rows(rows, held_out)
    return found


def _undecoded(part: Dataset) -> Dataset:
    part = part.select_columns(["image", "mask"])
    for column in ("image", "mask"):
        part = part.cast_column(column, ImageFeature(decode=False))
    return part

"""Every file of a data set's layout, with its partner and split: also what a loader would refuse or pass over."""

import inspect
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from PIL import Image

from hfseg.audit.sample import Issue, Sample
from hfseg.data import cityscapes, find_loader, folder, pets
from hfseg.data.classes import read_labels
from hfseg.data.splits import SPLITS, draw_held_out
from hfseg.errors import InputError
from hfseg.images import IMAGE_SUFFIXES
from hfseg.labels import Labels

# Pictures, or what stands for masks elsewhere, that no loader reads.
FOREIGN_SUFFIXES = {".heic", ".heif", ".avif", ".jp2", ".dng", ".npy", ".npz", ".svg"}


@dataclass
class Survey:
    """What lies there.

    Args:
        labels: read the masks.
        samples: every file, in pairs where there are pairs.
        issues: of the layout.
        notes: harmless oddities, one line each.
    """

    labels: Labels
    samples: Sequence[Sample]
    issues: list[Issue] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def survey(dataset: str, options: Mapping[str, Any]) -> Survey:
    """Lists a data set by its name, with the options of its loader; those that are None are unset.

    Raises:
        InputError: what is no data set at all: an unknown name, no such folder, no classes.
    """
    loader, given = find_loader(dataset, {**options, "on_bad_sample": None})
    if dataset not in SURVEYS:
        from hfseg.audit.rows import survey_rows

        return survey_rows(dataset, given)
    defaults = {name: p.default for name, p in inspect.signature(loader).parameters.items()}
    defaults.pop("on_bad_sample", None)
    return SURVEYS[dataset](**{**defaults, **given})


# ---- a folder of the user's own ----
def survey_folder(
    data_dir: Any, *, image_glob: Any, mask_glob: Any, validation_fraction: float, split_seed: int, **classes: Any
) -> Survey:
    root, image_glob, mask_glob = folder.find_root(data_dir, image_glob, mask_glob)
    found = Survey(read_labels(root, **classes), [])
    by_stem = "{stem}" in mask_glob
    splits = SPLITS if "{split}" in image_glob else {"train": ("",)}
    shared = _match(root, mask_glob, ("",), by_stem, found) if "{split}" not in mask_glob else None
    pairs: dict[str, list[tuple[str, str]]] = {}
    lonely: list[Sample] = []
    used: set[str] = set()
    for split, aliases in splits.items():
        images = _match(root, image_glob, aliases, by_stem, found)
        masks = shared if shared is not None else _match(root, mask_glob, aliases, by_stem, found)
        pairs[split] = [(images[key], masks[key]) for key in images if key in masks]
        used |= {mask for _, mask in pairs[split]}
        for name in (images[key] for key in images if key not in masks):
            found.issues.append(Issue(name, "no_mask", f"looked for in {mask_glob}"))
            lonely.append(Sample(name, image=str(root / name), split=split))
        if shared is None:
            lonely += _lone_masks(sorted(set(masks.values()) - used), root, image_glob, split, found.issues)
    if shared is not None:
        lonely += _lone_masks(sorted(set(shared.values()) - used), root, image_glob, None, found.issues)
    if not any(pairs.values()) and not lonely:
        folder.list_pairs(root, image_glob, mask_glob)  # which says what is needed
    held_out: set[int] = set()
    if not pairs.get("validation"):
        held_out = set(draw_held_out(len(pairs["train"]), validation_fraction, split_seed))
    samples = []
    for split, part in pairs.items():
        for i, (image, mask) in enumerate(part):
            name = "validation" if split == "train" and i in held_out else split
            samples.append(Sample(image, str(root / image), str(root / mask), name, mask))
    samples += [*lonely, *found.samples]
    known = {path for sample in samples for path in (sample.image, sample.mask) if path}
    image_top, mask_top = (root / _fixed_part(template) for template in (image_glob, mask_glob))
    found.samples = samples + _list_rest(root, image_top, mask_top, known, found)
    return found


def _match(root: Path, template: str, aliases: Sequence[str], by_stem: bool, found: Survey) -> dict[str, str]:
    """What pairs -> path below the root; a second file of one name is a sample by itself, and read as an image."""
    files: dict[str, str] = {}
    table = folder.match_files(root, template, aliases, by_stem).sort_by([("key", "ascending"), ("path", "ascending")])
    for key, name in zip(table["key"].to_pylist(), table["path"].to_pylist()):
        if key in files:
            found.issues.append(Issue(name, "same_name", f"as {files[key]}"))
            found.samples = [*found.samples, Sample(name, image=str(root / name))]
        else:
            files[key] = name
    return files


def _lone_masks(
    names: Sequence[str], root: Path, image_glob: str, split: str | None, issues: list[Issue]
) -> list[Sample]:
    issues += [Issue(name, "no_image", f"looked for in {image_glob}") for name in names]
    return [Sample(name, mask=str(root / name), split=split, mask_name=name) for name in names]


def _fixed_part(template: str) -> str:
    """The folders of a template before its first variable: images/{split}/* -> images."""
    parts = template.split("/")[:-1]
    return "/".join(parts[: next((i for i, part in enumerate(parts) if "*" in part or "{" in part), len(parts))])


def _list_rest(root: Path, image_top: Path, mask_top: Path, known: set[str], found: Survey) -> list[Sample]:
    """Pictures below the tops that no template takes: paired by path where a mask's top is another."""
    two_tops = image_top != mask_top
    images = {_stem_below(path, image_top): path for path in _walk(image_top, known, root, found)}
    masks = {_stem_below(path, mask_top): path for path in (_walk(mask_top, known, root, found) if two_tops else ())}
    samples = []
    for stem in sorted(images.keys() | masks.keys()):
        image, mask = (str(part[stem]) if stem in part else None for part in (images, masks))
        names = [_relative(path, root) if path else "" for path in (image, mask)]
        found.issues += [Issue(name, "in_no_split", "no template takes it") for name in names if name]
        samples.append(Sample(names[0] or names[1], image, mask, mask_name=names[1]))
    return samples


def _stem_below(path: Path, top: Path) -> str:
    return str(path.relative_to(top).with_suffix(""))


def _walk(top: Path, known: set[str], root: Path, found: Survey) -> Iterator[Path]:
    """Pictures that are not known; others are noted, hidden ones passed over."""
    others: list[str] = []
    pictures = set(Image.registered_extensions()) | FOREIGN_SUFFIXES
    seen: set[str] = set()
    for here, folders, names in os.walk(top, followlinks=True):
        real = os.path.realpath(here)
        if real in seen:  # a link to a folder above
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path, suffix = Path(here, name), Path(name).suffix.lower()
            if name.startswith(".") or str(path) in known:
                continue
            if suffix in IMAGE_SUFFIXES:
                yield path
            elif suffix in pictures:
                found.issues.append(Issue(_relative(path, root), "not_read", f"pictures end with {_suffixes()}"))
            elif Path(here) != root:
                others.append(_relative(path, root))
    if others:
        found.notes.append(f"Not looked at, since they are no pictures: {len(others)} files ({_some(others)}).")


# ---- Oxford-IIIT Pet ----
def survey_pets(data_dir: Any, *, validation_fraction: float, split_seed: int, boundary: str, binary: bool) -> Survey:
    images, annotations = pets.download() if data_dir is None else pets.find_folders(data_dir)
    root, trimaps = annotations.parent if data_dir is not None else None, annotations / "trimaps"
    found = Survey(pets.build_labels(boundary, binary), [])

    def named(path: Path) -> str:
        return _relative(str(path), root) if root is not None else f"{path.parent.name}/{path.name}"

    image_names, mask_names = pets.list_stems(images, ".jpg"), pets.list_stems(trimaps, ".png")
    splits: dict[str, str] = {}
    for name in ("trainval", "test"):
        entries = pets.read_list(annotations / f"{name}.txt")
        paired = [entry for entry in entries if entry.name in image_names & mask_names]
        held_out = pets.hold_out(paired, validation_fraction, split_seed) if name == "trainval" else set()
        for entry in entries:
            splits[entry.name] = name if name == "test" else "validation" if entry in held_out else "train"
        if absent := [entry.name for entry in entries if entry.name not in image_names | mask_names]:
            text = f"{len(absent)} of {len(entries)} names have no files: {_some(absent)}"
            found.issues.append(Issue(named(annotations / f"{name}.txt"), "not_on_disk", text))
    samples = []
    for stem in sorted(image_names | mask_names):
        image, mask = images / f"{stem}.jpg", trimaps / f"{stem}.png"
        if stem not in mask_names:
            found.issues.append(Issue(named(image), "no_mask", f"looked for at {named(mask)}"))
        if stem not in image_names:
            found.issues.append(Issue(named(mask), "no_image", f"looked for at {named(image)}"))
        has_image, has_mask = stem in image_names, stem in mask_names
        sample = Sample(named(image if has_image else mask), split=splits.get(stem))
        sample = replace(sample, image=str(image)) if has_image else sample
        samples.append(replace(sample, mask=str(mask), mask_name=named(mask)) if has_mask else sample)
        if stem not in splits:
            found.issues.append(Issue(sample.name, "in_no_split", "in neither trainval.txt nor test.txt"))
    others = sorted(p.name for p in images.iterdir() if p.suffix != ".jpg" and not p.name.startswith("."))
    if others:
        found.notes.append(
            f"Not looked at, since they are no .jpg: {len(others)} files in {images.name}/ ({_some(others)})."
        )
    found.samples = samples
    return found


# ---- Cityscapes ----
def survey_cityscapes(data_dir: Any, *, label_files: str) -> Survey:
    root = cityscapes.find_root(data_dir, label_files)
    found = Survey(cityscapes.build_labels(label_files), [])
    image_end, mask_end = cityscapes.IMAGE_END, cityscapes.MASK_END.format(label_files)
    splits = {name: split for split, name in cityscapes.SPLITS.items()} | {"test": "test"}
    images, masks = (
        {f"{p.parts[-3]}/{p.parts[-2]}/{p.name.removesuffix(end)}": str(p) for p in (root / top).glob(f"*/*/*{end}")}
        for top, end in (("leftImg8bit", image_end), ("gtFine", mask_end))
    )
    samples = []
    for key in sorted(images.keys() | masks.keys()):
        image, mask = images.get(key), masks.get(key)
        split = splits.get(key.split("/")[0])
        name = _relative(image or mask or "", root)
        if mask is None and split != "test":
            found.issues.append(Issue(name, "no_mask", f"gtFine/{key}{mask_end}"))
        if image is None:
            found.issues.append(Issue(name, "no_image", f"leftImg8bit/{key}{image_end}"))
        if split is None:
            found.issues.append(Issue(name, "in_no_split", "train and val are read"))
        mask_name = _relative(mask, root) if mask else ""
        samples.append(Sample(name, image, mask, split, mask_name, labelled=split != "test"))
    if not samples:
        raise InputError(f"{root / 'leftImg8bit'} holds no <split>/<city>/*{image_end}. {cityscapes.WHERE}")
    found.samples = samples
    return found


SURVEYS: dict[str, Callable[..., Survey]] = {
    "folder": survey_folder,
    "pets": survey_pets,
    "cityscapes": survey_cityscapes,
}


def _relative(path: str | Path, root: Path) -> str:
    return os.path.relpath(path, root).replace(os.sep, "/")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _suffixes() -> str:
    return ", ".join(IMAGE_SUFFIXES)

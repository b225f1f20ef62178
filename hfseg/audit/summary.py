"""The set as a whole: pixels of the classes, sizes, duplicates, and what follows for a recipe."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from statistics import median
from typing import Any

import numpy as np
import torch

from hfseg.audit.duplicates import Duplicate
from hfseg.audit.pair import Finding
from hfseg.audit.sample import KINDS, Issue
from hfseg.audit.survey import Survey
from hfseg.losses import compute_class_weights

MULTIPLE, LONGEST_SIDE = 32, 1024  # of the suggested image_size, in pixels


def name_duplicates(found: Survey, pairs: Sequence[Duplicate]) -> list[Issue]:
    """Duplicates as issues of their second image, each the nearest that was found."""
    issues = []
    for pair in pairs:
        first, second = found.samples[pair.first], found.samples[pair.second]
        kind = "duplicate_across_splits" if pair.across else "duplicate"
        how = "the same bytes" if pair.same_bytes else f"correlation {1 - pair.distance:.4f}"
        mirrored = ", mirrored" if pair.mirrored else ""
        where = f"{second.split} and {first.split}" if pair.across else str(second.split or "no split")
        issues.append(Issue(second.name, kind, f"{where}: like {first.name} ({how}{mirrored})"))
    return issues


def summarise(found: Survey, findings: Sequence[Finding], issues: Sequence[Issue]) -> dict[str, Any]:
    """What check.json says besides the issues."""
    samples = [(sample.split, sample.name) for sample in found.samples]
    splits = Counter(split or "no split" for split, _ in samples)
    kinds = Counter(issue.kind for issue in issues)
    return {
        "num_files": sum((s.image is not None) + (s.mask is not None) for s in found.samples),
        "splits": dict(splits),
        "counts": {kind: kinds[kind] for kind in KINDS if kinds[kind]},
        "classes": _count_classes(found, findings, [split for split, _ in samples]),
        "values_outside_classes": _count_values(findings, [sample.mask_name for sample in found.samples]),
        "sizes": _count_sizes(findings),
        "notes": list(found.notes),
    }


def _count_classes(found: Survey, findings: Sequence[Finding], splits: Sequence[str | None]) -> dict[str, Any]:
    """Pixels of each class per split, and the weights that `class_weights balanced` would compute from train's."""
    names = found.labels.names
    counts: dict[str, np.ndarray] = {}
    for split, finding in zip(splits, findings):
        if finding.pixels is not None:
            key = split or "no split"
            counts[key] = counts.get(key, np.zeros(len(names) + 1, np.int64)) + finding.pixels
    pixels = {
        split: dict(zip(names, map(int, part[:-1]))) | {"ignored": int(part[-1])} for split, part in counts.items()
    }
    train = counts.get("train")
    weights = None if train is None else compute_class_weights(torch.from_numpy(train[:-1])).tolist()
    if train is not None:
        absent = [name for name, count in zip(names, train) if count == 0]
        if absent:
            found.notes.append(f"Without a pixel in train: {', '.join(absent)}.")
    return {
        "names": list(names),
        "pixels": pixels,
        "class_weights": None if weights is None else [round(weight, 4) for weight in weights],
    }


def _count_values(findings: Sequence[Finding], names: Sequence[str]) -> list[dict[str, Any]]:
    """Each raw value outside the classes: pixels, number of files and the first of them; the 100 most frequent."""
    pixels: Counter[str] = Counter()
    files: dict[str, list[str]] = defaultdict(list)
    for finding, name in zip(findings, names):
        for value, count in finding.raw_values.items():
            pixels[value] += count
            files[value].append(name)
    return [
        {"value": value, "pixels": count, "num_files": len(files[value]), "files": files[value][:3]}
        for value, count in pixels.most_common(100)
    ]


def _count_sizes(findings: Sequence[Finding]) -> dict[str, Any]:
    sizes = [finding.size for finding in findings if finding.size is not None]
    histogram = [{"height": h, "width": w, "images": n} for (h, w), n in Counter(sizes).most_common()]
    return {"image_size": suggest_size(sizes), "histogram": histogram}


def suggest_size(sizes: Sequence[tuple[int, int]]) -> list[int] | None:
    """[height, width]: the median height and width, brought below 1024 and to multiples of 32; None without images."""
    if not sizes:
        return None
    height, width = (median(side) for side in zip(*sizes))
    scale = min(1.0, LONGEST_SIDE / max(height, width))
    return [max(MULTIPLE, round(side * scale / MULTIPLE) * MULTIPLE) for side in (height, width)]

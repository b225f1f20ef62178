"""Copies are found whatever was done to them, and the frames of a video are not taken for copies."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from hfseg.audit.duplicates import find_duplicates
from hfseg.audit.pair import Finding, examine
from hfseg.audit.sample import Sample
from hfseg.labels import Labels

LABELS = Labels(["thing"])


def look(source: Path | bytes) -> Finding:
    image = {"bytes": source, "path": None} if isinstance(source, bytes) else str(source)
    found = examine(Sample("x", image=image), LABELS)
    assert found.grey is not None
    return found


def save(image: Image.Image, form: str = "JPEG", **options: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


CHANGES = {
    "quality 30": lambda image: save(image, quality=30),
    "quality 75": lambda image: save(image, quality=75),
    "lossless": lambda image: save(image, "PNG"),
    "half": lambda image: save(image.resize((image.width // 2, image.height // 2)), quality=85),
    "a quarter": lambda image: save(image.resize((image.width // 4, image.height // 4)), quality=85),
    "larger": lambda image: save(image.resize((image.width * 3 // 2, image.height * 3 // 2)), quality=85),
    "stretched": lambda image: save(image.resize((300, 300)), quality=85),
    "mirrored": lambda image: save(ImageOps.mirror(image), quality=85),
    "grey": lambda image: save(ImageOps.grayscale(image), quality=85),
    "darker": lambda image: save(image.point(lambda v: int(0.8 * v)), quality=85),
    "webp": lambda image: save(image, "WEBP", quality=60),
}


def test_copies_planted_across_splits_of_a_video(camvid_dir: Path) -> None:
    """All are found. Without them, of 468 frames no pair is told; with them, only their sources' neighbours beside."""
    folders = {split: sorted((camvid_dir / "images" / split).iterdir()) for split in ("train", "validation")}
    files = [(split, path) for split, paths in folders.items() for path in paths]
    looks = [look(path) for _, path in files]
    splits: list[str | None] = [split for split, _ in files]
    assert find_duplicates([one.grey for one in looks], [one.digest for one in looks], splits) == []
    planted = {}
    for i, change in enumerate(CHANGES.values()):
        source = i * 41 if i % 2 else len(files) - 1 - 9 * i
        with Image.open(files[source][1]) as image:
            looks.append(look(change(image.convert("RGB"))))
        planted[source, len(splits)] = list(CHANGES)[i] == "mirrored"
        splits.append("validation" if splits[source] == "train" else "train")
    assert len(planted) == len(CHANGES) >= 10
    found = find_duplicates([one.grey for one in looks], [one.digest for one in looks], splits)
    told = {(pair.first, pair.second): pair.mirrored for pair in found}
    assert planted.items() <= told.items()
    assert all(pair.across and pair.second >= len(files) for pair in found), "a false alarm"


def test_copies_inside_a_split_and_outside_all(pets_dir: Path) -> None:
    files = sorted((pets_dir / "images").glob("Bengal_1*.jpg"))[:20]
    looks = [look(path) for path in files]
    with Image.open(files[3]) as image:
        looks += [look(save(image.convert("RGB"), quality=50)), look(files[5])]
    splits: list[str | None] = [*["train"] * 21, None]
    found = find_duplicates([one.grey for one in looks], [one.digest for one in looks], splits)
    assert [(p.first, p.second, p.across, p.same_bytes) for p in found] == [
        (3, 20, False, False),
        (5, 21, False, True),
    ]


def test_flat_images_are_compared_by_their_bytes() -> None:
    black, white = (save(Image.new("RGB", (64, 64), color), "PNG") for color in ("black", "white"))
    looks = [look(source) for source in (black, white, black, white)]
    found = find_duplicates(
        [one.grey for one in looks], [one.digest for one in looks], ["train", "train", "test", None]
    )
    assert [(pair.first, pair.second, pair.across) for pair in found] == [(0, 2, True), (1, 3, False)]


@pytest.mark.parametrize("count", [0, 1])
def test_nothing_to_compare(count: int) -> None:
    assert find_duplicates([np.zeros((17, 17), np.uint8)] * count, [b""] * count, [None] * count) == []

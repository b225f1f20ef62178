"""Oxford-IIIT Pet: cats and dogs of 37 breeds with trimaps (Parkhi et al., "Cats and Dogs", CVPR 2012)."""

import asyncio
import hashlib
import logging
import os
from pathlib import Path
from typing import Any, Literal, NamedTuple

import aiohttp
import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, DownloadConfig, DownloadManager, Features, Image
from filelock import FileLock

from hfseg.data.archives import unpack_tar
from hfseg.errors import InputError
from hfseg.labels import IGNORE_INDEX, Labels

logger = logging.getLogger(__name__)

BASE_URL = "https://thor.robots.ox.ac.uk/~vgg/data/pets"
# File name -> MD5; the sums are those that torchvision.datasets.OxfordIIITPet publishes for the same two files.
ARCHIVES = {
    "images.tar.gz": "5c4f3ee8e5d25df40f4fd59a7f44e54c",
    "annotations.tar.gz": "95a8c909bbe2e81eed6a22bccdf3f68f",
}
LAYOUT = "images/*.jpg, annotations/trimaps/*.png, annotations/trainval.txt and annotations/test.txt"
# A slow line is no failure, a silent one is; aiohttp's default would end every download after five minutes.
TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=60)
SPECIES = ("cat", "dog")
PET, BACKGROUND, BORDER = 1, 2, 3  # values in the trimaps


class Entry(NamedTuple):
    """One line of trainval.txt or test.txt."""

    name: str
    breed_id: int
    species_id: int


def load(
    data_dir: str | os.PathLike[str] | None = None,
    *,
    validation_fraction: float = 0.1,
    split_seed: int = 0,
    boundary: Literal["class", "ignore"] = "class",
    binary: bool = False,
) -> tuple[DatasetDict, Labels]:
    """Reads the official layout, or downloads the official archives (0.8 GB) into the cache of `datasets`.

    Test is the official test list. Train and validation share the official trainval list: of each breed's n images,
    `validation_fraction` * n, rounded, are held out; of two or more images at least one, and never all of them.

    Args:
        data_dir: a folder in the official layout, or one that holds it as `oxford-iiit-pet/` (torchvision's). It may
            be a part of the data set: names that are in the lists but not on disk are left out, and counted in the log.
        validation_fraction: share of trainval that is held out, 0 to 1.
        split_seed: another seed holds out other images.
        boundary: the border of the animals is a class of its own, or ignored; then there are two classes.
        binary: two classes, background and foreground; the border counts as foreground, unless it is ignored.

    Returns:
        Splits with `image`, `mask`, `breed` and `species`; empty ones are left out. Labels background, boundary,
        foreground.

    Raises:
        InputError: a data_dir in another layout, an image without its mask or the reverse, a failed download.
    """
    if not 0 <= validation_fraction <= 1:
        raise InputError(f"validation_fraction is {validation_fraction}; it must lie between 0 and 1.")
    if boundary not in ("class", "ignore"):
        raise InputError(f"boundary is {boundary!r}; allowed are 'class' and 'ignore'.")
    images, annotations = download() if data_dir is None else find_folders(data_dir)
    lists = {name: read_list(annotations / f"{name}.txt") for name in ("trainval", "test")}
    breeds = {entry.breed_id: entry.name.rpartition("_")[0] for entry in (*lists["trainval"], *lists["test"])}
    present = _keep_present(lists, images, annotations / "trimaps", partial=data_dir is not None)
    held_out = hold_out(present["trainval"], validation_fraction, split_seed)
    parts = {
        "train": [entry for entry in present["trainval"] if entry not in held_out],
        "validation": [entry for entry in present["trainval"] if entry in held_out],
        "test": present["test"],
    }
    breed_ids = sorted(breeds)
    kinds = {"breed": ClassLabel(names=[breeds[i] for i in breed_ids]), "species": ClassLabel(names=list(SPECIES))}
    features = Features({"image": Image(), "mask": Image(), **kinds})
    dataset = DatasetDict()
    for split, entries in parts.items():
        if not entries:
            continue
        columns: dict[str, list[Any]] = {
            "image": [str(images / f"{entry.name}.jpg") for entry in entries],
            "mask": [str(annotations / "trimaps" / f"{entry.name}.png") for entry in entries],
            "breed": [breed_ids.index(entry.breed_id) for entry in entries],
            "species": [entry.species_id - 1 for entry in entries],
        }
        dataset[split] = Dataset.from_dict(columns, features=features)
    return dataset, build_labels(boundary, binary)


def build_labels(boundary: str, binary: bool) -> Labels:
    """What trimap values mean; see `load`."""
    ignored = boundary == "ignore"
    # A class without a pixel would be an IoU of 0 in the mean as soon as one pixel is taken for it.
    names = ("background", "foreground") if binary or ignored else ("background", "boundary", "foreground")
    border = IGNORE_INDEX if ignored else 1
    return Labels(names, ids={PET: len(names) - 1, BACKGROUND: 0, BORDER: border})


def find_folders(data_dir: str | os.PathLike[str]) -> tuple[Path, Path]:
    """The folders images/ and annotations/ below `data_dir`."""
    root = Path(data_dir).expanduser().absolute()
    if not root.is_dir():
        raise InputError(
            f"data_dir {data_dir} is no folder. Give one with {LAYOUT}; without data_dir, it is downloaded."
        )
    if (root / "oxford-iiit-pet").is_dir():
        root = root / "oxford-iiit-pet"
    needed = ("images", "annotations", "annotations/trimaps", "annotations/trainval.txt", "annotations/test.txt")
    if missing := [name for name in needed if not (root / name).exists()]:
        raise InputError(f"{root} has no {', '.join(missing)}. The data set pets needs {LAYOUT}.")
    return root / "images", root / "annotations"


def read_list(path: Path) -> list[Entry]:
    """The lines of trainval.txt or test.txt: image name, class id, species, breed id."""
    entries = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) != 4 or not words[1].isdigit() or words[2] not in ("1", "2"):
            raise InputError(f"{path}, line {number}, is {line!r}; expected: image name, breed, species (1 or 2), id.")
        entries.append(Entry(words[0], int(words[1]), int(words[2])))
    return entries


def _keep_present(lists: dict[str, list[Entry]], images: Path, trimaps: Path, partial: bool) -> dict[str, list[Entry]]:
    """The entries whose files are there."""
    image_names, mask_names = list_stems(images, ".jpg"), list_stems(trimaps, ".png")
    listed = [entry.name for entries in lists.values() for entry in entries]
    _check_partners([n for n in listed if n in image_names and n not in mask_names], images, ".jpg", trimaps, ".png")
    _check_partners([n for n in listed if n in mask_names and n not in image_names], trimaps, ".png", images, ".jpg")
    present = {name: [e for e in entries if e.name in image_names] for name, entries in lists.items()}
    absent = len(listed) - sum(map(len, present.values()))
    if absent == len(listed):
        raise InputError(f"None of the {len(listed)} images that the lists name are in {images}. Put them there.")
    if absent:
        if not partial:
            folders = f"{images.parent} and {trimaps.parents[1]}"
            raise InputError(f"{absent} of {len(listed)} downloaded images are gone. Delete {folders} to unpack again.")
        logger.info(f"pets: {absent} of {len(listed)} listed images are not in {images}; the others are used")
    return present


def list_stems(folder: Path, suffix: str) -> set[str]:
    return {name[: -len(suffix)] for name in os.listdir(folder) if name.endswith(suffix)}


def _check_partners(lonely: list[str], folder: Path, suffix: str, other: Path, other_suffix: str) -> None:
    if lonely:
        more = f" (and {len(lonely) - 1} more)" if len(lonely) > 1 else ""
        raise InputError(
            f"{folder / (lonely[0] + suffix)}{more} has no {other / (lonely[0] + other_suffix)}: add it, or remove the "
            "one without partner."
        )


def hold_out(entries: list[Entry], fraction: float, seed: int) -> set[Entry]:
    """Those of the entries that are validation; see `load`."""
    rng = np.random.default_rng(seed)
    held_out: set[Entry] = set()
    for breed_id in sorted({entry.breed_id for entry in entries}):
        breed = [entry for entry in entries if entry.breed_id == breed_id]
        count = min(max(round(fraction * len(breed)), 1), len(breed) - 1) if fraction else 0
        held_out |= {breed[i] for i in rng.permutation(len(breed))[:count]}
    return held_out


# ---- download ----
def download() -> tuple[Path, Path]:
    """The folders images/ and annotations/ of the official archives, from the cache where they are there already.

    Raises:
        InputError: no network, or a file with another checksum.
    """
    images, annotations = (_fetch(f"{BASE_URL}/{name}", md5) for name, md5 in ARCHIVES.items())
    return images / "images", annotations / "annotations"


def _fetch(url: str, md5: str) -> Path:
    """Downloads, verifies and unpacks one archive; `datasets` keeps both, and asks the network only once."""
    config = DownloadConfig(use_etag=False, storage_options={"client_kwargs": {"timeout": TIMEOUT}})
    manager = DownloadManager(dataset_name="oxford_iiit_pet", download_config=config)
    try:
        archive = Path(manager.download(url))
    except (OSError, aiohttp.ClientError, asyncio.TimeoutError) as error:
        reason = error.__cause__ or error  # fsspec calls every failure a missing file
        raise InputError(
            f"{url} can't be downloaded ({_one_line(reason)}). Download {' and '.join(ARCHIVES)} from {BASE_URL} on "
            "another machine, unpack both into one folder, and give it as data_dir."
        ) from error
    # Written last: an unpacking that was cut short is not taken for a whole one.
    done = archive.with_name(f"{archive.name}.unpacked")
    with FileLock(archive.with_name(f"{archive.name}.unpack.lock")):
        if not done.is_file() or not Path(done.read_text(encoding="utf-8")).is_dir():
            if (found := _compute_md5(archive)) != md5:
                archive.unlink()
                raise InputError(
                    f"{url} has the MD5 sum {found}, expected {md5}: a damaged download or another file. It was "
                    "deleted; try again, or download it by hand and give data_dir."
                )
            folder = unpack_tar(archive, archive.with_name(f"{archive.name}.unpacked.d"))
            done.write_text(str(folder), encoding="utf-8")
    return Path(done.read_text(encoding="utf-8"))


def _compute_md5(path: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def _one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__} {error}".split())

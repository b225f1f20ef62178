"""Oxford-IIIT Pet from the official layout, and from archives that a server on this machine hands out."""

import functools
import hashlib
import http.server
import logging
import shutil
import tarfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import datasets
import numpy as np
import pytest
from PIL import Image

from hfseg.data import load, pets
from hfseg.errors import InputError
from hfseg.images import read_mask


def stems(dataset: datasets.Dataset, column: str = "image") -> list[str]:
    return [Path(row["path"]).stem for row in dataset.cast_column(column, datasets.Image(decode=False))[column]]


def listed(folder: Path, name: str) -> list[str]:
    return [line.split()[0] for line in (folder / "annotations" / f"{name}.txt").read_text().splitlines()]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """12 drawn pairs in the official layout: two cat breeds, one dog breed, four images each."""
    root = tmp_path / "pets"
    (root / "images").mkdir(parents=True)
    (root / "annotations" / "trimaps").mkdir(parents=True)
    lines = []
    for breed_id, (breed, species) in enumerate((("Abyssinian", 1), ("beagle", 2), ("Maine_Coon", 1)), 1):
        for number in range(1, 5):
            lines.append(f"{breed}_{number} {breed_id} {species} {breed_id}")
            Image.new("RGB", (5, 4)).save(root / "images" / f"{breed}_{number}.jpg")
            trimap = Image.fromarray(np.full((4, 5), number % 3 + 1, np.uint8))
            trimap.save(root / "annotations" / "trimaps" / f"{breed}_{number}.png")
    for name, part in (("trainval", lines[0::4] + lines[1::4] + lines[2::4]), ("test", lines[3::4])):
        (root / "annotations" / f"{name}.txt").write_text("\n".join(part) + "\n")
    (root / "images" / "Abyssinian_1.mat").write_bytes(b"left over")
    (root / "annotations" / "trimaps" / "._Abyssinian_1.png").write_bytes(b"left over")
    return root


# ---- the real photographs ----


def test_official_splits(pets_dir: Path) -> None:
    dataset, labels = pets.load(pets_dir)
    assert {name: len(part) for name, part in dataset.items()} == {"train": 270, "validation": 30, "test": 298}
    assert stems(dataset["test"]) == listed(pets_dir, "test")
    both = stems(dataset["train"]) + stems(dataset["validation"])
    assert sorted(both) == sorted(listed(pets_dir, "trainval"))
    for part in dataset.values():
        assert stems(part) == stems(part, "mask")
    assert labels.names == ("background", "boundary", "foreground")
    assert not {"Abyssinian_34", "Abyssinian_82"} & {*both, *stems(dataset["test"])}, "they are in no list"


def test_validation_is_stratified_by_breed_and_seeded(pets_dir: Path) -> None:
    first = pets.load(pets_dir)[0]
    breeds = first["validation"].features["breed"]
    assert Counter(breeds.int2str(first["validation"]["breed"][:])) == dict.fromkeys(
        ("Abyssinian", "american_bulldog", "Bengal"), 10
    )
    assert stems(pets.load(pets_dir)[0]["validation"]) == stems(first["validation"])
    assert stems(pets.load(pets_dir, split_seed=1)[0]["validation"]) != stems(first["validation"])
    fifth = pets.load(pets_dir, validation_fraction=0.2)[0]
    assert (len(fifth["train"]), len(fifth["validation"])) == (240, 60)


def test_breed_and_species_of_real_images(pets_dir: Path) -> None:
    test = pets.load(pets_dir)[0]["test"]
    breeds, species = (test.features[name].int2str(test[name][:]) for name in ("breed", "species"))
    assert breeds == [name.rpartition("_")[0] for name in stems(test)]
    assert dict(zip(breeds, species)) == {"Abyssinian": "cat", "Bengal": "cat", "american_bulldog": "dog"}


def test_trimaps_become_classes(pets_dir: Path) -> None:
    dataset, labels = pets.load(pets_dir)
    row = dataset["test"][0]
    raw = np.array(row["mask"])
    assert row["image"].size == row["mask"].size
    for options, wanted in [
        ({}, {1: 2, 2: 0, 3: 1}),
        ({"boundary": "ignore"}, {1: 1, 2: 0, 3: 255}),
        ({"binary": True}, {1: 1, 2: 0, 3: 1}),
        ({"binary": True, "boundary": "ignore"}, {1: 1, 2: 0, 3: 255}),
    ]:
        labels = pets.load(pets_dir, **options)[1]
        encoded = labels.encode(read_mask(row["mask"]))
        assert {int(v): int(np.unique(encoded[raw == v])[0]) for v in np.unique(raw)} == wanted, options
        assert labels.num_labels == (2 if options else 3), "no class is without a pixel"


# ---- small trees ----


def test_a_folder_in_torchvisions_layout(tree: Path) -> None:
    outer = tree.parent / "torchvision"
    outer.mkdir()
    tree.rename(outer / "oxford-iiit-pet")
    dataset = load("pets", data_dir=str(outer))[0]
    assert {name: len(part) for name, part in dataset.items()} == {"train": 6, "validation": 3, "test": 3}
    assert dataset["train"].features["breed"].names == ["Abyssinian", "beagle", "Maine_Coon"]


def test_each_breed_gives_one_and_keeps_one(tree: Path) -> None:
    for fraction, sizes in ((0.01, (6, 3)), (0.5, (3, 6)), (1.0, (3, 6))):
        dataset = pets.load(tree, validation_fraction=fraction)[0]
        assert (len(dataset["train"]), len(dataset["validation"])) == sizes, fraction
    assert "validation" not in pets.load(tree, validation_fraction=0)[0]


def test_partial_copies_use_what_is_there(tree: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("beagle_1", "beagle_2", "beagle_4"):
        (tree / "images" / f"{name}.jpg").unlink()
        (tree / "annotations" / "trimaps" / f"{name}.png").unlink()
    with caplog.at_level(logging.INFO):
        dataset = pets.load(tree)[0]
    assert {name: len(part) for name, part in dataset.items()} == {"train": 5, "validation": 2, "test": 2}
    assert "3 of 12 listed images" in caplog.text
    assert "beagle_3" in stems(dataset["train"]), "the only image of its breed is trained on"
    for path in tree.glob("images/*_4.jpg"):
        path.unlink()
        (tree / "annotations" / "trimaps" / f"{path.stem}.png").unlink()
    assert set(pets.load(tree)[0]) == {"train", "validation"}


def test_relative_paths_work_from_anywhere(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree.parent)
    dataset = pets.load("pets")[0]
    monkeypatch.chdir("/")
    assert dataset["train"][0]["image"].size == (5, 4)


def test_images_without_mask_and_masks_without_image_are_named(tree: Path) -> None:
    (tree / "annotations" / "trimaps" / "beagle_2.png").unlink()
    with pytest.raises(InputError, match=r"images/beagle_2\.jpg has no .*trimaps/beagle_2\.png: add it"):
        pets.load(tree)
    (tree / "images" / "beagle_2.jpg").unlink()
    (tree / "images" / "Maine_Coon_1.jpg").unlink()
    (tree / "images" / "Maine_Coon_4.jpg").unlink()
    with pytest.raises(InputError, match=r"Maine_Coon_1\.png \(and 1 more\) has no .*images/Maine_Coon_1\.jpg"):
        pets.load(tree)


def test_wrong_folders_and_options_are_told(tree: Path) -> None:
    with pytest.raises(InputError, match=r"data_dir .*nowhere is no folder.*annotations/trimaps"):
        pets.load(tree / "nowhere")
    with pytest.raises(InputError, match=r"has no images, annotations, .*test\.txt\. The data set pets needs"):
        pets.load(tree / "images")
    with pytest.raises(InputError, match="boundary is 'none'; allowed are 'class' and 'ignore'"):
        pets.load(tree, boundary="none")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"validation_fraction is 1\.5"):
        pets.load(tree, validation_fraction=1.5)
    (tree / "annotations" / "test.txt").write_text("Abyssinian_4 1 1 1\nbeagle_4 cat\n")
    with pytest.raises(InputError, match=r"test\.txt, line 2, is 'beagle_4 cat'"):
        pets.load(tree)
    (tree / "annotations" / "test.txt").write_text("other_1 1 1 1\n")
    (tree / "annotations" / "trainval.txt").write_text("other_2 1 1 1\n")
    with pytest.raises(InputError, match="None of the 2 images"):
        pets.load(tree)


# ---- download ----


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder, counts what was asked for, and can fall silent in the middle of a file."""

    requests: Counter[str] = Counter()
    stall = False

    def do_GET(self) -> None:
        type(self).requests[self.path] += 1
        if self.stall:
            self.send_response(200)
            self.send_header("Content-Length", "100000")
            self.end_headers()
            self.wfile.write(b"x" * 100)
            self.wfile.flush()
            time.sleep(2)
            return
        super().do_GET()

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The drawn tree as the official archives on a server of this machine; gives the folder that is served."""
    served = tmp_path / "served"
    served.mkdir()
    for folder in ("images", "annotations"):
        with tarfile.open(served / f"{folder}.tar.gz", "w:gz") as archive:
            archive.add(tree / folder, folder)
    Handler.requests, Handler.stall = Counter(), False
    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(served)))
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pets, "BASE_URL", f"http://127.0.0.1:{httpd.server_address[1]}")
    sums = {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in served.iterdir()}
    monkeypatch.setattr(pets, "ARCHIVES", {name: sums[name] for name in ("images.tar.gz", "annotations.tar.gz")})
    monkeypatch.setattr(datasets.config, "DOWNLOADED_DATASETS_PATH", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "EXTRACTED_DATASETS_PATH", str(tmp_path / "cache" / "extracted"))
    yield served
    httpd.shutdown()
    httpd.server_close()


def test_download_gives_the_same_as_the_folder(server: Path, tree: Path) -> None:
    downloaded, local = pets.load()[0], pets.load(tree)[0]
    assert list(downloaded) == list(local)
    for split in local:
        assert stems(downloaded[split]) == stems(local[split])
    assert np.array_equal(np.array(downloaded["test"][1]["mask"]), np.array(local["test"][1]["mask"]))


def test_a_second_load_asks_nothing_of_the_network(server: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pets.load()
    assert Handler.requests == {"/images.tar.gz": 1, "/annotations.tar.gz": 1}
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    assert len(pets.load()[0]["test"]) == 3
    assert sum(Handler.requests.values()) == 2


def test_an_unpacking_that_was_cut_short_is_done_again(server: Path, tmp_path: Path) -> None:
    pets.load()
    markers = (tmp_path / "cache").glob("*.unpacked")
    (marker,) = [path for path in markers if (Path(path.read_text()) / "images").is_dir()]
    (Path(marker.read_text()) / "images" / "beagle_1.jpg").write_bytes(b"half")
    marker.unlink()
    assert pets.load()[0]["train"].num_rows == 6
    assert Image.open(Path(marker.read_text()) / "images" / "beagle_1.jpg").size == (5, 4)
    shutil.rmtree(marker.read_text())
    assert pets.load()[0]["train"].num_rows == 6


def test_missing_files_in_a_download_are_an_error(server: Path, tmp_path: Path) -> None:
    pets.load()
    (extracted,) = (tmp_path / "cache").rglob("beagle_1.jpg")
    extracted.unlink()
    (mask,) = (tmp_path / "cache").rglob("beagle_1.png")
    mask.unlink()
    with pytest.raises(InputError, match=r"1 of 12 downloaded images are gone\. Delete ") as error:
        pets.load()
    for advised in str(error.value).split("Delete ")[1].split(" to ")[0].split(" and "):
        shutil.rmtree(advised)
    assert len(pets.load()[0]["train"]) == 6


def test_another_checksum_is_refused_and_not_kept(server: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = pets.ARCHIVES
    monkeypatch.setattr(pets, "ARCHIVES", {**right, "images.tar.gz": "0" * 32})
    wanted = rf"images\.tar\.gz has the MD5 sum {right['images.tar.gz']}, expected 000"
    with pytest.raises(InputError, match=wanted) as error:
        pets.load()
    assert "\n" not in str(error.value)
    monkeypatch.setattr(pets, "ARCHIVES", right)
    assert len(pets.load()[0]["train"]) == 6
    assert Handler.requests["/images.tar.gz"] == 2


def test_no_network_gives_one_line_that_says_what_to_do(server: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base_url = pets.BASE_URL
    wanted = r"can't be downloaded.*Download images\.tar\.gz and annotations\.tar\.gz from .*give it as data_dir"
    for url in ("http://127.0.0.1:9", "http://no-such-host.invalid", f"{base_url}/nothing-here"):
        monkeypatch.setattr(pets, "BASE_URL", url)
        with pytest.raises(InputError, match=wanted) as error:
            pets.load()
        assert "\n" not in str(error.value)
    monkeypatch.setattr(pets, "BASE_URL", base_url)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=wanted):
        pets.load()


def test_a_server_that_falls_silent_is_given_up(server: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Handler.stall = True
    monkeypatch.setattr(pets, "TIMEOUT", aiohttp.ClientTimeout(total=None, sock_read=0.3))
    with pytest.raises(InputError, match="can't be downloaded"):
        pets.load()
    Handler.stall = False
    assert len(pets.load()[0]["train"]) == 6, "nothing half-written is left in the cache"


def test_the_checksums_are_those_torchvision_publishes() -> None:
    from torchvision.datasets import OxfordIIITPet

    published = {url.rpartition("/")[2]: md5 for url, md5 in OxfordIIITPet._RESOURCES}
    assert published == pets.ARCHIVES

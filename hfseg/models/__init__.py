"""Models by name. Importing this registers our own classes with transformers' Auto classes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoModelForSemanticSegmentation, PreTrainedModel
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from hfseg.errors import InputError, near_names
from hfseg.labels import Labels
from hfseg.models import segformer
from hfseg.models.encoder import freeze_encoder
from hfseg.models.timm_seg import TimmForSemanticSegmentation, TimmSegConfig
from hfseg.models.torchvision_builder import build_torchvision
from hfseg.models.torchvision_seg import TorchvisionForSemanticSegmentation, TorchvisionSegConfig
from hfseg.models.trial import check_size

# name -> builder(name, labels, *, weights, trust_remote_code); some take image_size, aux_loss or head_dropout as well
MODELS: dict[str, Callable[..., PreTrainedModel]] = {
    "segformer-b0": segformer.build,
    "segformer-b1": segformer.build,
    "segformer-b2": segformer.build,
    "segformer-b3": segformer.build,
    "segformer-b4": segformer.build,
    "segformer-b5": segformer.build,
    "fcn_resnet50": build_torchvision,
    "fcn_resnet101": build_torchvision,
    "deeplabv3_resnet50": build_torchvision,
    "deeplabv3_resnet101": build_torchvision,
    "deeplabv3_mobilenet_v3_large": build_torchvision,
    "lraspp_mobilenet_v3_large": build_torchvision,
}

# In this process our classes are known by their model_type; save_pretrained also writes their code beside the weights,
# so that they load elsewhere with trust_remote_code=True.
AutoConfig.register("hfseg_torchvision", TorchvisionSegConfig, exist_ok=True)
AutoModelForSemanticSegmentation.register(TorchvisionSegConfig, TorchvisionForSemanticSegmentation, exist_ok=True)
AutoConfig.register("hfseg_timm", TimmSegConfig, exist_ok=True)
AutoModelForSemanticSegmentation.register(TimmSegConfig, TimmForSemanticSegmentation, exist_ok=True)
for _config, _model in (
    (TorchvisionSegConfig, TorchvisionForSemanticSegmentation),
    (TimmSegConfig, TimmForSemanticSegmentation),
):
    _config.register_for_auto_class("AutoConfig")
    _model.register_for_auto_class("AutoModelForSemanticSegmentation")


def build(
    name: str,
    labels: Labels,
    *,
    weights: str = "scratch",
    freeze: str = "none",
    image_size: tuple[int, int] | None = None,
    aux_loss: bool = False,
    head_dropout: float | None = None,
    trust_remote_code: bool = False,
) -> PreTrainedModel:
    """A model for these classes, on the CPU, with a new head.

    Args:
        name: a key of `MODELS`, `timm/<encoder>`, or a checkpoint (folder or Hub id) of
            `AutoModelForSemanticSegmentation`.
        labels: sizes the head; names and palette go into the config.
        weights: `scratch`, `pretrained`, `imagenet` (torchvision's), or a file, folder or Hub id with an encoder.
        freeze: `none` or `encoder`.
        image_size: (height, width) in pixels the model will see; encoders of one fixed size are built for it.
        aux_loss: add torchvision's auxiliary head.
        head_dropout: dropout before the classifier, 0 to 1; unset: the model's own.
        trust_remote_code: let a checkpoint bring code of its own.

    Raises:
        InputError: unknown name, weights that can't be had or don't fit, a size that the encoder refuses.
    """
    if freeze not in ("none", "encoder"):
        raise InputError(f"freeze is {freeze!r}; allowed are none and encoder.")
    builder, is_timm = _builder(name), name.startswith("timm/")
    options: dict[str, Any] = {"weights": weights, "trust_remote_code": trust_remote_code}
    if is_timm:
        options["image_size"] = image_size
    elif builder is build_torchvision:
        options["aux_loss"] = aux_loss
    if head_dropout is not None:
        if builder is not segformer.build and not is_timm:
            raise InputError(f"head_dropout: {name} keeps its own; leave head_dropout out.")
        if not 0 <= head_dropout < 1:
            raise InputError(f"head_dropout is {head_dropout}; give a probability from 0 up to 1.")
        options["head_dropout"] = head_dropout
    if aux_loss and builder is not build_torchvision:
        raise InputError(f"aux_loss: {name} has no auxiliary head; leave aux_loss out.")
    if weights == "imagenet" and builder is not build_torchvision:
        raise InputError(f"weights: imagenet is torchvision's word; for {name} give scratch, pretrained or a path.")
    model = builder(name, labels, **options)
    if builder is segformer.build_checkpoint and image_size is not None:
        check_size(model, name, image_size)
    if freeze == "encoder":
        freeze_encoder(model)
    return model


def _builder(name: str) -> Callable[..., PreTrainedModel]:
    if name in MODELS:
        return MODELS[name]
    if name.startswith("timm/"):
        from hfseg.models.timm_builder import build_timm

        return build_timm
    if Path(name).is_dir() or name.count("/") == 1 and not name.startswith((".", "/", "~")):
        return segformer.build_checkpoint
    import timm  # takes a second, which users of other models need not wait for

    near = near_names(name, [*MODELS, *(f"timm/{n}" for n in timm.list_models())])
    raise InputError(
        f"There is no model {name!r}.{near} Allowed: {', '.join(MODELS)}, timm/<encoder>, a folder or a Hub id."
    )


def normalization(name: str, *, trust_remote_code: bool = False) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation, of values in 0..1, that the model's usual weights expect; ImageNet's by default."""
    found: Any = None
    _builder(name)  # an unknown name is told before anything is asked for on the network
    if name.startswith("timm/"):
        import timm

        cfg = timm.get_pretrained_cfg(name.removeprefix("timm/"))
        found = (cfg.mean, cfg.std) if cfg is not None else None
    elif name not in MODELS:
        found = segformer.checkpoint_normalization(name, trust_remote_code)
    mean, std = found or (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
    return tuple(mean), tuple(std)

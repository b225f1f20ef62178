"""Builds the wrapped torchvision models: which network, and where its encoder's weights start."""

import http.client
import inspect
import urllib.error

from torchvision.models import get_model_weights, segmentation

from hfseg.errors import InputError
from hfseg.labels import Labels
from hfseg.models.encoder import NO_NETWORK, find_encoder, load_encoder
from hfseg.models.segformer import label_settings
from hfseg.models.state_dicts import copy_weights
from hfseg.models.torchvision_seg import TorchvisionForSemanticSegmentation, TorchvisionSegConfig


def build_torchvision(
    name: str, labels: Labels, *, weights: str, aux_loss: bool = False, trust_remote_code: bool = False
) -> TorchvisionForSemanticSegmentation:
    """`pretrained` takes the encoder of torchvision's own segmentation weights, `imagenet` the backbone's."""
    if aux_loss and name.startswith("lraspp"):
        raise InputError(f"aux_loss: {name} has no auxiliary head; leave aux_loss out.")
    config = TorchvisionSegConfig(architecture=name, aux_loss=aux_loss, **label_settings(labels))
    model = TorchvisionForSemanticSegmentation(config)
    if weights in ("pretrained", "imagenet"):
        published = get_model_weights(name).DEFAULT
        if weights == "imagenet":
            published = inspect.signature(getattr(segmentation, name)).parameters["weights_backbone"].default
        try:
            given = published.get_state_dict(progress=False, check_hash=True)
        except (urllib.error.URLError, OSError, http.client.HTTPException) as error:
            raise InputError(f"weights: {published.url} can't be fetched ({error}). {NO_NETWORK}") from error
        copy_weights(find_encoder(model), given, str(published))
    elif weights != "scratch":
        load_encoder(model, weights, trust_remote_code=trust_remote_code)
    return model

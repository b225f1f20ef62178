"""One image of zeros through a model, to know what it can't take before hours are spent."""

import torch
from transformers import PreTrainedModel

from hfseg.errors import InputError
from hfseg.models.state_dicts import one_line

REFUSALS = (RuntimeError, AttributeError, NotImplementedError, AssertionError, ValueError, TypeError, IndexError)


@torch.no_grad()
def check_size(model: PreTrainedModel, name: str, size: tuple[int, int]) -> None:
    """Raises an `InputError` where a model can't take images of this (height, width), with a size that it can."""
    refusal = _try(model.eval(), size)
    if refusal is not None:
        own = getattr(model.config, "image_size", None)
        near = max(32, round(max(size) / 32) * 32)
        candidates = [(near, near), *([(own, own)] if isinstance(own, int) else []), (224, 224), (512, 512)]
        works = next((c for c in candidates if c != tuple(size) and _try(model, c) is None), None)
        advice = f"{works[0]} x {works[1]} works" if works else "give another"
        raise InputError(
            f"image_size: {name} can't take {size[0]} x {size[1]} pixels; {advice}. The reason: {one_line(refusal)}"
        ) from refusal
    model.train()


@torch.no_grad()
def trains_on_one_image(model: PreTrainedModel, size: tuple[int, int]) -> bool:
    """Whether a model can be trained with a batch of one image of this (height, width).

    BatchNorm needs two values of a channel. Pyramids and atrous spatial pooling shrink each image to one.
    """
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    was_training = model.training
    with torch.random.fork_rng():
        refusal = _try(model.train(), size)
    model.train(was_training)
    for name, buffer in model.named_buffers():
        buffer.copy_(buffers[name])
    return not (isinstance(refusal, ValueError) and "more than 1 value per channel" in str(refusal))


def _try(model: PreTrainedModel, size: tuple[int, int]) -> Exception | None:
    """Why the model can't take a batch of one image, if it can't."""
    try:
        model(pixel_values=torch.zeros(1, 3, *size, device=model.device))
    except REFUSALS as error:
        return error
    return None

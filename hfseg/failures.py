"""What can go wrong on a machine in mid-run, each in one line: what happened, and how to go on."""

import errno
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from hfseg.checkpoints import unwrap
from hfseg.errors import GO_ON, InputError, RunError
from hfseg.models.trial import trains_on_one_image
from hfseg.saving import TORCH_WRITER, describe_write_error

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# From torch's CPU allocator, mmap and the CUDA libraries; CUDA's own allocator has an exception for it.
OUT_OF_MEMORY = (
    *("not enough memory", "can't allocate memory", "Cannot allocate memory", "CUDA out of memory"),
    *("CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED"),
)
# From gloo and NCCL, where the process at the other end is gone.
PEER = ("Connection closed by peer", "Connection reset by peer", "gloo/transport", "NCCL", "Broken pipe")
SIZE_STEP = 32  # the largest stride of the models


@contextmanager
def explain_failures(trainer: Any, size_key: str, size: Sequence[int]) -> Iterator[None]:
    """Turns the failures that are known into a `RunError`; every other exception keeps its traceback.

    Args:
        trainer: the SegTrainer at work.
        size_key: image_size or crop_size, whichever sets what the model is fed.
        size: its (height, width) in pixels.
    """
    try:
        yield
    except (InputError, RunError):
        raise
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise RunError(describe_out_of_memory(trainer, size_key, size)) from error
    except (OSError, RuntimeError) as error:
        text = str(error)
        if getattr(error, "errno", None) in FULL or TORCH_WRITER in text:
            reason = describe_write_error(error, Path(trainer.args.output_dir))
            raise RunError(f"A file could not be written: {reason}. Make room. {GO_ON}") from error
        if any(words in text for words in OUT_OF_MEMORY):
            raise RunError(describe_out_of_memory(trainer, size_key, size)) from error
        if "DataLoader worker" in text:
            reason = " ".join(text.split()).rstrip(".")
            raise RunError(
                f"A data worker died: {reason}. At most the steps since the last save are lost. Where memory ran out, "
                f"give a smaller --dataloader_num_workers. {GO_ON}"
            ) from error
        if trainer.args.world_size > 1 and any(words in text for words in PEER):
            lost = RunError(f"Another process of this training ended, and this one with it. {GO_ON}")
            lost.told = True
            raise lost from error
        raise


def describe_out_of_memory(trainer: Any, size_key: str, size: Sequence[int]) -> str:
    """Which keys to change, and to what."""
    args, changes = trainer.args, []
    if not trainer.model.training:
        if args.per_device_eval_batch_size > 1:
            changes.append(f"--per_device_eval_batch_size {args.per_device_eval_batch_size // 2}")
    elif args.per_device_train_batch_size > 1:
        batch = args.per_device_train_batch_size
        smaller = next(part for part in range(batch // 2, 0, -1) if batch % part == 0)
        steps = args.gradient_accumulation_steps * batch // smaller
        if smaller > 1 or trains_on_one_image(unwrap(trainer.model), (size[0], size[1])):
            changes.append(
                f"--per_device_train_batch_size {smaller} --gradient_accumulation_steps {steps} (the same global batch)"
            )
    lower = [max(side * 3 // 4 // SIZE_STEP * SIZE_STEP, SIZE_STEP) for side in size]
    if lower != list(size):
        changes.append(f"--{size_key} {lower[0]} {lower[1]} (a new run)")
    if trainer.model.training:
        if not args.bf16 and not args.fp16:
            changes.append("--bf16 true")
        if getattr(trainer.model, "supports_gradient_checkpointing", False) and not args.gradient_checkpointing:
            changes.append("--gradient_checkpointing true")
    what = "training step" if trainer.model.training else "validation"
    advice = f"Give {', or '.join(changes)}." if changes else "Nothing here can be made smaller: take a smaller model."
    return f"Out of memory in a {what}. {advice} {GO_ON}"

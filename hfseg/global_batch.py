"""A run that goes on with another number of processes keeps its global batch: each step sees the same images."""

import logging
from pathlib import Path
from typing import Any

from hfseg.errors import InputError
from hfseg.manifest import read_manifest

logger = logging.getLogger(__name__)


def keep_global_batch(args: Any, checkpoint: str | Path | None) -> None:
    """Brings accumulation, and where need be the batch size of a process, to the checkpoint's global batch.

    The global batch is per_device_train_batch_size * number of processes * gradient_accumulation_steps.

    Args:
        args: the training arguments, changed in place.
        checkpoint: what the run goes on from; None, or one without a manifest, changes nothing.

    Raises:
        InputError: the global batch can't be shared out among so many processes.
    """
    about = read_manifest(Path(checkpoint)) if checkpoint is not None else {}
    if "num_processes" not in about:
        return
    then = about["num_processes"] * about["per_device_train_batch_size"] * about["gradient_accumulation_steps"]
    if args.world_size * args.per_device_train_batch_size * args.gradient_accumulation_steps == then:
        return
    share, rest = divmod(then, args.world_size)
    if rest:
        allowed = [str(count) for count in range(1, then + 1) if then % count == 0]
        raise InputError(
            f"{checkpoint} was trained with a global batch of {then}, which {args.world_size} processes can't share "
            f"evenly: go on with {', '.join(allowed)} of them."
        )
    batch = next(size for size in range(min(args.per_device_train_batch_size, share), 0, -1) if share % size == 0)
    args.per_device_train_batch_size, args.gradient_accumulation_steps = batch, share // batch
    logger.warning(
        f"{checkpoint} was trained with a global batch of {then}, and the run goes on with it: "
        f"per_device_train_batch_size {batch}, gradient_accumulation_steps {share // batch}, {args.world_size} "
        f"process{'es' * (args.world_size > 1)}."
    )

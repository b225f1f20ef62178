"""How many processes run where: what `accelerate launch` is told, so that what was asked for is what starts."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml

from hfseg.errors import InputError

logger = logging.getLogger(__name__)

# Without a GPU, accelerate starts one process for these, whatever their number says; --multi_gpu starts them all.
SINGLE_TYPES = ("NO", "MULTI_CPU")


@dataclass
class Topology:
    """Options for `accelerate launch`, and those that the script needs beside them."""

    num_processes: int
    launcher: list[str] = field(default_factory=list)
    script: list[str] = field(default_factory=list)


def plan_topology(
    num_processes: int | None = None, config_file: str | None = None, machines: Mapping[str, str] | None = None
) -> Topology:
    """What is started where.

    Args:
        num_processes: as asked for; unset: the file's, or one a CUDA device, or one.
        config_file: of accelerate; machine topology, as in recipes/accelerate.
        machines: of several machines, machine_rank (which this is, from 0), main_process_ip and main_process_port.

    Raises:
        InputError: no such file, or not one of accelerate's; more processes than GPUs in a file for GPUs; a machine's
            options without a file for several, or a rank that it has not.
    """
    num_gpus = torch.cuda.device_count()
    if config_file is None:
        if machines:
            raise InputError(
                f"{next(iter(machines))} needs --config_file recipes/accelerate/two_nodes.yaml, or like it."
            )
        count = num_processes or max(num_gpus, 1)
        launcher = ["--multi_gpu", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
        launcher += ["--num_processes", str(count)]
        return Topology(count, launcher, [] if num_gpus else ["--use_cpu", "true"])
    config = read_config(config_file)
    count = num_processes or int(config.num_processes)
    if count < 1:
        raise InputError(f"{config_file} does not say how many processes: give --num_processes.")
    kind = getattr(config.distributed_type, "value", str(config.distributed_type))
    if kind == "FSDP" and int((config.fsdp_config or {}).get("fsdp_version", 1)) != 2:
        raise InputError(
            f"{config_file} asks for FSDP of version 1; give fsdp_version 2, as recipes/accelerate/fsdp.yaml."
        )
    on_cpu = bool(getattr(config, "use_cpu", False))
    for name, value in (machines or {}).items():
        if name != "main_process_ip" and not (
            value.isdigit() and (name != "machine_rank" or int(value) < config.num_machines)
        ):
            allowed = f"0 to {config.num_machines - 1}" if name == "machine_rank" else "a port's number"
            raise InputError(f"{name} is {value!r}; give {allowed}.")
    launcher = ["--config_file", config_file, "--num_processes", str(count)]
    launcher += [word for name, value in (machines or {}).items() for word in (f"--{name}", value)]
    if kind in SINGLE_TYPES and count > 1:
        launcher.append("--multi_gpu")
    if not on_cpu and not num_gpus:
        logger.warning(
            f"{config_file}: there is no GPU here; {count} {'process' if count == 1 else 'processes'} on the CPU"
        )
    if not on_cpu and num_gpus and count > num_gpus and config.num_machines == 1:
        raise InputError(
            f"{config_file} starts {count} processes, one a GPU, and there are {num_gpus} GPUs: give --num_processes "
            f"{num_gpus}."
        )
    return Topology(count, launcher, ["--use_cpu", "true"] if on_cpu or not num_gpus else [])


def read_config(path: str) -> Any:
    """accelerate's own reading of its file.

    Raises:
        InputError: no such file, or one that accelerate does not understand.
    """
    from accelerate.commands.config import load_config_from_file

    if not Path(path).is_file():
        raise InputError(f"There is no accelerate configuration {path}; recipes/accelerate has some.")
    try:
        return load_config_from_file(path)
    except (ValueError, TypeError, AttributeError, KeyError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise InputError(
            f"{path} is no accelerate configuration: {reason}. recipes/accelerate has some; `accelerate config` "
            "writes one."
        ) from error

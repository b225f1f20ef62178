"""`hfseg train`: one process runs right here; several are started by accelerate, after the recipe was checked."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from hfseg.errors import InputError

# Options of `accelerate launch` that are taken here; every other --key belongs to the recipe.
LAUNCHER_OPTIONS = ("num_processes", "config_file")


def main(argv: Sequence[str] | None = None) -> int:
    argv = list(sys.argv[1:] if argv is None else argv)
    launcher, recipe_argv = split_launcher_options(argv)
    if not recipe_argv or recipe_argv[0].startswith("--") and "--help" not in recipe_argv:
        raise InputError("Which recipe? Give one first: hfseg train recipes/segformer_pets.json [--key value ...].")
    num_processes = process_count(launcher)
    import hfseg.train

    if num_processes == 1 and "config_file" not in launcher:
        return hfseg.train.main(recipe_argv)
    hfseg.train.check(recipe_argv)
    return launch(launcher, recipe_argv, num_processes)


def split_launcher_options(argv: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Takes `--num_processes N` and `--config_file FILE` out of a command line."""
    launcher: dict[str, str] = {}
    rest: list[str] = []
    tokens = iter(argv)
    for token in tokens:
        name, equals, value = token.removeprefix("--").partition("=")
        if token.startswith("--") and name in LAUNCHER_OPTIONS:
            launcher[name] = value if equals else next(tokens, "")
        else:
            rest.append(token)
    return launcher, rest


def take_token(argv: Sequence[str]) -> tuple[str | None, list[str]]:
    """Takes `--hub_token T` out of a command line: accelerate prints the whole line when a process fails."""
    token, rest = None, []
    tokens = iter(argv)
    for word in tokens:
        name, equals, value = word.removeprefix("--").replace("-", "_").partition("=")
        if word.startswith("--") and name == "hub_token":
            token = value if equals else next(tokens, None)
        else:
            rest.append(word)
    return token, rest


def process_count(launcher: dict[str, str]) -> int:
    """As asked for; unset: one a CUDA device, or one."""
    if "config_file" in launcher and not Path(launcher["config_file"]).is_file():
        raise InputError(
            f"There is no accelerate configuration {launcher['config_file']}; recipes/accelerate has some."
        )
    given = launcher.get("num_processes")
    if given is not None:
        if not given.isdigit() or int(given) < 1:
            raise InputError(f"num_processes is {given!r}; give a number of processes, 1 or more.")
        return int(given)
    import torch

    return max(torch.cuda.device_count(), 1)


def launch(launcher: dict[str, str], recipe_argv: Sequence[str], num_processes: int) -> int:
    """Runs train.py under `accelerate launch`; signals are passed on, and a user's mistake keeps its exit code 2."""
    import torch

    command = [sys.executable, "-m", "accelerate.commands.launch"]
    if "config_file" in launcher:
        command += ["--config_file", launcher["config_file"]]
    else:
        # Without a GPU only --multi_gpu starts more than one process; --use_cpu then puts them on gloo.
        command += ["--multi_gpu", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    if "num_processes" in launcher or "config_file" not in launcher:
        command += ["--num_processes", str(num_processes)]
    token, recipe_argv = take_token(recipe_argv)
    command += [str(Path(__file__).with_name("train.py")), *recipe_argv]
    if not torch.cuda.is_available() and "config_file" not in launcher:
        command += ["--use_cpu", "true"]
    process = subprocess.Popen(command, env=os.environ | ({"HF_TOKEN": token} if token else {}))
    previous = {
        number: signal.signal(number, lambda received, frame: process.send_signal(received))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        return process.wait()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)

"""`hfseg train`: one process runs right here; several are started by accelerate, after the recipe was checked."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hfseg.errors import InputError

if TYPE_CHECKING:
    from hfseg.topology import Topology

# Options of `accelerate launch` that are taken here; every other --key belongs to the recipe.
LAUNCHER_OPTIONS = ("num_processes", "config_file")


def main(argv: Sequence[str] | None = None) -> int:
    argv = list(sys.argv[1:] if argv is None else argv)
    launcher, recipe_argv = split_launcher_options(argv)
    if not recipe_argv or recipe_argv[0].startswith("--") and "--help" not in recipe_argv:
        raise InputError("Which recipe? Give one first: hfseg train recipes/segformer_pets.json [--key value ...].")
    topology = plan_launch(launcher)
    import hfseg.train

    if topology.num_processes == 1 and "config_file" not in launcher:
        return hfseg.train.main(recipe_argv)
    hfseg.train.check(recipe_argv)
    return launch(topology, recipe_argv)


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


def plan_launch(launcher: dict[str, str]) -> "Topology":
    """What these options start; one process a CUDA device, or one, where they say nothing."""
    given = launcher.get("num_processes")
    if given is not None and (not given.isdigit() or int(given) < 1):
        raise InputError(f"num_processes is {given!r}; give a number of processes, 1 or more.")
    from hfseg.topology import plan_topology

    return plan_topology(None if given is None else int(given), launcher.get("config_file"))


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


def launch(topology: "Topology", recipe_argv: Sequence[str]) -> int:
    """Runs train.py under `accelerate launch`; signals are passed on, and a user's mistake keeps its exit code 2."""
    token, recipe_argv = take_token(recipe_argv)
    command = [sys.executable, "-m", "accelerate.commands.launch", *topology.launcher]
    command += [str(Path(__file__).with_name("train.py")), *recipe_argv, *topology.script]
    environment = os.environ | ({"HF_TOKEN": token} if token else {})
    # A group of its own: of one process, accelerate passes no signal on, and would leave it behind.
    process = subprocess.Popen(command, env=environment, start_new_session=True)  # noqa: S603  our own command, no shell
    previous = {
        number: signal.signal(number, lambda received, frame: os.killpg(process.pid, received))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        return process.wait()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)

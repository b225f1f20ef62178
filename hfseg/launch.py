"""`hfseg train`: one process runs right here; several are started by accelerate, after the recipe was checked."""

import gc
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hfseg.errors import EXIT_CODE_FILE, InputError
from hfseg.workers import die_with_parent

if TYPE_CHECKING:
    from hfseg.topology import Topology

# Options of `accelerate launch` that are taken here; every other --key belongs to the recipe.
LAUNCHER_OPTIONS = {
    "num_processes": "Number of processes, one a GPU; unset: one for each GPU, or one.",
    "config_file": "A file of accelerate, as those in recipes/accelerate.",
    "machine_rank": "Which of several machines this is, from 0.",
    "main_process_ip": "Address of machine 0.",
    "main_process_port": "A free port there.",
}


def main(argv: Sequence[str] | None = None) -> int:
    argv = list(sys.argv[1:] if argv is None else argv)
    launcher, recipe_argv = split_launcher_options(argv)
    if not recipe_argv or recipe_argv[0].startswith("--") and "--help" not in recipe_argv:
        raise InputError("Which recipe? Give one first: hfseg train recipes/segformer_pets.json [--key value ...].")
    if {"-h", "--help"} & set(recipe_argv):
        print("\n".join(f"  --{name:28} {text}" for name, text in LAUNCHER_OPTIONS.items()))
    topology = plan_launch(launcher)
    gc.disable()  # as in hfseg.cli
    import hfseg.train

    gc.enable()
    if topology.num_processes == 1 and "config_file" not in launcher:
        return hfseg.train.main(recipe_argv)
    if launcher.get("machine_rank", "0") == "0":  # the first machine tells of mistakes
        hfseg.train.check(recipe_argv)
    return launch(topology, recipe_argv)


def split_launcher_options(argv: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Takes the options of `LAUNCHER_OPTIONS` out of a command line."""
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

    machines = {name: value for name, value in launcher.items() if name in list(LAUNCHER_OPTIONS)[2:]}
    return plan_topology(None if given is None else int(given), launcher.get("config_file"), machines)


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
    command = [sys.executable, "-m", "hfseg.elastic", *topology.launcher]
    command += [str(Path(__file__).with_name("train.py")), *recipe_argv, *topology.script]
    environment = os.environ | ({"HF_TOKEN": token} if token else {})
    with tempfile.TemporaryDirectory() as folder:
        code_file = Path(folder) / "exit_code"
        environment[EXIT_CODE_FILE] = str(code_file)
        # A group of its own: the trainers get each signal once, from here. On Linux it ends when this process does.
        process = subprocess.Popen(  # noqa: S603  our own command, no shell
            command, env=environment, start_new_session=True, preexec_fn=die_with_parent(os.getpid())
        )
        previous = {
            number: signal.signal(number, lambda received, frame: pass_on(process.pid, received))
            for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            code = process.wait()
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
        if code_file.is_file() and code_file.stat().st_size:
            return int(code_file.read_text(encoding="utf-8"))
    return 128 - code if code < 0 else code


def pass_on(launcher: int, number: int) -> None:
    """Sends a signal to the trainers, which finish their step; accelerate would end them, and with a traceback."""
    import psutil

    try:
        children = psutil.Process(launcher).children()
        trainers = [child.pid for child in children if any(part.endswith("train.py") for part in child.cmdline())]
        for pid in trainers:
            os.kill(pid, number)
        if not trainers:
            os.killpg(launcher, number)
    except (psutil.Error, ProcessLookupError):
        return  # it has just ended

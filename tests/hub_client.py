"""Commands and scripts run against the loopback Hub, each as a process of its own with a cache of its own."""

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import SegformerConfig

from tests.loopback_hub import LFS_SUFFIXES, LoopbackHub, Repo, regular_file

ROOT = Path(__file__).parents[1]
TOKEN = "hf_user"
# The same back-off in milliseconds; one test waits for real.
QUICK = "import sys, hfseg.hub; hfseg.hub.WAITS = (0.05, 0.1, 0.2, 0.4, 0.8); "
COMMAND = "from hfseg.cli import main; sys.exit(main(sys.argv[1:]))"
XET = ("0", "1")  # HF_HUB_DISABLE_XET


@dataclass
class Child:
    """A process, and where its output goes."""

    process: subprocess.Popen[bytes]
    log: Path

    def wait(self, meanwhile: Callable[[], None] | None = None, timeout: float = 900) -> str:
        """Waits for the end; `meanwhile` is called a hundred times a second. Returns stdout and stderr."""
        end = time.monotonic() + timeout
        while self.process.poll() is None:
            if meanwhile is not None:
                meanwhile()
            if time.monotonic() > end:
                self.process.kill()
                raise AssertionError(f"still running after {timeout} s:\n{self.log.read_text()[-3000:]}")
            time.sleep(0.01)
        return self.log.read_text(encoding="utf-8", errors="replace")


def environment(hub: LoopbackHub, home: Path, disable_xet: str = "1", token: str | None = TOKEN) -> dict[str, str]:
    settings = {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": disable_xet, "OMP_NUM_THREADS": "1"}
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING_FACE"))}
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return kept | settings | {"PYTHONPATH": path} | ({} if token is None else {"HF_TOKEN": token})


def start(code: str, words: Sequence[object], folder: Path, **settings: Any) -> Child:
    """Starts `python -c code words...` with its output in folder/log.txt; settings as for `environment`."""
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / f"log_{len(list(folder.glob('log_*')))}.txt"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-c", code, *map(str, words)],
            cwd=folder,
            env=environment(home=folder / "home", **settings),
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    return Child(process, log)


def hfseg(*words: object, folder: Path, waits: str = QUICK, **settings: Any) -> Child:
    return start((waits or "import sys; ") + COMMAND, words, folder, **settings)


def recipe(folder: Path, **changes: Any) -> Path:
    """A recipe of four epochs on drawn images whose validation mIoU rises each time, on one thread."""
    folder.mkdir(parents=True, exist_ok=True)
    tiny = dict(depths=[1] * 4, hidden_sizes=[16, 32, 48, 64], num_attention_heads=[1, 1, 2, 2], decoder_hidden_size=32)
    SegformerConfig(**tiny, num_labels=3, drop_path_rate=0.0, classifier_dropout_prob=0.0).save_pretrained(
        folder / "tiny"
    )
    settings = dict(
        **dict(dataset="synthetic", num_images=128, image_size=32, model=str(folder / "tiny"), weights="scratch"),
        **dict(num_train_epochs=4, per_device_train_batch_size=8, learning_rate=6e-3, lr_scheduler_type="cosine"),
        **dict(class_weights=["1", "2", "2"], horizontal_flip=0.5, weight_decay=0.01, seed=1, use_cpu=True),
    )
    path = folder / "recipe.json"
    path.write_text(json.dumps(settings | changes))
    return path


def files_on_hub(hub: LoopbackHub, repo_id: str, revision: str = "main") -> dict[str, bytes]:
    files = hub.repos["model", repo_id].at(revision)[1]
    return {
        name: file["data"] if "data" in file else hub.lfs(file["lfs"]).read_bytes()
        for name, file in files.items()
        if name != ".gitattributes"
    }


def fill(hub: LoopbackHub, repo_id: str, folder: Path) -> Repo:
    """Puts a folder's files into a repo without any client."""
    repo = hub.repos["model", repo_id] = Repo("model", repo_id)
    files = dict(repo.at("main")[1])
    for name, data in files_in(folder).items():
        if name.endswith(LFS_SUFFIXES):
            oid = hashlib.sha256(data).hexdigest()
            hub.lfs(oid).write_bytes(data)
            files[name] = hub.large_file(oid)
        else:
            files[name] = regular_file(data)
    repo.write("main", files, "filled")
    return repo


def files_in(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def commits(hub: LoopbackHub, repo_id: str, branch: str = "main") -> list[dict[str, Any]]:
    """Of a branch, the oldest first, without the one that made the repo."""
    repo = hub.repos["model", repo_id]
    line = [repo.commits[repo.branches[branch]]]
    while line[-1]["parents"]:
        line.append(repo.commits[line[-1]["parents"][0]])
    return line[-2::-1]

"""Pushes a run's best model to the Hub: `hfseg push RUN_DIR REPO_ID [--hub_private_repo true]`."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hfseg.args import option, parse
from hfseg.bundle import add_files, recover_bundle, refuse_pickles
from hfseg.card import check_card, name_model
from hfseg.errors import InputError
from hfseg.hub import HubRepo, PushError, describe_best
from hfseg.logs import show_errors, start_log


@dataclass
class PushArguments:
    """How a model is pushed."""

    hub_private_repo: bool | None = option("Make the repo a private one; a public one is then refused.")
    hub_token: str | None = option("Token for the Hub; unset: that of `hf auth login` or HF_TOKEN. Never saved.")
    message: str | None = option("Of the commit; unset: epoch, step and validation mIoU.")


def main(argv: Sequence[str] | None = None) -> int:
    argv = list(sys.argv[1:] if argv is None else argv)
    words = [token for token in argv[:2] if not token.startswith("--")]
    args, _ = parse(argv[len(words) :], (PushArguments,))
    if len(words) != 2:
        raise InputError("Give a run's folder and a repo: hfseg push runs/segformer_pets user/name.")
    start_log()
    folder = find_bundle(Path(words[0]))
    check_files(folder)
    repo = HubRepo(words[1], token=args.hub_token, private=args.hub_private_repo)
    repo.check()
    card = folder / "README.md"
    text = name_model(card.read_text(encoding="utf-8"), repo.repo_id)
    if text != card.read_text(encoding="utf-8"):
        add_files(folder, {"README.md": text.encode()})
    try:
        commit = repo.push(folder, args.message or describe_best(folder))
    except PushError as error:
        print(f"hfseg: error: {folder} was not pushed: {error}", file=sys.stderr)
        return 1
    print(f"on the Hub   {repo.url} (commit {commit[:8]}, read back)")
    return 0


def find_bundle(folder: Path) -> Path:
    """The bundle in a run's folder, or the folder itself where it is one."""
    if (folder / "config.json").is_file():
        return folder
    if folder.is_dir():
        recover_bundle(folder / "best")
    if not (folder / "best" / "config.json").is_file():
        raise InputError(f"{folder} holds no model to push: give a run's folder, with best/ in it, or a bundle.")
    return folder / "best"


def check_files(folder: Path) -> None:
    """What is about to be published must be a whole bundle, with a card that can be read.

    Raises:
        InputError: no safetensors, no card, or one whose metadata are broken.
    """
    refuse_pickles(folder)
    for name in ("model.safetensors", "preprocessor_config.json", "README.md"):
        if not (folder / name).is_file() and not (name.endswith("safetensors") and [*folder.glob("*.safetensors")]):
            raise InputError(f"{folder} has no {name}, so that nobody could use it: give a folder that hfseg wrote.")
    check_card((folder / "README.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    sys.exit(show_errors(main))

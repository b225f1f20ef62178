"""A model repo on the Hub: checked before training, pushed to without doubled or lost commits, read back."""

import json
import logging
import shutil
import time
from fnmatch import fnmatch
from pathlib import Path

from huggingface_hub import (
    CommitOperation,
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    constants,
    get_session,
    get_token,
    hf_hub_download,
    snapshot_download,
)
from huggingface_hub.errors import RevisionNotFoundError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import validate_repo_id
from huggingface_hub.utils.sha import git_hash, sha_fileobj

from hfseg.bundle import read_metrics
from hfseg.checkpoints import find_checkpoint, step_of
from hfseg.errors import InputError
from hfseg.hub_errors import describe_hub_error, is_transient, seconds_to_wait

logger = logging.getLogger(__name__)

WAITS = (1.0, 2.0, 4.0, 8.0, 16.0)  # seconds before each further try
TIMEOUT = 60.0  # seconds without a byte until a connection counts as cut; the client itself would wait for ever
CHECK_TIMEOUT = 10.0
CHECKPOINT_BRANCH = "checkpoint"
# What an older push may have left that must not stay beside newer weights. Nothing else in the repo is touched.
STALE = (
    "model*.safetensors",
    "model.safetensors.index.json",
    "pytorch_model*.bin*",
    "test_metrics.json",
    "rng_state_*.pth",
)


class PushError(Exception):
    """A push that failed for good; the message is one line for the user."""


class ReadBackError(Exception):
    """The Hub holds other bytes than were sent."""


class HubRepo:
    """A model repo.

    Args:
        repo_id: user/name, or a name alone in the namespace of the token.
        token: unset: that of the usual login, or HF_TOKEN.
        private: of a repo that has to be made; a public one is then refused.
    """

    def __init__(self, repo_id: str, *, token: str | None = None, private: bool | None = None) -> None:
        self.repo_id, self.private = repo_id, private
        self._token = token
        self._open = False
        self.api = HfApi(token=token, library_name="hfseg")

    @property
    def full_name(self) -> str | None:
        """user/name; None as long as only the Hub could tell the user, and it did not answer."""
        return self.repo_id if "/" in self.repo_id else None

    @property
    def url(self) -> str:
        return f"{constants.ENDPOINT}/{self.repo_id}"

    def check(self) -> None:
        """Makes the repo if it is not there, and asks whether it may be written to.

        A Hub that can't be reached is a warning: every push tries again.

        Raises:
            InputError: no token, a wrong one, a name that can't be, no right to write, or a public repo where a
                private one was asked for.
        """
        try:
            validate_repo_id(self.repo_id)
            token = self._token or get_token()
            if not token:
                raise InputError(
                    f"push_to_hub: there is no token to push to {self.repo_id} with: log in with `hf auth login`, set "
                    "HF_TOKEN, or give --hub_token."
                )
            if not (token.isascii() and token.isprintable() and " " not in token):
                raise InputError("push_to_hub: the token holds characters that no token has; copy it anew.")
            get_session().timeout = CHECK_TIMEOUT
            self._make()
        except InputError:
            raise
        except Exception as error:
            reason = describe_hub_error(error, self.repo_id)
            if not is_transient(error):
                raise InputError(f"push_to_hub: {reason or error}") from error
            logger.warning(f"{reason or error} Training goes on, and each push tries again.")

    def _make(self) -> None:
        """Creates the repo, or sees that it is there, writable, and as private as asked for."""
        if self._open:
            return
        self.repo_id = self.api.create_repo(self.repo_id, private=self.private, exist_ok=True).repo_id
        if self.private and not self.api.model_info(self.repo_id).private:
            raise InputError(
                f"hub_private_repo is set, but {self.repo_id} is public: make it private in its settings on the Hub, "
                "or give another hub_model_id."
            )
        # Asks where a file would go, which only those with write access may; sends nothing.
        self.api.preupload_lfs_files(self.repo_id, [CommitOperationAdd("README.md", b"?")])
        self._open = True

    def push(self, folder: Path, message: str, branch: str = "main") -> str:
        """Brings a branch to hold the files of a folder, by one commit at most, and reads it back.

        Before each try the branch is compared with the folder: a commit that was made although its answer was lost is
        seen, and not made again. The commit names its parent, so that one still under way can't be doubled either.

        Args:
            folder: its files; they must not change meanwhile.
            message: of the commit.
            branch: made where it is missing.

        Returns:
            The commit on the Hub that holds the files.

        Raises:
            PushError: refused, or not to be reached in all tries.
        """
        refusals = 0
        for wait in (*WAITS, None):
            try:
                get_session().timeout = TIMEOUT
                return self._push_once(folder, message, branch)
            except Exception as error:  # reported by PushError
                refusals += isinstance(error, ReadBackError) or not is_transient(error)
                if wait is None or refusals > 1:
                    raise PushError(describe_hub_error(error, self.repo_id) or _one_line(error)) from error
                wait = WAITS[0] if refusals else max(wait, seconds_to_wait(error))
                logger.debug(f"push to {self.repo_id}: {_one_line(error)}; next try in {wait:g} s")
                time.sleep(wait)
        raise AssertionError("the last try returns or raises")

    def _push_once(self, folder: Path, message: str, branch: str) -> str:
        self._make()
        head = self._head(branch)
        changed, stale = self._compare(folder, head)
        if not changed and not stale:
            return head
        operations: list[CommitOperation] = [CommitOperationAdd(name, folder / name) for name in changed]
        operations += [CommitOperationDelete(name) for name in stale]
        commit = self.api.create_commit(
            self.repo_id, operations, commit_message=message, revision=branch, parent_commit=head
        )
        if differing := self._compare(folder, commit.oid)[0]:
            raise ReadBackError(f"{', '.join(differing)} came out other than sent")
        return commit.oid

    def _head(self, branch: str) -> str:
        try:
            return str(self.api.model_info(self.repo_id, revision=branch).sha)
        except RevisionNotFoundError:
            self.api.create_branch(self.repo_id, branch=branch, exist_ok=True)
            return str(self.api.model_info(self.repo_id, revision=branch).sha)

    def _compare(self, folder: Path, revision: str) -> tuple[list[str], list[str]]:
        """Files of the folder that the revision lacks or holds otherwise, by their hashes; and stale ones there."""
        remote = {
            entry.path: entry
            for entry in self.api.list_repo_tree(self.repo_id, recursive=True, revision=revision)
            if isinstance(entry, RepoFile)
        }
        local = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]
        changed = [name for name in local if name not in remote or not _is_same(folder / name, remote[name])]
        stale = [name for name in remote if name not in local and any(fnmatch(name, pattern) for pattern in STALE)]
        return changed, stale

    # ---- back from the Hub ----
    def fetch_checkpoint(self, output_dir: Path) -> str | None:
        """Brings the newest checkpoint of the run, and its best bundle, into `output_dir`, each whole or not at all.

        Returns:
            The checkpoint's folder: the one on the Hub, or one of `output_dir` that is no older; None where there is
            none anywhere.

        Raises:
            InputError: the Hub can't be asked. Training afresh would replace what it holds.
        """
        here = find_checkpoint(output_dir, "auto")
        try:
            get_session().timeout = TIMEOUT
            commit = str(self.api.model_info(self.repo_id, revision=CHECKPOINT_BRANCH).sha)
            state = hf_hub_download(self.repo_id, "trainer_state.json", revision=commit, token=self._token)
            step = int(json.loads(Path(state).read_text(encoding="utf-8"))["global_step"])
            if here is not None and step_of(Path(here)) >= step:
                return here
            if self.api.file_exists(self.repo_id, "metrics.json"):
                self._download(output_dir / "best", "main")
            self._download(output_dir / f"checkpoint-{step}", commit)
        except RevisionNotFoundError:
            logger.info(f"{self.repo_id} holds no checkpoint: training starts from the beginning")
            return here
        except Exception as error:
            reason = describe_hub_error(error, self.repo_id) or _one_line(error)
            raise InputError(f"resume_from_hub: {reason}") from error
        logger.info(f"training goes on from step {step}, as {self.repo_id} holds it")
        return str(output_dir / f"checkpoint-{step}")

    def _download(self, folder: Path, revision: str) -> None:
        new = folder.with_name(f".{folder.name}.hub")
        shutil.rmtree(new, ignore_errors=True)
        snapshot_download(self.repo_id, revision=revision, local_dir=new, token=self._token)
        shutil.rmtree(new / ".cache", ignore_errors=True)  # the client's notes on the download
        (new / ".gitattributes").unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        new.rename(folder)


def describe_best(folder: Path) -> str:
    """The commit message of a bundle: epoch, step and validation mIoU."""
    metrics = read_metrics(folder)
    if not {"epoch", "step", "mean_iou"} <= set(metrics):
        return "A model pushed by hfseg"
    return f"Epoch {metrics['epoch']:g}, step {metrics['step']}: validation mIoU {metrics['mean_iou']:.4f}"


def _is_same(path: Path, remote: RepoFile) -> bool:
    """Whether a file is the Hub's, by the SHA-256 of large files and git's SHA-1 of the others."""
    size = path.stat().st_size
    if size != remote.size:
        return False
    if remote.lfs is not None:
        with path.open("rb") as file:
            return sha_fileobj(file).hex() == remote.lfs.sha256
    return git_hash(path.read_bytes()) == remote.blob_id


def _one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())

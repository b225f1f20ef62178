"""The loopback Hub answers the genuine client as the Hub does, with Xet and without."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.loopback_hub import LoopbackHub

# In a process of its own: the client reads its settings when it is imported.
CLIENT = """
import sys
from pathlib import Path
from huggingface_hub import HfApi, errors, snapshot_download

folder, cache = Path(sys.argv[1]), sys.argv[2]
api = HfApi()
assert api.whoami()["name"] == "user"
api.create_repo("user/m", private=True)
api.upload_folder(repo_id="user/m", folder_path=folder)
api.create_branch("user/m", branch="old")
api.upload_file(repo_id="user/m", path_or_fileobj=b"second", path_in_repo="note.txt", commit_message="second")
assert [c.title for c in api.list_repo_commits("user/m")][0] == "second"
assert set(api.list_repo_files("user/m")) == {".gitattributes", "note.txt", "sub/large.bin"}
for revision, note in (("main", b"second"), ("old", b"first")):
    got = Path(snapshot_download("user/m", revision=revision, cache_dir=cache))
    assert (got / "note.txt").read_bytes() == note, revision
    assert (got / "sub/large.bin").read_bytes() == (folder / "sub/large.bin").read_bytes(), revision
for refused in (dict(repo_id="user/m", token="hf_other"), dict(repo_id="user/none")):
    try:
        api.model_info(**refused)
    except errors.RepositoryNotFoundError:
        continue
    raise AssertionError(refused)
"""


@pytest.mark.parametrize("disable_xet", ["0", "1"])
def test_client_writes_and_reads(tmp_path: Path, disable_xet: str) -> None:
    hub = LoopbackHub(tmp_path / "hub").start()
    large = tmp_path / "folder" / "sub" / "large.bin"
    large.parent.mkdir(parents=True)
    large.write_bytes(os.urandom(300_000))
    (tmp_path / "folder" / "note.txt").write_bytes(b"first")
    settings = {"HF_ENDPOINT": hub.url, "HF_TOKEN": "hf_user", "HF_HOME": str(tmp_path / "home")}
    environment = os.environ | settings | {"HF_HUB_DISABLE_XET": disable_xet, "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    command = [sys.executable, "-c", CLIENT, str(tmp_path / "folder"), str(tmp_path / "cache")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    hub.stop()
    assert done.returncode == 0, done.stderr[-3000:]
    repo = hub.repos["model", "user/m"]
    assert ("xet" in repo.at("main")[1]["sub/large.bin"]) == (disable_xet == "0")
    assert not [line for line in hub.log if line["status"] >= 500]

"""Where the real test images lie, and where caches go."""

import os
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import settings

# The same examples in each run, however slow the machine: a find is added as a case of its own.
settings.register_profile("hfseg", deadline=None, derandomize=True)
settings.load_profile("hfseg")

# Before `datasets` is imported, which reads it once; processes that tests start get it too.
_caches = TemporaryDirectory(prefix="hfseg_test_caches_", ignore_cleanup_errors=True)
os.environ["HF_DATASETS_CACHE"] = _caches.name


def _test_data(name: str) -> Path:
    root = os.environ.get("HFSEG_TEST_DATA")
    if not root:
        pytest.skip("HFSEG_TEST_DATA is not set: no real images to test with")
    folder = Path(root).resolve() / name
    assert folder.is_dir(), f"HFSEG_TEST_DATA is set, but holds no {name}/"
    return folder


@pytest.fixture(scope="session")
def pets_dir() -> Path:
    """Oxford-IIIT Pet, 600 pairs in the official layout."""
    return _test_data("pets")


@pytest.fixture(scope="session")
def camvid_dir() -> Path:
    """CamVid, 367 + 101 pairs in the folder layout."""
    return _test_data("camvid")

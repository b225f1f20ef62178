"""Where the real test images lie, where caches go, and what one test leaves for the next."""

import logging
import os
import sys
from collections.abc import Iterator
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


# Modules that take minutes, first: one that starts last is waited for by all other processes.
LONGEST = ("test_readme", "test_study", "test_pushes", "test_contract", "test_faults", "test_two_nodes", "test_hub")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    rank = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(LONGEST)))


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


@pytest.fixture(autouse=True)
def _open_log_streams() -> Iterator[None]:
    """Handlers made while a test's stderr was captured would write to a closed file in the next test."""
    yield
    for name in ("", "transformers", "datasets", "huggingface_hub", "accelerate"):
        for handler in logging.getLogger(name or None).handlers:
            if isinstance(handler, logging.StreamHandler) and getattr(handler.stream, "closed", False):
                vars(handler).pop("flush", None)  # transformers keeps that of the first stream
                handler.stream = sys.stderr  # setStream would flush the closed one

"""hfseg: fine-tune semantic segmentation models the Hugging Face way."""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Labels", "SegMetric", "SegTrainer", "Segmenter", "__version__"]

if TYPE_CHECKING:
    from hfseg.labels import Labels
    from hfseg.metrics import SegMetric
    from hfseg.segmenter import Segmenter
    from hfseg.trainer import SegTrainer

# Loaded at first use (PEP 562): `hfseg --help` must not cost an import of torch.
_HOMES = {
    "Labels": "hfseg.labels",
    "SegMetric": "hfseg.metrics",
    "SegTrainer": "hfseg.trainer",
    "Segmenter": "hfseg.segmenter",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'hfseg' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)

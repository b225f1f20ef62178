"""What a card says, and that no text from users changes what it is."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import ModelCard
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from hfseg.card import RunRecord, build_card, check_card, name_model
from hfseg.card_text import one_line
from hfseg.errors import InputError
from hfseg.provenance import BaseModel, DataFacts, describe_base

NASTY = [
    "a|b",
    "]](javascript:alert(1))",
    "<script>alert(1)</script>",
    "\n---\nlicense: mit\n---\n# owned",
    "{{ 7 * 7 }} {% raw %}",
    "`" * 7,
    "https://evil.example/x www.evil.example a@b.c",
    "- [ ] task",
    "&lt;b&gt; ![x](y) $$x$$ ~~s~~",
    "'\": #&*!|>%@`",
    "\u202egnp.exe\u2028\x85\x00\ud800",
    "yes",
    "1. one",
    "\\",
]
TEXT = st.one_of(st.sampled_from(NASTY), st.text(st.characters(), max_size=30))


def model_of(names: Sequence[str], model_type: str = "segformer") -> Any:
    config = SimpleNamespace(num_labels=len(names), id2label=dict(enumerate(names)), model_type=model_type)
    return SimpleNamespace(config=config)


def metrics_of(names: Sequence[str]) -> dict[str, Any]:
    values = {"step": 4, "epoch": 2.0, "split": "validation", "resolution": "input"}
    values |= {"mean_iou": 0.5, "mean_accuracy": 0.6, "pixel_accuracy": 0.7}
    return values | {f"iou_{name}": 0.25 for name in names}


def test_of(names: Sequence[str], resolution: str) -> dict[str, Any]:
    rows = {name: {"iou": 0.125, "accuracy": 0.5, "pixels": 3} for name in names}
    scores = {"mean_iou": 0.4, "mean_accuracy": None, "pixel_accuracy": 0.6}
    return {"split": "test", "resolution": resolution, "num_images": 9, "per_class": rows, **scores}


test_of.__test__ = False  # type: ignore[attr-defined]
LOG = [
    {"loss": 1.5, "train_mean_iou": 0.1, "epoch": 1.0, "step": 2},
    {"eval_loss": 1.4, "eval_mean_iou": 0.2, "epoch": 1.0, "step": 2},
    {"loss": 1.0, "train_mean_iou": 0.2, "epoch": 2.0, "step": 4},
    {"eval_loss": 1.1, "eval_mean_iou": 0.5, "epoch": 2.0, "step": 4},
]


def record_of(names: Sequence[str], text: str = "photos", **changes: Any) -> RunRecord:
    pixels = {"train": [1] * len(names), "validation": [3] * len(names)}
    data = DataFacts(text, text, None, text, {"train": 7, "validation": 5, "test": 9}, pixels)
    settings: dict[str, Any] = dict(
        options={"model": text, "data_dir": text, "learning_rate": 1e-3, "classes": [text]},
        data=data,
        base=BaseModel(text, None, None),
        image_size=(64, 96),
        hardware=text,
        seconds=12.0,
        tests=[test_of(names, "input"), test_of(names, "native")],
    )
    return RunRecord(**(settings | changes))


@settings(deadline=None, max_examples=150)
@given(names=st.lists(TEXT, min_size=1, max_size=4, unique=True), text=TEXT)
@example(names=NASTY, text=NASTY[3])
@example(names=["a"], text="")
def test_text_from_users_changes_neither_yaml_nor_markdown(names: list[str], text: str) -> None:
    card = build_card(model_of(names), record_of(names, text), metrics_of(names), LOG, ["curves.png"])
    card = card.encode("utf-8").decode("utf-8")
    check_card(card)
    read = ModelCard(card)
    assert read.data.pipeline_tag == "image-segmentation" and read.data.library_name == "transformers"
    assert read.data.license is None and read.data.tags[-1] == "hfseg"
    assert len(read.data.eval_results) == 3 + 2 + 2  # a score that is nowhere defined is left out
    many = ["x"] * len(names)
    plain = build_card(model_of(many), record_of(many), metrics_of(many), LOG, ["curves.png"])
    assert outline(read.text) == outline(ModelCard(plain).text)
    cells = first_cells(read.text)
    assert all(name in cells for name in (one_line(n) or "-" for n in names)), cells


def outline(text: str) -> list[str]:
    """The blocks of a page and its links, pictures and HTML; not its words, nor its code spans."""
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    kinds = []
    for token in tokens:
        kinds.append(token.type)
        kinds += [t.type for t in token.children or () if t.type in ("link_open", "image", "html_inline")]
    return kinds


def first_cells(text: str) -> list[str]:
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    return [
        "".join(child.content for child in tokens[i + 2].children or ())
        for i, token in enumerate(tokens)
        if token.type == "tr_open"
    ]


def test_the_card_tells_of_the_run() -> None:
    names = ["sky", "road"]
    base = describe_base("segformer-b0", "pretrained")
    data = DataFacts("user/data", "user/data", "user/data", "f" * 40, {"train": 7, "validation": 5}, {"train": [1, 3]})
    card = build_card(model_of(names), record_of(names, base=base, data=data), metrics_of(names), LOG, ["curves.png"])
    read = ModelCard(card)
    assert read.data.base_model == "nvidia/mit-b0" and read.data.license == "other"
    assert read.data.datasets == ["user/data"]
    first = read.data.eval_results[0]
    assert (first.dataset_type, first.dataset_revision, first.dataset_split) == ("user/data", "f" * 40, "validation")
    names_of_metrics = [(r.dataset_split, r.metric_type, r.metric_name, r.metric_value) for r in read.data.eval_results]
    assert ("validation", "mean_iou", "mean IoU (input size 64 x 96)", 0.5) in names_of_metrics
    assert ("test", "mean_iou", "mean IoU (native size)", 0.4) in names_of_metrics
    assert "| sky | 0.2500 | - | 0.1250 | 25.0 % | - | 50.0 % |" in read.text
    assert "| **2** | **4** | **1.0000** | **0.2000** | **1.1000** | **0.5000** |" in read.text
    assert "| 1 | 2 | 1.5000 | 0.1000 | 1.4000 | 0.2000 |" in read.text
    for words in ("7 train, 5 validation", "non-commercial", "learning_rate", "12 s", "Not evaluated", "64 x 96"):
        assert words in read.text, words


def test_without_a_test_split_the_card_says_so() -> None:
    card = build_card(model_of(["a"]), record_of(["a"], tests=[]), metrics_of(["a"]), LOG)
    assert "Not evaluated: images that had no part in choosing the weights" in card
    assert "Not evaluated: predictions at the images' own size" in card


def test_a_long_log_is_thinned_out_but_keeps_the_kept() -> None:
    log = [{"eval_loss": 1.0, "eval_mean_iou": 0.1, "epoch": i, "step": i} for i in range(1, 1000)]
    card = build_card(model_of(["a"]), record_of(["a"]), metrics_of(["a"]) | {"step": 502}, log)
    rows = [line for line in card.splitlines() if line.startswith(("| **502**", "| 1 |", "| 999 |"))]
    assert len(rows) == 3 and card.count("\n") < 250


def test_the_snippet_takes_another_name() -> None:
    card = build_card(model_of(["a"], "hfseg_timm"), record_of(["a"]), metrics_of(["a"]), LOG)
    assert 'model_id = "."' in card and "trust_remote_code=True" in card
    named = name_model(card, "user/m")
    assert 'model_id = "user/m"' in named and "trust_remote_code=True" in named and "hf_hub_download" in named
    assert name_model(named, "user/m") == named
    assert named.split("## Results")[1] == card.split("## Results")[1]


@pytest.mark.parametrize(
    "metadata",
    ["base_model: ../../etc", "base_model: [a/b, 'x y']", "datasets: ['a/../b']", "a: [", "- list", "model-index: [1]"],
)
def test_a_malicious_card_is_refused_with_a_reason(metadata: str) -> None:
    with pytest.raises(InputError, match="is no model card that the Hub can read: .+"):
        check_card(f"---\n{metadata}\n---\n# text\n")


@pytest.mark.parametrize(
    ("model", "weights", "expected"),
    [
        ("segformer-b0", "scratch", None),
        ("segformer-b2", "pretrained", ("nvidia/mit-b2", "other")),
        ("timm/resnet18", "pretrained", ("timm/resnet18.a1_in1k", "apache-2.0")),
        ("fcn_resnet50", "imagenet", (None, "bsd-3-clause")),
        ("segformer-b0", "tests/test_card.py", (None, None)),
    ],
)
def test_where_weights_come_from(model: str, weights: str, expected: tuple[str | None, str | None] | None) -> None:
    base = describe_base(model, weights)
    assert (base and (base.hub_id, base.license)) == expected
    assert base is None or base.name in base.sentence().replace("\\", "")


@pytest.mark.parametrize(("base_model", "hub_id"), [("nvidia/mit-b0", "nvidia/mit-b0"), ("../../etc", None)])
def test_the_licence_of_an_earlier_run_is_handed_on_whole(base_model: str, hub_id: str | None, tmp_path: Path) -> None:
    """`other` says nothing without its name and link."""
    card = f"---\nlicense: other\nlicense_name: a-b\nlicense_link: https://x.org\nbase_model: {base_model}\n---\n# m\n"
    (tmp_path / "README.md").write_text(card)
    base = describe_base("segformer-b0", str(tmp_path))
    assert base is not None and base.hub_id == hub_id
    assert (base.license, base.license_name, base.license_link) == ("other", "a-b", "https://x.org")

"""A SegFormer's head in the cheaper order is the same function."""

import copy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForSemanticSegmentation, SegformerConfig, SegformerForSemanticSegmentation
from transformers.models.segformer.modeling_segformer import SegformerDecodeHead

import hfseg.trainer
from hfseg.bundle import Bundle
from hfseg.data.transforms import build_processor
from hfseg.labels import Labels
from hfseg.models import build
from hfseg.models.segformer_head import ReorderedDecodeHead, reorder_decode_head
from hfseg.segmenter import Segmenter
from hfseg.trainer import SegTrainer

sys.path.insert(0, str(Path(__file__).parents[1]))
from test_trainer import arguments, batch_of, tiny_segformer

LABELS = Labels(["background", "boundary", "foreground"])


def pair(**settings: Any) -> tuple[Any, Any]:
    """The same network twice: as transformers has it, and reordered."""
    torch.manual_seed(0)
    config = SegformerConfig(
        depths=[1] * 4, hidden_sizes=[8, 16, 24, 16], num_attention_heads=[1, 2, 3, 4], decoder_hidden_size=16,
        num_labels=3, classifier_dropout_prob=0.0, hidden_dropout_prob=0.0, drop_path_rate=0.0, **settings,
    )  # fmt: skip
    plain: Any = SegformerForSemanticSegmentation(config)
    for parameter in plain.parameters():
        nn.init.normal_(parameter, std=0.3)  # biases too
    other = copy.deepcopy(plain)
    reorder_decode_head(other)
    assert type(plain.decode_head) is SegformerDecodeHead and type(other.decode_head) is ReorderedDecodeHead
    return plain, other


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-10), (torch.float32, 1e-3)])
@pytest.mark.parametrize("size", [(64, 64), (95, 66)])
@pytest.mark.parametrize("training", [True, False])
def test_logits_and_gradients_are_those_of_the_plain_order(
    dtype: torch.dtype, tolerance: float, size: tuple[int, int], training: bool
) -> None:
    plain, other = (model.to(dtype).train(training) for model in pair())
    pixels = torch.randn(3, 3, *size, dtype=dtype)
    one, two = plain(pixel_values=pixels).logits, other(pixel_values=pixels).logits
    assert one.shape == two.shape and two.std() > 0.1
    torch.testing.assert_close(two, one, rtol=tolerance, atol=tolerance)
    toward = torch.randn_like(one)
    (one * toward).sum().backward()
    (two * toward).sum().backward()
    compared = 0
    for (name, expected), got in zip(plain.named_parameters(), other.parameters()):
        largest = expected.grad.abs().max()
        assert (got.grad - expected.grad).abs().max() <= tolerance * max(largest, 1.0), name
        compared += largest > 0.1
    assert compared > 60
    for (name, expected), got in zip(plain.named_buffers(), other.buffers()):
        torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance, msg=name)


def test_training_equals_that_of_the_plain_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same seed gives the same curve within rounding, and a checkpoint that plain transformers reads."""
    rows, heads = [], []
    for name, reorder in (("plain", lambda model: None), ("fast", reorder_decode_head)):
        monkeypatch.setattr(hfseg.trainer, "reorder_decode_head", reorder)
        samples = batch_of(8)
        # AdamW would make steps of the learning rate of a gradient that is zero but for rounding: that of the biases
        # before BatchNorm.
        settings: dict[str, Any] = dict(optim="sgd", learning_rate=0.1, max_grad_norm=1.0, max_steps=6)
        settings |= dict(per_device_train_batch_size=4)
        trainer = SegTrainer(
            tiny_segformer(), arguments(tmp_path / name, **settings), train_dataset=samples, eval_dataset=samples
        )
        trainer.train()
        rows.append([row for row in trainer.state.log_history if "loss" in row] + [trainer.evaluate()])
        heads.append(type(trainer.model.decode_head))
    assert heads == [SegformerDecodeHead, ReorderedDecodeHead]
    for plain, fast in zip(*rows):
        for key in ("loss", "grad_norm", "train_mean_iou", "eval_loss", "eval_mean_iou"):
            if key in plain:
                assert fast[key] == pytest.approx(plain[key], rel=1e-4), key
    losses = [row["loss"] for row in rows[0][:-1]]
    assert len(losses) == 6 and losses[-1] < losses[0]
    trainer.save_model(str(tmp_path / "saved"))
    again = AutoModelForSemanticSegmentation.from_pretrained(tmp_path / "saved")
    assert type(again.decode_head) is SegformerDecodeHead
    assert all(torch.equal(tensor, trainer.model.state_dict()[key]) for key, tensor in again.state_dict().items())


def test_inference_takes_it_and_other_models_stay() -> None:
    model, processor = build("segformer-b0", LABELS), build_processor((32, 32))
    assert type(Segmenter(Bundle(model, processor, {}, {})).model.decode_head) is ReorderedDecodeHead
    other = build("timm/resnet18", LABELS, image_size=(32, 32))
    kinds = [type(module) for module in other.modules()]
    reorder_decode_head(other)
    assert [type(module) for module in other.modules()] == kinds


@pytest.mark.parametrize("name, share", [("segformer-b0", 0.4), ("segformer-b2", 0.4)])
def test_it_multiplies_less(name: str, share: float) -> None:
    model: Any = build(name, LABELS).eval()
    counts = []
    for _ in range(2):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(pixel_values=torch.zeros(1, 3, 256, 256))
        counts.append(counter.get_total_flops())
        reorder_decode_head(model)
    assert counts[1] < share * counts[0]


class Adapted(nn.Linear):
    """As adapters do it: more than the weight says."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input) + 1


@torch.no_grad()
def test_layers_that_are_more_than_their_weight_are_called() -> None:
    pixels = torch.randn(1, 3, 64, 64)
    plain, other = (model.eval() for model in pair())
    expected = plain(pixel_values=pixels).logits
    for model in (plain, other):
        model.decode_head.linear_projections[1].proj.__class__ = Adapted
    changed = plain(pixel_values=pixels).logits
    assert not torch.allclose(changed, expected) and torch.equal(other(pixel_values=pixels).logits, changed)

    _, hooked = pair()
    called: list[torch.Size] = []
    hooked.decode_head.linear_fuse.register_forward_hook(lambda module, inputs, output: called.append(output.shape))
    assert torch.equal(hooked.eval()(pixel_values=pixels).logits, expected) and len(called) == 1


@torch.no_grad()
def test_a_last_stage_of_sequences_is_reshaped() -> None:
    plain, other = (model.eval() for model in pair(reshape_last_stage=False))
    pixels = torch.randn(2, 3, 128, 128)  # transformers takes as many channels for as many pixels: 16 here are both
    assert torch.equal(other(pixel_values=pixels).logits, plain(pixel_values=pixels).logits)

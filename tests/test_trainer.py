"""SegTrainer against stock Trainer: each fact of the stock path is shown to fail there, and to hold here."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import SegformerConfig, SegformerForSemanticSegmentation, Trainer, TrainerCallback, TrainingArguments

from hfseg.args import SegTrainingArguments
from hfseg.checkpoints import reload_weights
from hfseg.data.transforms import build_processor
from hfseg.errors import InputError
from hfseg.labels import IGNORE_INDEX
from hfseg.models.encoder import freeze_encoder
from hfseg.trainer import SegTrainer

NAMES = ("background", "boundary", "foreground")


def tiny_segformer(seed: int = 0, **settings: Any) -> SegformerForSemanticSegmentation:
    """A SegFormer of 4 small stages, without dropout and stochastic depth."""
    torch.manual_seed(seed)
    quiet = dict(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, classifier_dropout_prob=0.0)
    quiet |= dict(drop_path_rate=0.0, initializer_range=0.3)  # logits far from 0, so that rounding would show
    config = SegformerConfig(
        depths=[1, 1, 1, 1],
        hidden_sizes=[8, 16, 16, 16],
        num_attention_heads=[1, 1, 2, 2],
        decoder_hidden_size=16,
        id2label=dict(enumerate(NAMES)),
        label2id={n: i for i, n in enumerate(NAMES)},
        **(quiet | settings),
    )
    return SegformerForSemanticSegmentation(config)


def batch_of(num: int, size: tuple[int, int] = (32, 32), seed: int = 0) -> list[dict[str, torch.Tensor]]:
    """Random samples whose masks ignore different numbers of pixels."""
    generator = torch.Generator().manual_seed(seed)
    samples = []
    for i in range(num):
        labels = torch.randint(0, 3, size, generator=generator)
        labels[: 3 * i] = IGNORE_INDEX
        samples.append({"pixel_values": torch.randn(3, *size, generator=generator), "labels": labels})
    return samples


def arguments(folder: Path, **settings: Any) -> SegTrainingArguments:
    defaults: dict[str, Any] = dict(
        output_dir=str(folder),
        per_device_train_batch_size=8,
        per_device_eval_batch_size=4,
        max_steps=1,
        learning_rate=0.0,
        weight_decay=0.0,
        max_grad_norm=0.0,
        lr_scheduler_type="constant",
        logging_strategy="steps",
        logging_steps=1,
        eval_strategy="no",
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
    )
    return SegTrainingArguments(**(defaults | settings))


class KeepGradients(TrainerCallback):
    def on_pre_optimizer_step(self, args, state, control, model, **kwargs) -> None:  # type: ignore[no-untyped-def]
        self.gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def norms_in_eval(model: nn.Module) -> nn.Module:
    """BatchNorm sees the micro-batch; here it uses its running statistics instead."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train = lambda mode=True, self=module: self  # type: ignore[method-assign]
            module.training = False
    return model


def train_one_step(trainer_class: type, folder: Path, batch: int, accumulation: int) -> tuple[float, dict]:
    keep = KeepGradients()
    model = norms_in_eval(tiny_segformer())
    args = arguments(folder, per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation)
    extra = {"data_collator": None} if trainer_class is Trainer else {"processing_class": build_processor((32, 32))}
    trainer = trainer_class(model=model, args=args, train_dataset=batch_of(8), callbacks=[keep], **extra)
    trainer.train()
    return trainer.state.log_history[0]["loss"], keep.gradients


def test_accumulation_changes_neither_loss_nor_gradient(tmp_path: Path) -> None:
    loss, gradients = train_one_step(SegTrainer, tmp_path, 8, 1)
    split_loss, split_gradients = train_one_step(SegTrainer, tmp_path, 2, 4)
    assert split_loss == pytest.approx(loss, rel=1e-5)
    assert max(g.abs().max() for g in gradients.values()) > 1e-3
    for name, gradient in gradients.items():
        torch.testing.assert_close(split_gradients[name], gradient, rtol=1e-5, atol=1e-6)


def test_stock_accumulation_multiplies_the_loss(tmp_path: Path) -> None:
    loss, _ = train_one_step(Trainer, tmp_path, 8, 1)
    split_loss, _ = train_one_step(Trainer, tmp_path, 2, 4)
    assert split_loss > 2 * loss


def changed(model: nn.Module, seed: int = 1) -> nn.Module:
    """The same architecture with other weights."""
    return tiny_segformer(seed)


def count_equal(one: nn.Module, other: nn.Module) -> int:
    other_state = other.state_dict()
    return sum(torch.equal(value, other_state[key]) for key, value in one.state_dict().items())


def distinct(model: nn.Module, seed: int) -> nn.Module:
    """Every tensor of the model gets values of its own, norms and counters included."""
    generator = torch.Generator().manual_seed(seed)
    for value in model.state_dict().values():
        value.copy_(torch.rand(value.shape, generator=generator) * 100 + seed)
    return model


@pytest.mark.parametrize("method", ["_load_best_model", "_load_from_checkpoint"])
def test_reload_restores_every_tensor(method: str, tmp_path: Path) -> None:
    saved = distinct(tiny_segformer(), 3)
    restored = {}
    for trainer_class in (Trainer, SegTrainer):
        args = arguments(tmp_path / "run")
        trainer = trainer_class(model=copy.deepcopy(saved), args=args)
        trainer.save_model(str(tmp_path / "checkpoint"), _internal_call=True)
        distinct(trainer.model, 4)
        assert count_equal(trainer.model, saved) == 0
        trainer.state.best_model_checkpoint = str(tmp_path / "checkpoint")
        getattr(trainer, method)(*([str(tmp_path / "checkpoint")] if method == "_load_from_checkpoint" else []))
        restored[trainer_class] = count_equal(trainer.model, saved)
    total = len(saved.state_dict())
    assert restored[SegTrainer] == total
    assert restored[Trainer] < total / 2, "stock Trainer reloads this model now: the workaround can go"


def test_a_checkpoint_that_lacks_a_tensor_stops_the_run(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    tiny_segformer().save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors.pop(next(iter(tensors)))
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match="missing_keys"):
        reload_weights(tiny_segformer(), tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"half")
    with pytest.raises(InputError, match="can't be read"):
        reload_weights(tiny_segformer(), tmp_path)


def test_a_batch_without_a_valid_pixel_gives_zero(tmp_path: Path) -> None:
    samples = batch_of(8)
    for sample in samples:
        sample["labels"] = torch.full_like(sample["labels"], IGNORE_INDEX)
    keep = KeepGradients()
    trainer = SegTrainer(tiny_segformer(), arguments(tmp_path), train_dataset=samples, callbacks=[keep])
    trainer.train()
    assert trainer.state.log_history[0]["loss"] == 0
    assert all(torch.count_nonzero(g) == 0 for g in keep.gradients.values())
    stock = Trainer(model=tiny_segformer(), args=arguments(tmp_path), train_dataset=samples)
    stock.train()
    assert np.isnan(stock.state.log_history[0]["loss"])


def test_frozen_norms_stay_still_through_training_steps(tmp_path: Path) -> None:
    from hfseg.labels import Labels
    from hfseg.models import build

    model = build("timm/resnet18", Labels(NAMES), weights="scratch", freeze="encoder", image_size=(32, 32))
    before = {k: v.clone() for k, v in model.encoder.state_dict().items()}
    args = arguments(tmp_path, max_steps=3, learning_rate=0.1)
    SegTrainer(model, args, train_dataset=batch_of(24)).train()
    assert len(before) > 100
    assert all(torch.equal(value, before[key]) for key, value in model.encoder.state_dict().items())
    thawed = build("timm/resnet18", Labels(NAMES), weights="scratch", image_size=(32, 32))
    thawed.encoder.requires_grad_(False)  # gradients off is not enough: stock train() moves the statistics
    before = {k: v.clone() for k, v in thawed.encoder.state_dict().items()}
    Trainer(model=thawed, args=args, train_dataset=batch_of(24)).train()
    assert not all(torch.equal(value, before[key]) for key, value in thawed.encoder.state_dict().items())


def native_samples() -> list[dict[str, torch.Tensor]]:
    """Seven images whose masks have sizes of their own."""
    samples = batch_of(7)
    generator = torch.Generator().manual_seed(1)
    for i, sample in enumerate(samples):
        sample["labels"] = torch.randint(0, 3, (30 + 5 * i, 50 - 3 * i), generator=generator)
        sample["labels"][:i] = IGNORE_INDEX
    return samples


def test_evaluation_sums_images_of_any_size(tmp_path: Path) -> None:
    samples = native_samples()
    model = tiny_segformer()
    trainer = SegTrainer(model, arguments(tmp_path), eval_dataset=samples)
    metrics = trainer.evaluate()
    matrix, loss, valid = np.zeros((3, 3), int), 0.0, 0
    with torch.no_grad():
        for sample in samples:
            labels = sample["labels"]
            logits = model.eval()(sample["pixel_values"][None]).logits
            logits = nn.functional.interpolate(logits, labels.shape, mode="bilinear", align_corners=False)
            keep = labels != IGNORE_INDEX
            np.add.at(matrix, (labels[keep].numpy(), logits.argmax(1)[0][keep].numpy()), 1)
            loss += nn.functional.cross_entropy(logits, labels[None], ignore_index=255, reduction="sum").item()
            valid += int(keep.sum())
    union = matrix.sum(0) + matrix.sum(1) - matrix.diagonal()
    assert trainer.eval_metric.matrix.tolist() == matrix.tolist()
    assert metrics["eval_mean_iou"] == pytest.approx((matrix.diagonal() / union).mean(), abs=1e-12)
    assert metrics["eval_loss"] == pytest.approx(loss / valid, rel=1e-6)
    assert {f"eval_iou_{name}" for name in NAMES} <= set(metrics)


def test_a_perfect_model_scores_exactly_one(tmp_path: Path) -> None:
    class Oracle(nn.Module):
        config = tiny_segformer().config

        def forward(self, pixel_values, labels=None):  # type: ignore[no-untyped-def]
            from transformers.modeling_outputs import SemanticSegmenterOutput

            truth = pixel_values[:, 0].long().clamp(0, 2)
            return SemanticSegmenterOutput(logits=nn.functional.one_hot(truth, 3).permute(0, 3, 1, 2).float() * 9)

    samples = batch_of(5)
    for sample in samples:
        sample["pixel_values"] = sample["labels"].float().expand(3, -1, -1).clone()
    trainer = SegTrainer(Oracle(), arguments(tmp_path), eval_dataset=samples)
    assert trainer.evaluate()["eval_mean_iou"] == 1.0


def test_train_miou_comes_from_the_training_batches(tmp_path: Path) -> None:
    samples = batch_of(8)
    model = norms_in_eval(tiny_segformer())
    trainer = SegTrainer(model, arguments(tmp_path), train_dataset=samples, eval_dataset=samples)
    trainer.train()
    logged = trainer.state.log_history[0]["train_mean_iou"]
    assert logged == pytest.approx(trainer.evaluate()["eval_mean_iou"], abs=1e-12)
    assert trainer.train_matrix.sum() == 0, "the matrix starts anew after each log"


def test_lr_gamma_steps_once_an_epoch(tmp_path: Path) -> None:
    settings = dict(max_steps=-1, num_train_epochs=4, per_device_train_batch_size=2, learning_rate=1e-3, lr_gamma=0.5)
    args = arguments(tmp_path, **settings, gradient_accumulation_steps=2)
    trainer = SegTrainer(tiny_segformer(), args, train_dataset=batch_of(10))
    trainer.train()
    rates = [row["learning_rate"] for row in trainer.state.log_history if "loss" in row]
    assert rates == pytest.approx([1e-3] * 3 + [5e-4] * 3 + [2.5e-4] * 3 + [1.25e-4] * 3)


@pytest.mark.parametrize("warmup", [0.05, 0.9, 1])
def test_a_run_may_end_with_its_warm_up(warmup: float, tmp_path: Path) -> None:
    settings = dict(max_steps=1, learning_rate=1e-3, lr_scheduler_type="polynomial", warmup_steps=warmup)
    trainer = SegTrainer(tiny_segformer(), arguments(tmp_path, **settings), train_dataset=batch_of(8))
    trainer.train()
    assert trainer.state.global_step == 1
    assert 0 < trainer.lr_scheduler.get_last_lr()[0] <= 1e-3


def test_amsgrad_reaches_the_optimizer(tmp_path: Path) -> None:
    trainer = SegTrainer(tiny_segformer(), arguments(tmp_path, amsgrad=True))
    assert all(group["amsgrad"] for group in trainer.create_optimizer().param_groups)
    assert isinstance(trainer.optimizer, torch.optim.AdamW)


def test_label_smoothing_and_class_weights_reach_the_loss(tmp_path: Path) -> None:
    samples, weights = batch_of(4), torch.tensor([0.2, 1.0, 3.0])
    model = tiny_segformer()
    args = arguments(tmp_path, label_smoothing_factor=0.1)
    logged = SegTrainer(model, args, eval_dataset=samples, class_weights=weights).evaluate()["eval_loss"]
    labels = torch.stack([s["labels"] for s in samples])
    with torch.no_grad():
        logits = model.eval()(torch.stack([s["pixel_values"] for s in samples])).logits
    logits = nn.functional.interpolate(logits, labels.shape[-2:], mode="bilinear", align_corners=False)
    total = nn.functional.cross_entropy(
        logits, labels, weights, ignore_index=255, label_smoothing=0.1, reduction="none"
    ).sum()
    assert logged == pytest.approx((total / (labels != 255).sum()).item(), rel=1e-5)


def test_uint8_batches_are_normalised_as_the_processor_does(tmp_path: Path) -> None:
    processor = build_processor((32, 32))
    images = [np.random.default_rng(i).integers(0, 256, (32, 32, 3), np.uint8) for i in range(4)]
    trainer = SegTrainer(tiny_segformer(), arguments(tmp_path), processing_class=processor)
    stacked = torch.stack([torch.from_numpy(image).permute(2, 0, 1) for image in images])
    fed = trainer._prepare_inputs({"pixel_values": stacked, "labels": torch.zeros(4, 32, 32)})["pixel_values"]
    assert torch.equal(fed, processor(images, return_tensors="pt")["pixel_values"])


def test_stock_trainer_drops_the_columns_that_set_transform_needs(pets_dir: Path, tmp_path: Path) -> None:
    from hfseg.data import load
    from hfseg.data.transforms import SegTransform, prepare

    dataset, labels = load("pets", data_dir=str(pets_dir))
    train_set = prepare(dataset["train"].select(range(8)), SegTransform(labels, build_processor((32, 32))))
    SegTrainer(
        tiny_segformer(), arguments(tmp_path), train_dataset=train_set, processing_class=build_processor((32, 32))
    ).train()
    stock = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, max_steps=1, report_to="none")
    with pytest.raises((ValueError, KeyError, IndexError)):
        Trainer(model=tiny_segformer(), args=stock, train_dataset=train_set).train()


def test_freezing_leaves_the_head_trainable() -> None:
    model = tiny_segformer()
    freeze_encoder(model)
    model.train()
    trainable = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert trainable and all(name.startswith("decode_head") for name in trainable)
    assert not model.segformer.training and model.decode_head.training

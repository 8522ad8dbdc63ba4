"""Evaluation against accuracies counted by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from paredown.training.evaluate import evaluate

CPU = torch.device("cpu")


def test_loss_and_accuracies_are_those_of_all_images_together() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(23, 7), torch.randint(7, (23,))
    batches = [
        (logits[part], labels[part]) for part in (slice(0, 10), slice(10, 20), slice(20, 23))
    ]  # a short last one
    found = evaluate(nn.Identity(), batches, CPU)
    ranks = (logits > logits.gather(1, labels[:, None])).sum(1)
    assert found["top1"] == pytest.approx(100 * float((ranks < 1).double().mean()))
    assert found["top5"] == pytest.approx(100 * float((ranks < 5).double().mean()))
    assert found["loss"] == pytest.approx(float(cross_entropy(logits.double(), labels)), rel=1e-6)


def test_with_fewer_than_five_classes_top5_is_everything() -> None:
    found = evaluate(nn.Identity(), [(torch.randn(6, 3), torch.tensor([0, 1, 2, 0, 1, 2]))], CPU)
    assert found["top5"] == 100


def test_the_network_is_evaluated_in_eval_mode_and_keeps_its_statistics() -> None:
    norm = nn.Sequential(nn.BatchNorm1d(4)).train()
    before = norm[0].running_mean.clone()  # type: ignore[union-attr]
    evaluate(norm, [(torch.randn(8, 4) + 3, torch.randint(4, (8,)))], CPU)
    assert torch.equal(norm[0].running_mean, before) and not norm.training  # type: ignore[arg-type]

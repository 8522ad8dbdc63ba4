"""The classifier of a network is found by the graph of its output, whatever it is called and wherever it stands."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn

from paredown.core.errors import UserError
from paredown.models.head import (
    find_classifier,
    replace_classifier,
    require_classes,
    require_classifier,
    require_logits_in_training,
)

SHAPE = (3, 32, 32)
# the names as torchvision's authors gave them: half of them are not the last of named_modules()
CLASSIFIERS = {
    "resnet18": "fc",
    "densenet121": "classifier",
    "squeezenet1_1": "classifier.1",  # a convolution, before the pooling
    "mobilenet_v3_small": "classifier.3",
    "convnext_tiny": "classifier.2",
    "regnet_y_400mf": "fc",
}


class First(nn.Module):
    """A classifier that is defined first, with other linear layers behind it, and a shortcut around."""

    def __init__(self, bias: bool = True) -> None:
        super().__init__()
        self.answer = nn.Linear(8, 5, bias=bias)
        self.body = nn.Linear(3 * 32 * 32, 8)
        self.unused = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = self.answer(self.body(x.flatten(1)).relu())
        return found.log_softmax(1) if len(x) else found


@pytest.mark.parametrize(("network", "name"), CLASSIFIERS.items())
def test_torchvisions_classifiers(network: str, name: str) -> None:
    module = torchvision.models.get_model(network, weights=None, num_classes=7)
    assert find_classifier(module, SHAPE) == name
    weights = {key: value.clone() for key, value in module.state_dict().items()}
    other = replace_classifier(module, SHAPE, 4).eval()
    assert other(torch.zeros(2, *SHAPE)).shape == (2, 4)
    assert all(torch.equal(value, weights[key]) for key, value in other.state_dict().items() if name not in key)


@pytest.mark.parametrize("bias", [True, False])
def test_the_order_of_definition_does_not_matter_nor_what_follows(bias: bool) -> None:
    module = First(bias).train()
    assert find_classifier(module, SHAPE) == "answer" and module.training
    assert (replace_classifier(module, SHAPE, 2).answer.bias is not None) == bias


def test_a_linear_layer_alone_is_its_classifier() -> None:
    module = nn.Linear(32, 5)
    assert find_classifier(nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 5)), SHAPE) == "1"
    assert (
        replace_classifier(nn.Sequential(nn.Flatten(), nn.Linear(3072, 5)), SHAPE, 2)(torch.zeros(1, *SHAPE)).shape[1]
        == 2
    )
    with pytest.raises(UserError, match="it is no classifier"):
        find_classifier(module, SHAPE)


class Returns(nn.Module):
    """A network that returns something made of its logits."""

    def __init__(self, made) -> None:
        super().__init__()
        self.made, self.weight = made, nn.Parameter(torch.ones(5, 3072))

    def forward(self, x):
        return self.made(nn.functional.linear(x.flatten(1), self.weight))


def test_no_layer_no_new_head() -> None:
    assert find_classifier(Returns(lambda x: x), SHAPE) is None
    with pytest.raises(UserError, match=r"model\.head=new: what the output of Returns comes from is no linear layer"):
        require_classifier(Returns(lambda x: x), SHAPE)


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (lambda x: {"logits": x, "features": x}, "Returns returns a dict of logits, features, not logits"),
        (lambda x: (x, x), "Returns returns a tuple, not logits"),
        (lambda x: None, "returns a NoneType"),
        (
            lambda x: x[:, :, None],
            r"a tensor of shape \(2, 5, 1\) for 2 images, not 2 rows of logits: it is no classifier",
        ),
        (lambda x: x.squeeze(), r"a tensor of shape \(5,\) for one image, \(2, 5\) for 2: flatten\(1\) keeps"),
        (lambda x: x.no_such_thing, "does not run on an image of shape .* AttributeError"),
        (lambda x: x @ x, "does not run on an image of shape"),
        (lambda x: x[:, :3], "Returns has 3 outputs, the data set 5 classes: .*model.head=new"),
    ],
)
def test_what_is_no_classifier_is_one_line(made, words: str) -> None:
    with pytest.raises(UserError, match=words):
        require_classes(Returns(made), SHAPE, 5)


class Moded(Returns):
    """A network that returns something else in training mode."""

    def forward(self, x):
        logits = nn.functional.linear(x.flatten(1), self.weight)
        return self.made(logits) if self.training else logits


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (lambda x: (x, x), "Moded returns a tuple in training mode, not logits"),
        (lambda x: {"logits": x}, "Moded returns a dict of logits in training mode"),
        (lambda x: x[:, :, None], r"a tensor of shape \(2, 5, 1\) for 2 images in training mode"),
        (lambda x: x.no_such_thing, "Moded does not run in training mode: AttributeError"),
    ],
)
def test_what_cannot_be_trained_is_one_line(made, words: str) -> None:
    module = Moded(made).eval()
    require_classes(module, SHAPE, 5)
    with pytest.raises(UserError, match=words):
        require_logits_in_training(module, SHAPE)
    assert not module.training


def test_the_trial_of_a_training_leaves_the_network_and_the_generators_as_they_were() -> None:
    module = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(3072), nn.Dropout(), nn.Linear(3072, 5)).eval()
    before = torch.get_rng_state()
    require_logits_in_training(module, SHAPE)
    assert not module[1].num_batches_tracked and torch.equal(before, torch.get_rng_state())


def test_a_norm_that_needs_a_batch_is_refused_for_one_image() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(3072, 5), nn.BatchNorm1d(5, track_running_stats=False))
    with pytest.raises(UserError, match="does not run on one image alone, as the last of an evaluation may be"):
        require_classes(module, SHAPE, 5)

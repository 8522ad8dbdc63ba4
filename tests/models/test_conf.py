"""Every conf/model/*.yaml builds, runs, trains, survives saving, compiles whole and keeps channels last."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from paredown.core import blueprint
from paredown.core.network import Network

CONF = Path(__file__).parents[2] / "conf" / "model"
OPEN = {"torchvision", "timm", "custom"}  # which network these build is for the user to name
NAMES = sorted(path.stem for path in CONF.glob("*.yaml") if path.stem not in OPEN)
EXPECTED = {f"resnet{depth}" for depth in (20, 32, 44, 56, 110, 18, 50)} | {
    "resnet56_bottleneck",
    "resnet110_bottleneck",
    "vgg19",
    "mobilenet_v2",
    "mobilenet_v2_cifar",
    "shufflenet_v2",
    "efficientnet_b0",
    "three_fc",
    *(f"{family}_{connection}" for family in "sd" for connection in ("conv", "local", "fc")),
}
SMALL = {name: (1, 16, 16) if name.startswith("d_") else (1, 8, 8) for name in NAMES}  # D-CONV halves four times
FROM_TORCHVISION = {"resnet18", "resnet50", "mobilenet_v2", "shufflenet_v2", "efficientnet_b0"}


def create(name: str, input_shape=(3, 32, 32), **changes) -> Network:
    config = OmegaConf.to_container(OmegaConf.load(CONF / f"{name}.yaml"))
    config.pop("weights")
    config.pop("head")
    config.pop("weight_decay")
    fitted = {"num_classes": 10, "in_channels": input_shape[0], "image_size": list(input_shape[1:])}
    arguments = {name: value for name, value in fitted.items() if name in blueprint.parameters(config)} | changes
    torch.manual_seed(0)
    return blueprint.create(config | arguments, input_shape)


def test_all_names_are_there():
    assert set(NAMES) == EXPECTED


@pytest.mark.parametrize("name", NAMES)
def test_weights_and_decay_for_the_caller(name):
    config = OmegaConf.load(CONF / f"{name}.yaml")
    assert (config.weights, config.head) == (None, "keep")
    assert config.weight_decay == (5e-4 if name == "vgg19" else 1e-4)


@pytest.mark.parametrize(
    ("name", "input_shape"),
    list(SMALL.items()) + [(n, (3, 32, 32)) for n in NAMES if n not in FROM_TORCHVISION | {"d_fc"}],
)
def test_evaluation_is_repeatable_and_depends_on_the_image(name, input_shape):
    module = create(name, input_shape).module.eval()
    images = torch.randn(2, *input_shape)
    before = images.clone()
    with torch.no_grad():
        first, second = module(images), module(images)
        alone = module(images[:1])
    assert first.shape == (2, 10)
    assert torch.equal(images, before)
    assert torch.equal(first, second)
    torch.testing.assert_close(alone, first[:1], rtol=1e-3, atol=1e-5)
    assert not torch.allclose(first[0], first[1], rtol=1e-4, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_gets_a_gradient(name):
    module = create(name, SMALL[name]).module.train()
    nn.functional.cross_entropy(module(torch.randn(4, *SMALL[name])), torch.tensor([0, 1, 2, 3])).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_save_and_read_gives_the_same_network(name, tmp_path):
    network = create(name, SMALL[name])
    blueprint.save(network, tmp_path)
    images = torch.randn(2, *SMALL[name])
    with torch.no_grad():
        assert torch.equal(blueprint.load(tmp_path)(images), network.module.eval()(images))


# ShuffleNetV2 halves its channels by a view, which no layout makes dense.
@pytest.mark.parametrize("name", [name for name in NAMES if name != "shufflenet_v2"])
def test_channels_last_is_kept_by_every_convolution(name):
    module = create(name, (3, 16, 16)).module.eval()
    images = torch.randn(2, 3, 16, 16)
    expected = module(images)
    module = module.to(memory_format=torch.channels_last)
    strays = []

    def look(name: str):
        def hook(_layer: nn.Module, inputs: tuple[torch.Tensor, ...], _output: torch.Tensor) -> None:
            if not inputs[0].is_contiguous(memory_format=torch.channels_last):
                strays.append(name)

        return hook

    for layer_name, layer in module.named_modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(look(layer_name))
    output = module(images.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(output, expected, rtol=1e-3, atol=1e-4)
    assert strays == []


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("resnet20", {"shortcut": "A"}),
        ("resnet20", {}),
        ("resnet56_bottleneck", {"depth": 8}),
        ("vgg19", {}),
        ("mobilenet_v2_cifar", {}),
        ("resnet18", {"stem": "cifar"}),
        ("shufflenet_v2", {"stem": "cifar"}),
        ("s_local", {}),
        ("s_fc", {}),
        pytest.param("mobilenet_v2", {}, marks=pytest.mark.slow),
        pytest.param("efficientnet_b0", {}, marks=pytest.mark.slow),
    ],
)
def test_traces_as_one_graph(name, changes):
    torch.compiler.reset()
    module = create(name, **changes).module.eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        compiled = torch.compile(module, backend="eager", fullgraph=True)(images)
        torch.testing.assert_close(compiled, module(images))


@pytest.mark.parametrize("name", sorted(FROM_TORCHVISION))
def test_natural_size_of_torchvisions_networks(name):
    module = create(name, (3, 224, 224), num_classes=1000).module.eval()
    with torch.no_grad():
        assert module(torch.randn(1, 3, 224, 224)).shape == (1, 1000)

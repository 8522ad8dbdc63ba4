"""A cut network computes what the network with the same channels zeroed does, whatever it is."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from foreign import NETWORKS, SHAPE, Net, NormAndActivation, convs
from omegaconf import OmegaConf
from torch import Tensor, nn

from paredown.core import blueprint
from paredown.core.deploy import DeployError, deploy, prove_equal
from paredown.core.errors import UserError
from paredown.core.network import Network
from paredown.cost import count
from paredown.graph.channels import Channels, channels
from paredown.methods.filters.autoslim import AutoSlim
from paredown.methods.filters.c_sgd import CSGD
from paredown.methods.filters.cnn_fcf import CNNFCF
from paredown.methods.filters.fpgm import FPGM
from paredown.methods.filters.group_norm import GroupNorm
from paredown.methods.filters.l1_filters import L1Filters
from paredown.methods.filters.nisp import NISP
from paredown.methods.filters.sfp import SFP
from paredown.methods.filters.slimming import Slimming
from paredown.surgery import narrowing
from paredown.surgery.narrowing import cut

CONF = Path(__file__).parents[2] / "conf" / "model"
HEAVY = {"efficientnet_b0", "mobilenet_v2", "mobilenet_v2_cifar", "resnet32", "resnet50", "resnet56"}
HEAVY |= {"resnet110", "resnet110_bottleneck", "resnet56_bottleneck", "vgg19", "d_fc"}
FOREIGN = {"custom", "timm", "torchvision"}  # without a network until they are given a name: test_channels has some
MODELS = [
    pytest.param(path.stem, marks=[pytest.mark.slow, pytest.mark.long] * (path.stem in HEAVY))
    for path in sorted(CONF.glob("*.yaml"))
    if path.stem not in FOREIGN
]


def create(name: str, **changes: object) -> Network:
    config = OmegaConf.to_container(OmegaConf.load(CONF / f"{name}.yaml")) | changes
    fitted = {"num_classes": 10, "in_channels": 3, "image_size": [16, 16]}
    arguments = {n: value for n, value in (config | fitted).items() if n in blueprint.parameters(config)}
    torch.manual_seed(0)
    return blueprint.create({"_target_": config["_target_"]} | arguments, (3, 16, 16))


def draw_statistics(module: nn.Module, generator: torch.Generator) -> None:
    """Random statistics, scales and shifts, so that a removed channel that is not zeroed shows."""
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            for tensor in (layer.running_mean, *layer.parameters()):
                tensor.data.copy_(torch.randn(tensor.shape, generator=generator))
            layer.running_var.copy_(0.5 + torch.rand(layer.running_var.shape, generator=generator))


def zeroed(module: nn.Module, found: Channels, removed: dict[str, list[int]]) -> nn.Module:
    """The reference, independent of what cuts: filters, biases, scales and shifts of the channels are zero."""
    masked = copy.deepcopy(module)
    for group in found.groups:
        for member in group.members:
            layer = masked.get_submodule(member.layer)
            if member.axis == "out" and list(layer.parameters()):
                for parameter in layer.parameters():
                    parameter.data[member.table[removed[group.name]].flatten()] = 0.0
    return masked


def thirds(found: Channels, generator: torch.Generator) -> dict[str, list[int]]:
    return {g.name: torch.randperm(g.size, generator=generator)[: g.size // 3].tolist() for g in found.groups}


def difference(first: nn.Module, second: nn.Module, shape: tuple[int, ...]) -> float:
    images = torch.randn(3, *shape, dtype=torch.float64)
    with torch.no_grad():
        one, two = first.eval()(images), second.eval()(images)
    return float((one - two).abs().max() / one.abs().max())


def cut_a_third(network: Network, seed: int) -> tuple[nn.Module, Channels]:
    """Cut a random third of every group; return the zeroed network."""
    generator = torch.Generator().manual_seed(seed)
    network.module.double()
    draw_statistics(network.module, generator)
    found = channels(network.module, network.input_shape)
    removed = thirds(found, generator)
    reference = zeroed(network.module, found, removed)
    cut(network, found.groups, removed)
    return reference, found


def check(network: Network, seed: int) -> None:
    before = sum(p.numel() for p in network.module.parameters())
    reference, found = cut_a_third(network, seed)
    assert sum(p.numel() for p in network.module.parameters()) < before or not found.groups
    assert difference(reference, network.module, network.input_shape) < 1e-12


@pytest.mark.parametrize("name", MODELS)
def test_a_third_of_every_group_cut_equals_zeroing_it(name: str) -> None:
    network = create(name)
    check(network, seed=1)
    shipped = deploy(network.module)
    assert prove_equal(network.module, shipped, network.input_shape) < (1e-15 if "local" in name else 1e-300)
    if "local" not in name:  # deployed, locally connected layers multiply by the padding too
        assert count(network.module, network.input_shape).macs == count(shipped, network.input_shape).macs


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("resnet20", {"shortcut": "A"}),
        ("resnet56_bottleneck", {"shortcut": "A", "depth": 20}),
        ("resnet18", {"stem": "cifar"}),
        ("shufflenet_v2", {"stem": "cifar", "width": 0.5}),
        ("d_local", {"norm": "unit"}),
        ("d_conv", {"bias": True}),
    ],
)
@pytest.mark.parametrize("seed", [2, 3, 4])
def test_variants(name: str, changes: dict[str, object], seed: int) -> None:
    check(create(name, **changes), seed)


@pytest.mark.parametrize("name", NETWORKS)
def test_foreign_networks(name: str) -> None:
    make, reason = NETWORKS[name]
    torch.manual_seed(0)
    network = Network(make(), {}, SHAPE)
    found = channels(network.module, SHAPE)
    assert any(reason in words for words in found.unfollowed) if reason else not found.unfollowed
    assert found.groups
    check(network, seed=5)


def test_a_cut_network_is_read_back_and_cut_again(tmp_path: Path) -> None:
    network = create("resnet20", shortcut="A")
    cut_a_third(network, seed=6)
    cut_a_third(network, seed=7)
    blueprint.save(network, tmp_path)
    again = blueprint.read(tmp_path)
    assert again.blueprint["layer1.0.conv1"] == {"kind": "narrow", "inputs": 8, "outputs": 8}
    assert difference(network.module, again.module.double(), network.input_shape) < 1e-6  # read in float32


def test_a_wrong_cut_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    network = create("resnet20")
    found = channels(network.module, network.input_shape)
    monkeypatch.setattr(narrowing, "output", output_without_zeroing(narrowing.output))
    with pytest.raises(DeployError, match="with 3 channels cut differs"):
        cut(network, found.groups, {"layer1.0.conv1": [0, 4, 5]})


def output_without_zeroing(output: object) -> object:
    def changed(network: Network, zeroed: object = None) -> Tensor:
        return output(network)  # type: ignore[operator]

    return changed


def test_proving_leaves_the_network_as_it_was() -> None:
    network = create("resnet20")
    before = copy.deepcopy(network.module.state_dict())
    network.module.train()
    narrowing.output(network, {("conv", "out"): torch.tensor([1])})
    assert network.module.training
    for name, tensor in network.module.state_dict().items():
        assert torch.equal(tensor, before[name]) and tensor.dtype == before[name].dtype


class Fixed(nn.Module):
    """A network whose forward makes a float32 tensor, or asserts a width."""

    def __init__(self, asserts: bool = False) -> None:
        super().__init__()
        self.conv, self.norm, self.next = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 6, 3)
        self.last, self.head, self.asserts = nn.BatchNorm2d(6), nn.Linear(6, 4), asserts

    def forward(self, x: Tensor) -> Tensor:
        x = self.last(self.next(self.norm(self.conv(x)).relu()))
        if self.asserts:
            torch._assert(x.size(1) == 6, "six channels")
        logits = self.head(x.mean((2, 3)))
        return logits if self.asserts else logits @ torch.eye(4)


@pytest.mark.parametrize(
    ("asserts", "said"),
    [
        (False, "Fixed does not run in float64, .*: give the tensors .* the dtype"),
        (True, "Fixed cannot lose channels: "),
    ],
)
def test_a_network_that_cannot_be_cut_is_refused_before_it_is_trained(asserts: bool, said: str) -> None:
    network = Network(Fixed(asserts), {}, (3, 12, 12))
    before = copy.deepcopy(network.module.state_dict())
    methods = [L1Filters(), Slimming(), GroupNorm(), NISP(keep=0.5), AutoSlim(), CSGD(keep=0.5), SFP(keep=0.5)]
    for method in [*methods, FPGM(keep=0.5), CNNFCF(keep=0.5)]:
        with pytest.raises(UserError, match=said) as refusal:
            method.check(network, None)
        assert "\n" not in str(refusal.value)
    for name, tensor in network.module.state_dict().items():  # a call that fails puts the layers' tensors back too
        assert torch.equal(tensor, before[name]) and tensor.dtype == before[name].dtype


def test_what_is_deep_inside_stays_alone_and_all_around_it_is_cut() -> None:
    """torch.fx leaves the modules of a failed call on its stack, after which every module around failed too."""
    found = channels(NETWORKS["deep inside"][0](), SHAPE)
    assert found.unfollowed == ("body.1.0.1 (DataDependent)",)
    assert {"first", "body.1.1.0", "body.2.0", "last"} <= {group.layer for group in found.groups}


def test_a_norm_with_its_activation_has_the_groups_of_the_two_apart() -> None:
    apart = Net(convs(nn.BatchNorm2d(9), nn.ReLU()))
    groups = [
        [(group.size, len(group.members)) for group in channels(net, SHAPE).groups]
        for net in (apart, Net(convs(NormAndActivation(9, nn.ReLU()))))
    ]
    assert groups[0] == groups[1] and (9, 3) in groups[0]


def test_weights_that_are_used_without_a_call_are_in_float64_too() -> None:
    """Attention's last layer, and an embedding tied to a linear layer: both are put back as they were."""
    module = NETWORKS["attention"][0]()
    module.tied = nn.Linear(12, 4)
    module.tied.weight = module.fc.weight
    before = {name: (id(tensor), tensor.clone()) for name, tensor in module.state_dict(keep_vars=True).items()}
    found = narrowing.output(Network(module, {}, SHAPE))
    for name, tensor in module.state_dict(keep_vars=True).items():
        assert id(tensor) == before[name][0] and tensor.dtype == before[name][1].dtype
        assert torch.equal(tensor, before[name][1])
    image = torch.randn(1, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(found, module.double().eval()(image).detach())


def test_tensors_are_put_back_when_a_layer_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    network = create("resnet20")
    monkeypatch.setattr(network.module.layer2[0].conv1, "forward", lambda x: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        narrowing.output(network)
    assert {p.dtype for p in network.module.state_dict().values()} == {torch.float32, torch.int64}


def test_a_network_that_can_be_cut_stays_as_it_is() -> None:
    network = create("resnet20")
    before = copy.deepcopy(network.module.state_dict())
    for method in (L1Filters(), AutoSlim(), SFP(keep=0.5), CNNFCF(keep=0.5)):
        method.check(network, None)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.module.state_dict().items())


@pytest.mark.parametrize(
    ("name", "changes"), [("resnet20", {"shortcut": "A"}), ("d_conv", {}), ("mobilenet_v2_cifar", {}), ("resnet20", {})]
)
def test_merged_channels_compute_what_equal_ones_do(name: str, changes: dict[str, object]) -> None:
    """The members of a cluster are tied by hand: outputs before and after the merge agree, and nothing deviates."""
    network = create(name, **changes)
    network.module.double()
    draw_statistics(network.module, torch.Generator().manual_seed(3))
    found = channels(network.module, network.input_shape)
    clusters = {g.name: [list(range(g.size // 2)), *([i] for i in range(g.size // 2, g.size))] for g in found.groups}
    for group in found.groups:
        for member in group.members:
            if member.axis == "out":
                for tensor in network.module.get_submodule(member.layer).state_dict().values():
                    if tensor.dim():
                        tensor[member.table[: group.size // 2]] = tensor[member.table[0]].clone()
    reference = copy.deepcopy(network.module)
    assert narrowing.merge(network, found.groups, clusters) < 1e-12
    assert difference(reference, network.module, network.input_shape) < 1e-12
    half = found.groups[0].size // 2
    assert network.module.get_submodule(found.groups[0].name).out_channels == found.groups[0].size - half + 1


def test_the_deviation_of_a_cluster_is_relative_to_its_mean() -> None:
    network = create("resnet20")
    found = channels(network.module, network.input_shape)
    weight = network.module.layer1[0].conv1.weight
    weight.data[0], weight.data[1] = 1.5, 0.5
    assert narrowing.merge(network, found.groups, {"layer1.0.conv1": [[0, 1]]}) == pytest.approx(0.5)
    assert network.module.layer1[0].conv1.weight.shape[0] == 15
    assert torch.all(network.module.layer1[0].conv1.weight[0] == 1.0)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["resnet20", "mobilenet_v2_cifar", "shufflenet_v2", "efficientnet_b0", "d_conv", "d_local"]
)
def test_exported_programs_and_onnx_files_equal_zeroing(name: str, tmp_path: Path) -> None:
    """torch.export in float64, to 1e-12; ONNX in float32, as onnxruntime convolves, to its rounding."""
    import onnxruntime

    network = create(name, **({"shortcut": "A"} if name == "resnet20" else {}))
    reference, _ = cut_a_third(network, seed=8)
    images = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    shipped = deploy(network.module)
    with torch.no_grad():
        expected = reference.eval()(images)
        program = torch.export.export(shipped, (images,)).module()(images)
    assert float((program - expected).abs().max() / expected.abs().max()) < 1e-12
    file = tmp_path / "network.onnx"
    torch.onnx.export(shipped.float(), (images.float(),), file, dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(file)
    found = session.run(None, {session.get_inputs()[0].name: images.float().numpy()})[0]
    assert float((torch.from_numpy(found) - expected).abs().max() / expected.abs().max()) < 1e-3

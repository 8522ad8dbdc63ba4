"""beta-LASSO's step against worked traces, plain SGD and its definition in float64; under a scaler and DDP."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from paredown.core.errors import UserError
from paredown.core.hooks import Context, FitState
from paredown.core.recipe import Recipe
from paredown.models.cifar.counterparts import counterpart
from paredown.models.cifar.resnet import cifar_resnet
from paredown.training.hooks.beta_lasso import BetaLasso, BetaLassoSteps, weight_groups, zero_below


def stepped(
    values: list[float], gradient: list[float], lr: float = 0.1, decay: float = 1e-3, beta: float = 5
) -> Tensor:
    weight = nn.Parameter(torch.tensor(values))
    weight.grad = torch.tensor(gradient)
    BetaLasso([weight], lr=lr, decay=1e-3, beta=beta).step()
    return weight.detach()


def test_without_a_gradient_a_weight_is_zero_first_at_step_51() -> None:
    weight = nn.Parameter(torch.tensor([0.01005]))
    optimizer = BetaLasso([weight], lr=0.1, decay=1e-3, beta=5)
    weight.grad = torch.zeros(1)
    trace = []
    for _ in range(60):
        optimizer.step()
        trace.append(weight.item())
    assert next(step for step, value in enumerate(trace, 1) if value == 0) == 51
    assert not any(trace[50:])


def test_one_worked_step() -> None:
    weight = stepped([0.5, -0.3, 0.004, -0.0049, 0], [1, -1, 0.2, 0, 0.02])
    torch.testing.assert_close(weight, torch.tensor([0.3999, -0.1999, -0.0161, 0, 0]))
    assert not weight[3:].any()


def test_a_zero_revives_only_where_one_step_moves_it_to_the_threshold() -> None:
    # the threshold is 0.005, a step 0.1 * gradient: 0.05 is where it begins
    torch.testing.assert_close(stepped([0.0], [0.06]), torch.tensor([-0.006]))
    assert stepped([0.0, 0.0], [0.0499, -0.0499]).tolist() == [0, 0]
    assert stepped([0.0], [0.06], lr=0.01).item() == 0  # the threshold does not shrink with the rate


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_is_exactly_at_the_threshold_stays(dtype: torch.dtype) -> None:
    for threshold in (0.005, 1e-4, 5e-5):
        at = torch.tensor(threshold, dtype=dtype)
        below, above = (torch.nextafter(at, torch.tensor(limit, dtype=dtype)) for limit in (0.0, 1.0))
        weight = torch.stack([at, below, above, -at, -below, -above])
        zero_below(weight, threshold)
        assert torch.equal(weight, torch.stack([at, 0 * at, above, -at, 0 * at, -above]))


def test_at_lambda_0_it_is_plain_sgd_bit_for_bit() -> None:
    torch.manual_seed(0)
    one, two = (nn.Linear(20, 10) for _ in range(2))
    two.load_state_dict(one.state_dict())
    ours, theirs = BetaLasso(one.parameters(), lr=0.3, decay=0, beta=50), torch.optim.SGD(two.parameters(), lr=0.3)
    for _ in range(5):
        x = torch.randn(4, 20)
        for layer, optimizer in ((one, ours), (two, theirs)):
            optimizer.zero_grad()
            layer(x).square().sum().backward()
            optimizer.step()
    assert torch.equal(one.weight, two.weight) and torch.equal(one.bias, two.bias)


def test_many_steps_of_groups_follow_the_definition() -> None:
    torch.manual_seed(0)
    weights = [torch.randn(30, 7).mul(0.02).double(), torch.randn(50).mul(0.02).double()]
    parameters = [nn.Parameter(weight.clone()) for weight in weights]
    decays = (1e-3, 2e-4)
    groups = [{"params": [p], "decay": decay} for p, decay in zip(parameters, decays, strict=True)]
    optimizer = BetaLasso(groups, lr=0.1, beta=5)
    for _ in range(40):
        for index, (parameter, decay) in enumerate(zip(parameters, decays, strict=True)):
            parameter.grad = gradient = torch.randn_like(parameter) * 0.02
            moved = weights[index] - 0.1 * (gradient + decay * weights[index].sign())
            weights[index] = moved * (moved.abs() >= 5 * decay)
        optimizer.step()
    for weight, parameter in zip(weights, parameters, strict=True):
        torch.testing.assert_close(parameter.detach(), weight)
        assert 0 < weight.count_nonzero() < weight.numel()


def test_beta_0_is_l1_subgradient_descent() -> None:
    assert stepped([0.004, -0.0001, 0.0], [0, 0, 1e-6], beta=0).tolist() == pytest.approx([0.0039, 0, -1e-7], abs=1e-9)


def test_a_scaler_unscales_first_and_skips_the_threshold_with_the_step() -> None:
    weight = nn.Parameter(torch.tensor([0.5, 0.001, 0.0]))
    optimizer, scaler = BetaLasso([weight], lr=0.1, decay=1e-3, beta=5), torch.amp.GradScaler("cpu", init_scale=1024)
    for factor, expected in ((float("inf"), [0.5, 0.001, 0]), (1.0, [0.3999, 0, -0.1])):
        optimizer.zero_grad()
        scaler.scale((weight * torch.tensor([1.0, 0.0, 1.0]) * factor).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        assert weight.tolist() == pytest.approx(expected)


def test_under_autocast_a_step_far_below_16_bit_resolution_is_kept() -> None:
    layer = nn.Linear(4, 4, bias=False)
    with torch.no_grad():
        layer.weight.fill_(0.02)
    optimizer = BetaLasso(layer.parameters(), lr=0.1, decay=2e-5, beta=0)
    with torch.autocast("cpu", torch.bfloat16):
        (layer(torch.ones(2, 4)).sum() * 0).backward()
    optimizer.step()
    assert layer.weight.dtype == torch.float32
    torch.testing.assert_close(layer.weight, torch.full((4, 4), 0.02 - 2e-6), rtol=0, atol=1e-9)
    assert (torch.tensor(0.02, dtype=torch.bfloat16) - 2e-6) == torch.tensor(0.02, dtype=torch.bfloat16)


def test_under_ddp_the_zeros_are_those_of_one_process(tmp_path) -> None:
    torch.manual_seed(0)
    x, layers = torch.randn(6, 5), [nn.Linear(5, 5) for _ in range(2)]
    layers[1].load_state_dict(layers[0].state_dict())
    torch.distributed.init_process_group("gloo", f"file://{tmp_path}/ranks", rank=0, world_size=1)
    try:
        layers[1] = DistributedDataParallel(layers[1])
        for layer in layers:
            optimizer = BetaLasso(layer.parameters(), lr=0.1, decay=1e-2, beta=5)
            for _ in range(10):
                optimizer.zero_grad()
                layer(x).square().mean().backward()
                optimizer.step()
    finally:
        torch.distributed.destroy_process_group()
    assert not layers[0].weight.all() and torch.equal(layers[0].weight, layers[1].module.weight)


def test_the_closure_runs_with_gradients_and_its_loss_is_returned() -> None:
    weight = nn.Parameter(torch.ones(1))
    optimizer = BetaLasso([weight], lr=0.1, decay=0)

    def closure() -> float:
        loss = (3 * weight).sum()
        loss.backward()
        return float(loss)

    assert optimizer.step(closure) == 3 and weight.item() == pytest.approx(0.7)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"lr": -1.0}, r"^lr=-1\.0 \(at least 0\)"),
        ({"decay": -1e-5}, r"decay=-1e-05 \(at least 0\)"),
        ({"beta": -50.0}, r"beta=-50\.0 \(at least 0\)"),
        ({"decay": float("nan")}, r"decay=nan \(a finite number, at least 0\)"),
    ],
)
def test_negative_settings_are_refused(settings, says) -> None:
    with pytest.raises(UserError, match=says):
        BetaLasso(nn.Linear(2, 2).parameters(), **settings)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_16_bit_weights_are_refused(dtype: torch.dtype) -> None:
    with pytest.raises(UserError, match=r"fp32, got torch.*16: compute under autocast"):
        BetaLasso(nn.Linear(2, 2).to(dtype).parameters())


RECIPE = Recipe(epochs=1, learning_rate=0.3)


@pytest.mark.parametrize("connection", ["conv", "local", "fc"])
def test_the_groups_of_the_papers_networks(connection) -> None:
    network = counterpart("d", connection, alpha=1, image_size=(16, 16), bias=True)
    optimizer = BetaLassoSteps(1e-5, 2e-5, 50).optimizer(
        FitState(network, Context(None, torch.device("cpu"), 0), RECIPE)
    )
    conv, fc, others = optimizer.param_groups
    assert [group["decay"] for group in optimizer.param_groups] == [1e-5, 2e-5, 0]
    assert {(group["lr"], group["beta"]) for group in optimizer.param_groups} == {(0.3, 50)}
    assert [id(p) for p in conv["params"]] == [id(getattr(network, f"conv{i}").weight) for i in range(1, 9)]
    assert [id(p) for p in fc["params"]] == [id(network.fc1.weight), id(network.fc2.weight)]
    assert len(others["params"]) == 2 * 9 + 1  # batch norm after each but the last, and the bias


def test_the_groups_of_any_other_network() -> None:
    network = cifar_resnet(8)
    conv, fc, others = weight_groups(network)
    assert sum(p.numel() for p in conv) == sum(m.weight.numel() for m in network.modules() if isinstance(m, nn.Conv2d))
    assert [p.shape for p in fc] == [network.fc.weight.shape]
    assert sum(len(group) for group in (conv, fc, others)) == len(list(network.parameters()))


def test_a_weight_that_two_layers_share_is_in_one_group() -> None:
    network = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    network[1].weight = network[0].weight
    assert [len(group) for group in weight_groups(network)] == [0, 1, 2]


def test_nonzeros_per_layer_are_logged() -> None:
    network = counterpart("s", "conv", alpha=1, image_size=(8, 8))
    with torch.no_grad():
        network.conv1.weight[:, 0] = 0
    row = BetaLassoSteps(1e-5, 1e-5, 50).after_epoch(
        FitState(network, Context(None, torch.device("cpu"), 0), Recipe(1))
    )
    assert row == {"nonzero/conv1": 162, "nonzero/fc1": 24 * 16, "nonzero/fc2": 240}

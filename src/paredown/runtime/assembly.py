"""Build the module that runs from a trained network and the backend of each layer; nothing is timed here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx, nn

from paredown.core.deploy import compressed_layers, deploy
from paredown.core.errors import UserError
from paredown.core.network import Network
from paredown.graph.trace import module_of
from paredown.runtime import backends, cpu_kernel, gathered
from paredown.runtime.blocked_graph import convert_to_blocks
from paredown.runtime.blocked_layers import tiled
from paredown.runtime.choices import MEMORY_FORMATS, check, check_names
from paredown.runtime.interleaved import CannotInterleave, interleave, splits
from paredown.runtime.units import Traced, Unit
from paredown.surgery.factorise import dense_twin


class LayerBuilder:
    """Builds the units of `network` with any backend. The dense network is created when a backend first needs it."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self._twin: nn.Module | None = None

    def build(self, unit: Unit, backend: str) -> nn.Module | None:
        """Return the module of `unit` with `backend`, None if that backend cannot run it. An interleaved layer starts
        as a plain one."""
        builders: dict[str, Callable[[Unit], nn.Module | None]] = {
            "plain": backends.plain,
            "interleaved": backends.plain,
            "sparse": backends.sparse,
            "native": backends.native,
            "pixels": backends.pixels,
            "triton": backends.triton,
            "dense": lambda unit: backends.dense(unit, lambda: self.twin.get_submodule(unit.name)),
        }
        with torch.no_grad():
            return builders[backend](unit)

    @property
    def twin(self) -> nn.Module:
        """The dense network of the same architecture, for the geometry of its layers."""
        if self._twin is None:
            self._twin = dense_twin(self.network).module
        return self._twin


def assemble(network: Network, choices: Mapping[str, Any]) -> nn.Module:
    """Build the module of `choices` in the dtype of `network`. Raise UserError for choices that do not fit it."""
    if not choices:
        return deploy(network.module)
    check(choices)
    if not choices["layers"]:
        module = deploy(network.module)
    else:
        traced = Traced(network)
        check_names(choices["layers"], traced.units)
        builder = LayerBuilder(network)
        module = compose(traced, builder, choices["layers"], choices["groups"], choices["memory_format"])
    return module.to(memory_format=MEMORY_FORMATS[choices["memory_format"]])


def compose(
    traced: Traced, builder: LayerBuilder, layers: Mapping[str, str], groups: int | None, memory_format: str
) -> nn.Module:
    """Replace each unit of `traced` by its module with the backend in `layers`; `plain` instead of `native`,
    `pixels` or `triton` where that kernel is not available. Raise UserError for a backend that cannot run a layer."""
    wanted = {name: _available(backend) for name, backend in layers.items()}
    built = _place(traced, builder, wanted, groups)
    for name, layer in compressed_layers(traced.graph).items():  # called more than once, so not a unit
        traced.graph.set_submodule(name, layer.deployed())
    if groups is not None:
        _interleave(traced, [name for name, backend in wanted.items() if backend == "interleaved"], groups)
    graph = traced.finalise()
    if memory_format == "contiguous":  # channels-last weights convert the images themselves
        _make_input_contiguous(graph)
    if kernels := {name: built[name] for name, backend in wanted.items() if backend == "native"}:
        graph = convert_to_blocks(graph, kernels)
    if "pixels" in wanted.values():  # torch's first pooling takes longer for one image than the convolutions around it
        for node in graph.graph.nodes:
            if (pool := module_of(node, graph)) is not None:
                graph.set_submodule(str(node.target), tiled(pool, pool))
    return graph.eval()


def _available(backend: str) -> str:
    kernels = {"native": cpu_kernel.available, "pixels": cpu_kernel.available, "triton": gathered.available}
    return backend if backend not in kernels or kernels[backend]() else "plain"


def _place(
    traced: Traced, builder: LayerBuilder, wanted: Mapping[str, str], groups: int | None
) -> dict[str, nn.Module]:
    built: dict[str, nn.Module] = {}
    for name, backend in wanted.items():
        module = builder.build(traced.units[name], backend)
        if module is None or (backend == "interleaved" and not splits(module, groups or 1)):
            kind = type(traced.units[name].layer).__name__
            raise UserError(f"backend choices: {backend!r} (groups={groups}) cannot run layer {name!r}, a {kind}")
        built[name] = module
        traced.graph.set_submodule(name, module)
    return built


def _interleave(traced: Traced, layers: list[str], groups: int) -> None:
    try:
        interleave(traced.graph, traced.units, layers, groups)
    except CannotInterleave as error:
        raise UserError(f"backend choices: the network cannot be interleaved because of {error}") from error


def _make_input_contiguous(graph: fx.GraphModule) -> None:
    images = next(node for node in graph.graph.nodes if node.op == "placeholder")
    with graph.graph.inserting_after(images):
        contiguous = graph.graph.call_method("contiguous", (images,))
    images.replace_all_uses_with(contiguous, delete_user_cb=lambda user: user is not contiguous)
    contiguous.meta = dict(images.meta)
    graph.recompile()

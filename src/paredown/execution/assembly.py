"""From a trained network and the form of each of its layers to the module that runs; nothing is timed here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx, nn

from paredown.errors import UserError
from paredown.execution import forms, native
from paredown.execution.choices import MEMORY_FORMATS, check, check_names
from paredown.execution.graph import Traced, Unit
from paredown.execution.interleaved import Unfit, interleave, splits
from paredown.execution.on_blocks import on_blocks
from paredown.plan import Network
from paredown.surgery.deploy import compressed_layers, deploy
from paredown.surgery.low_rank import dense_twin

Forms = dict[str, nn.Module]


class Maker:
    """Makes the forms of the units of `network`; the dense network is made when one needs its geometry."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self._twin: nn.Module | None = None

    def make(self, unit: Unit, form: str) -> nn.Module | None:
        """`unit` in `form`, None where it has no such form. An interleaved layer starts in its plain form."""
        makers: dict[str, Callable[[Unit], nn.Module | None]] = {
            "plain": forms.plain,
            "interleaved": forms.plain,
            "sparse": forms.sparse,
            "native": forms.native,
            "dense": lambda unit: forms.dense(unit, lambda: self.twin.get_submodule(unit.name)),
        }
        with torch.no_grad():
            return makers[form](unit)

    @property
    def twin(self) -> nn.Module:
        """The dense network of the same architecture, for the geometry of its layers."""
        if self._twin is None:
            self._twin = dense_twin(self.network).module
        return self._twin


def assemble(network: Network, choices: Mapping[str, Any]) -> nn.Module:
    """The module of `choices` in the dtype of `network`. Raises UserError for choices that do not fit it."""
    if not choices:
        return deploy(network.module)
    check(choices)
    if not choices["layers"]:
        module = deploy(network.module)
    else:
        traced = Traced(network)
        check_names(choices["layers"], traced.units)
        module = compose(traced, Maker(network), choices["layers"], choices["groups"], choices["memory_format"])
    return module.to(memory_format=MEMORY_FORMATS[choices["memory_format"]])


def compose(
    traced: Traced, maker: Maker, layers: Mapping[str, str], groups: int | None, memory_format: str
) -> nn.Module:
    """`traced`, each of whose units is put into its form of `layers`; where the native kernel is not to be had, in its
    plain form instead of the native. Raises UserError for a form that a layer does not have."""
    wanted = {name: form if form != "native" or native.available() else "plain" for name, form in layers.items()}
    made: Forms = {}
    for name, form in wanted.items():
        module = maker.make(traced.units[name], form)
        if module is None or (form == "interleaved" and not splits(module, groups or 1)):
            kind = type(traced.units[name].layer).__name__
            raise UserError(f"choices of execution: layer {name!r}, a {kind}, has no form {form!r} of groups={groups}")
        made[name] = module
        traced.graph.set_submodule(name, module)
    for name, layer in compressed_layers(traced.graph).items():  # called more than once: no unit
        traced.graph.set_submodule(name, layer.deployed())
    if groups is not None:
        try:
            split = [name for name, form in wanted.items() if form == "interleaved"]
            interleave(traced.graph, traced.units, split, groups)
        except Unfit as error:
            raise UserError(f"choices of execution: the network cannot be interleaved because of {error}") from error
    graph = traced.finished()
    if memory_format == "contiguous":  # weights in channels-last order convert the images, others do not
        _contiguous_input(graph)
    if on := {name: made[name] for name, form in wanted.items() if form == "native"}:
        graph = on_blocks(graph, on)
    return graph.eval()


def _contiguous_input(graph: fx.GraphModule) -> None:
    images = next(node for node in graph.graph.nodes if node.op == "placeholder")
    with graph.graph.inserting_after(images):
        laid_out = graph.graph.call_method("contiguous", (images,))
    images.replace_all_uses_with(laid_out, delete_user_cb=lambda user: user is not laid_out)
    laid_out.meta = dict(images.meta)
    graph.recompile()

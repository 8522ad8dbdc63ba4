"""Modules as onnxruntime runs them, for the choice of the form that is fastest there (`runtime.search.Engine`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from paredown.export.files import EXAMPLE
from paredown.export.onnx_file import INPUT, OPSET, OUTPUT, exported, runner
from paredown.layers.factorised.branches import Sum
from paredown.runtime.interleaved import Interleaved


class OnnxRuntime:
    """onnxruntime on the CPU, with as many threads as torch."""

    def ready(self, module: nn.Module, images: Tensor) -> Callable[[Tensor], object]:
        """Return `module` as a function of batches like `images`. Raise UserError where ONNX lacks an operator."""
        model = written(module, images.shape[1:]) or exported(module, torch.zeros(EXAMPLE, *images.shape[1:]))
        return runner(model.SerializeToString(), torch.get_num_threads())


class _Unknown(Exception):
    """No operator is known for a module."""


class _Graph:
    """Nodes and constants of a graph that is being written."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def call(self, operator: str, *inputs: str | Tensor | None, **attributes: Any) -> str:
        """Add a node and return the name of its output; tensors become constants, None is left out."""
        names = [self._name(value) for value in inputs if value is not None]
        output = f"value_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, names, [output], **attributes))
        return output

    def _name(self, value: str | Tensor) -> str:
        if isinstance(value, str):
            return value
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(value.detach().contiguous().numpy(), name))
        return name


def written(module: nn.Module, shape: tuple[int, ...]) -> onnx.ModelProto | None:
    """Write a layer's forms, convolutions and linear layers one after the other or added up, node by node; torch's
    exporter takes a second for each. None for any other module. `shape` is that of one input."""
    graph = _Graph()
    try:
        graph.call("Identity", _add(module, INPUT, graph))
    except _Unknown:
        return None
    graph.nodes[-1].output[0] = OUTPUT
    inputs = [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["batch", *shape])]
    outputs = [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, None)]
    made = helper.make_graph(graph.nodes, "layer", inputs, outputs, graph.constants)
    # the version of the file format that belongs to this opset: runtimes refuse newer ones
    version = helper.find_min_ir_version_for([helper.make_opsetid("", OPSET)])
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=version)


def _add(module: nn.Module, x: str, graph: _Graph) -> str:
    if type(module) is nn.Conv2d and module.padding_mode == "zeros" and not isinstance(module.padding, str):
        pads = [*module.padding, *module.padding]
        settings = {"strides": module.stride, "dilations": module.dilation, "group": module.groups, "pads": pads}
        return graph.call("Conv", x, module.weight, module.bias, **settings)
    if type(module) is nn.Linear:
        return graph.call("Gemm", x, module.weight, module.bias, transB=1)
    if type(module) is nn.Sequential:
        for part in module:
            x = _add(part, x, graph)
        return x
    if type(module) in (Interleaved, Sum):
        first, *others = module.children()
        total = _add(first, x, graph)
        for part in others:
            total = graph.call("Add", total, _add(part, x, graph))
        return total
    raise _Unknown

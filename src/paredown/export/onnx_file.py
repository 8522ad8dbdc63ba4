"""The format `onnx`: an ONNX file for onnxruntime and other ONNX runtimes."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from paredown.core.errors import UserError, reason
from paredown.core.files import reading
from paredown.cost.operators import CostError
from paredown.export.files import EXPORT_AGAIN, Facts, Loaded, Source

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

OPSET, OLDEST = 20, 18  # below OLDEST, torch's exporter emits opset 18 and the model is converted
LARGEST = 2**31 - 2**20  # bytes of one protobuf message
INPUT, OUTPUT = "images", "logits"
# operators with multiply-adds; those that `_products` does not count stop the count
PRODUCTS = {"Conv", "Gemm", "MatMul"}
MULTIPLYING = PRODUCTS | {"ConvTranspose", "ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul", "Einsum"}
MULTIPLYING |= {"LSTM", "GRU", "RNN", "Attention", "DeformConv"}


def write(source: Source, path: Path, opset: int | None = None) -> None:
    """Write one file with a dynamic batch size and the facts as metadata properties (JSON each). Raise UserError for a
    network whose operators ONNX, or its `opset`, lacks."""
    import onnx

    wanted = OPSET if opset is None else opset
    newest = onnx.defs.onnx_opset_version()
    if wanted > newest:
        raise UserError(f"opset={wanted} is newer than onnx {onnx.__version__} supports: at most {newest}")
    model = exported(source.module, source.example(), max(wanted, OLDEST))
    if wanted < OLDEST:
        model = _converted(model, wanted)
    describe(model, source.facts)
    if model.ByteSize() > LARGEST:
        raise UserError(f"the network has {model.ByteSize():,} bytes, more than the 2 GiB that one ONNX file holds")
    onnx.save(model, path)


def describe(model: ModelProto, facts: Facts) -> None:
    """Make `facts` the metadata properties of `model`, a JSON value each."""
    del model.metadata_props[:]
    for name, value in facts.items():
        model.metadata_props.add(key=name, value=json.dumps(value))


def exported(module: nn.Module, example: Tensor, opset: int = OPSET) -> ModelProto:
    """Return `module`, traced with `example`, as a model with a dynamic batch size. Raise UserError where ONNX lacks
    one of its operators."""
    arguments: dict[str, Any] = {"input_names": [INPUT], "output_names": [OUTPUT], "opset_version": opset}
    arguments |= {"dynamic_shapes": ({0: torch.export.Dim("batch")},), "dynamo": True, "verbose": False}
    try:
        with quiet():
            program = torch.onnx.export(module, (example,), **arguments)
    except Exception as error:  # dozens of private types
        cause = reason(error.__cause__ or error)
        raise UserError(f"torch.onnx cannot export {type(module).__name__}: {cause}") from error
    assert program is not None
    model: ModelProto = program.model_proto
    return model


def _converted(model: ModelProto, opset: int) -> ModelProto:
    """Convert `model` to an older opset. Raise UserError naming the operators that the opset lacks."""
    import onnx

    names = sorted({node.op_type for node in model.graph.node})
    lacking = [f"{name} (since {_since(name)})" for name in names if _since(name) > opset]
    if lacking:
        raise UserError(f"ONNX opset {opset} lacks {', '.join(lacking)}: give a later one, {OPSET} is the default")
    try:
        converted: ModelProto = onnx.version_converter.convert_version(model, opset)
        onnx.checker.check_model(converted, full_check=True)
    except Exception as error:  # RuntimeError, ConvertError, or a C++ assertion for an operator without adapter
        raise UserError(
            f"onnx cannot convert this network from opset {OLDEST} to {opset}: give {OLDEST} or later ({OPSET} is the "
            "default)"
        ) from error
    return converted


def _since(operator: str) -> int:
    """Return the first opset that has `operator`."""
    import onnx

    schemas = [schema for schema in onnx.defs.get_all_schemas_with_history() if schema.name == operator]
    return min(schema.since_version for schema in schemas if schema.domain == "")


def load(path: Path) -> Loaded:
    """Load an ONNX file to run in onnxruntime on the CPU; see `files.Format`."""
    import onnx

    with reading(path, EXPORT_AGAIN):
        model = onnx.load(path, load_external_data=False)  # an export is one file: no other is opened
        onnx.checker.check_model(model)
        run = runner(path, torch.get_num_threads())
        facts = {entry.key: json.loads(entry.value) for entry in model.metadata_props}
        macs, active = count(model)
        held = sum(math.prod(tensor.dims) * _item_size(tensor.data_type) for tensor in model.graph.initializer)
    return Loaded(run, macs, active, held, facts)


def runner(model: Path | bytes, threads: int) -> Callable[[Tensor], Tensor]:
    """Return the function from images (B, C, H, W) to outputs that onnxruntime makes of `model`, a file or its content,
    on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # of two sessions in turns, the threads of one would go on waiting busily while the other is timed
    options.add_session_config_entry("session.force_spinning_stop", "1")
    content = str(model) if isinstance(model, Path) else model
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> Tensor:
        (logits,) = session.run([OUTPUT], {INPUT: images.contiguous().numpy()})
        return torch.from_numpy(logits)

    return run


def count(model: ModelProto) -> tuple[int, int]:
    """Count the multiply-adds of the graph's convolutions and matrix products for one image: all of them, and those
    that are not by weights of zero. Raise CostError for another operator with multiply-adds."""
    weights, shapes = _weights(model), _shapes(model)
    macs = active = 0
    for node in model.graph.node:
        if node.op_type in MULTIPLYING:
            number, weight = _products(node, weights, shapes)
            macs += number
            active += number if weight is None else number * int(np.count_nonzero(weight)) // weight.size
    return macs, active


def _shapes(model: ModelProto) -> dict[str, list[int]]:
    """Return the shapes of the graph's tensors by name for one image, 0 for a dimension that ONNX does not infer."""
    import onnx

    single = onnx.ModelProto()
    single.CopyFrom(model)
    for value in (single.graph.input[0], single.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    del single.graph.value_info[:]  # of the dynamic batch size
    inferred = onnx.shape_inference.infer_shapes(single, data_prop=True)
    values = [*inferred.graph.value_info, *inferred.graph.output, *inferred.graph.input]
    found = {value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in values}
    return found | {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}


def _weights(model: ModelProto) -> dict[str, NDArray[Any]]:
    """Return the constants of the graph by name; those that it dequantises as the differences from their zero point."""
    import onnx

    found = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in found:
            zero = found[node.input[2]].astype(np.int64) if len(node.input) > 2 else np.zeros((), np.int64)
            values = found[node.input[0]].astype(np.int64)
            axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
            along = [-1 if index == axis % values.ndim else 1 for index in range(values.ndim)] if zero.ndim else []
            found[node.output[0]] = values - zero.reshape(along)
    return found


def _products(
    node: NodeProto, weights: Mapping[str, NDArray[Any]], shapes: Mapping[str, list[int]]
) -> tuple[int, NDArray[Any] | None]:
    """Return the multiply-adds of a convolution or matrix product for one image, and its weight; None for a product of
    two activations, as in attention."""
    weight = next((weights[name] for name in node.input[:2] if name in weights), None)
    if node.op_type not in PRODUCTS or (weight is None and node.op_type == "Conv"):
        raise CostError(f"{node.name}: multiply-adds of an ONNX {node.op_type} without a weight are not counted")
    result, first = shapes.get(node.output[0], [0]), shapes.get(node.input[0], [0])
    transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
    summed = first[0 if transposed else -1]
    if not all(result) or not summed:
        raise CostError(f"{node.name}: ONNX infers no shape for {node.op_type}")
    if node.op_type == "Conv":
        assert weight is not None
        return weight.size * math.prod(result) // len(weight), weight
    return math.prod(result) * summed, weight


def _item_size(kind: int) -> int:
    import onnx

    return int(onnx.helper.tensor_dtype_to_np_dtype(kind).itemsize)


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress an exporter's warnings and prints; its errors are exceptions."""
    before = logging.root.manager.disable
    logging.disable(max(before, logging.WARNING))
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)

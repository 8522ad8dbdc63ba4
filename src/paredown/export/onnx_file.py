"""An ONNX file: runs in onnxruntime and whatever else reads ONNX."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from paredown.cost.operators import CostError
from paredown.errors import UserError
from paredown.export.files import Loaded, Source, damaged

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

OPSET, OLDEST = 20, 18  # OLDEST: below it torch's exporter has no operators of its own and converts
LARGEST = 2**31 - 2**20  # bytes of one protobuf message
INPUT, OUTPUT = "images", "logits"
# operators that multiply matrices; what stands here and is not counted below stops the count
PRODUCTS = {"Conv", "Gemm", "MatMul"}
MULTIPLYING = PRODUCTS | {"ConvTranspose", "ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul", "Einsum"}
MULTIPLYING |= {"LSTM", "GRU", "RNN", "Attention", "DeformConv"}


def write(source: Source, path: Path, opset: int | None = None) -> None:
    """One file with a free batch size, facts as metadata properties (JSON each). UserError for a network that ONNX, or
    ONNX of `opset`, has no operators for."""
    import onnx

    wanted = OPSET if opset is None else opset
    newest = onnx.defs.onnx_opset_version()
    if wanted > newest:
        raise UserError(f"opset={wanted} is newer than any that onnx {onnx.__version__} knows: at most {newest}")
    model = _traced(source, max(wanted, OLDEST))
    if wanted < OLDEST:
        model = _lowered(model, wanted)
    for name, value in source.facts.items():
        model.metadata_props.add(key=name, value=json.dumps(value))
    if model.ByteSize() > LARGEST:
        raise UserError(f"the network has {model.ByteSize():,} bytes, more than the 2 GiB that one ONNX file holds")
    onnx.save(model, path)


def _traced(source: Source, opset: int) -> ModelProto:
    arguments: dict[str, Any] = {"input_names": [INPUT], "output_names": [OUTPUT], "opset_version": opset}
    arguments |= {"dynamic_shapes": ({0: torch.export.Dim("batch")},), "dynamo": True, "verbose": False}
    try:
        with _quiet():
            program = torch.onnx.export(source.module, (source.example(),), **arguments)
    except Exception as error:  # of dozens of types, none of them public
        cause = error.__cause__ or error
        reason = (str(cause).strip() or type(cause).__name__).splitlines()[0][:200]
        raise UserError(f"torch.onnx cannot export {type(source.module).__name__}: {reason}") from error
    assert program is not None
    model: ModelProto = program.model_proto
    return model


def _lowered(model: ModelProto, opset: int) -> ModelProto:
    """`model` in an older opset. UserError naming the operators that it lacks."""
    import onnx

    names = sorted({node.op_type for node in model.graph.node})
    lacking = [f"{name} (since {_since(name)})" for name in names if _since(name) > opset]
    if lacking:
        raise UserError(f"ONNX opset {opset} lacks {', '.join(lacking)}: give a later one, {OPSET} is the default")
    try:
        lowered: ModelProto = onnx.version_converter.convert_version(model, opset)
        onnx.checker.check_model(lowered, full_check=True)
    except Exception as error:  # RuntimeError, ConvertError, and a C++ assertion for what has no adapter
        raise UserError(
            f"onnx cannot convert this network from opset {OLDEST} to {opset}: give {OLDEST} or later ({OPSET} is the "
            "default)"
        ) from error
    return lowered


def _since(operator: str) -> int:
    """The first opset that has `operator`."""
    import onnx

    schemas = [schema for schema in onnx.defs.get_all_schemas_with_history() if schema.name == operator]
    return min(schema.since_version for schema in schemas if schema.domain == "")


def load(path: Path) -> Loaded:
    """See `files.Format`; runs in onnxruntime on the CPU."""
    import onnx
    import onnxruntime

    try:
        model = onnx.load(path)
        onnx.checker.check_model(model)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        facts = {entry.key: json.loads(entry.value) for entry in model.metadata_props}
    except Exception as error:  # protobuf's, onnx's and onnxruntime's own types
        raise damaged(path, error) from error

    def run(images: Tensor) -> Tensor:
        (logits,) = session.run([OUTPUT], {INPUT: images.contiguous().numpy()})
        return torch.from_numpy(logits)

    held = sum(math.prod(tensor.dims) * _item_size(tensor.data_type) for tensor in model.graph.initializer)
    return Loaded(run, *count(model), held, facts)


def count(model: ModelProto) -> tuple[int, int]:
    """Multiply-adds of one image: all that the graph's convolutions and matrix products carry out, and those by weights
    that are not zero. CostError for an operator that multiplies otherwise."""
    import onnx

    single = onnx.ModelProto()
    single.CopyFrom(model)
    for value in (single.graph.input[0], single.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    del single.graph.value_info[:]  # of the free batch size
    inferred = onnx.shape_inference.infer_shapes(single, data_prop=True)
    values = [*inferred.graph.value_info, *inferred.graph.output, *inferred.graph.input]
    shapes = {value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in values}
    weights = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    macs = active = 0
    for node in model.graph.node:
        if node.op_type in MULTIPLYING:
            own, times = _product(node, weights, shapes)
            macs += own.size * times
            active += int(np.count_nonzero(own)) * times
    return macs, active


def _product(
    node: NodeProto, weights: Mapping[str, NDArray[Any]], shapes: Mapping[str, list[int]]
) -> tuple[NDArray[Any], int]:
    """The weight of a convolution or matrix product, and how often each of its entries is multiplied for one image."""
    own = next((weights[name] for name in node.input[:2] if name in weights), None)
    if node.op_type not in PRODUCTS or own is None:
        raise CostError(f"{node.name}: multiply-adds of an ONNX {node.op_type} without a weight are not counted")
    result = shapes[node.output[0]]
    if not all(result):
        raise CostError(f"{node.name}: ONNX does not tell the shape of what {node.op_type} gives")
    if node.op_type == "Conv":
        return own, math.prod(result[2:])
    rows = result[:-1] if node.input[1] in weights else result[-1:]
    return own, math.prod(rows)


def _item_size(kind: int) -> int:
    import onnx

    return int(onnx.helper.tensor_dtype_to_np_dtype(kind).itemsize)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's remarks; its errors are exceptions."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)

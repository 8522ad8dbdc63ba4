"""Each format says what was trained, counts what it does, and a file that is not whole is one line."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from paredown.core import blueprint
from paredown.core.deploy import deploy
from paredown.core.errors import UserError
from paredown.core.network import Network
from paredown.cost import CostError, count
from paredown.export.files import FORMATS, Source, format_of, size
from paredown.export.onnx_file import _converted
from paredown.export.onnx_file import count as onnx_count
from paredown.layers.factorised.pair import decompose
from paredown.runtime.optimise import build


@pytest.fixture(scope="module", params=FORMATS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def written(name: str, source: Source, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp(name) / FORMATS[name]
    format_of(name).write(source, path)
    return path


def test_a_file_computes_what_was_trained_at_any_batch(name: str, written: Path, network: Network) -> None:
    loaded = format_of(name).load(written)
    for batch in (1, 5):
        images = torch.randn(batch, 1, 8, 8)
        with torch.no_grad():
            torch.testing.assert_close(loaded.run(images), network.module(images), rtol=1e-4, atol=1e-5)


def test_a_file_is_counted_as_the_layers_are(name: str, written: Path, network: Network, source: Source) -> None:
    """Structural zeros aside, three counters of three formats give the closed form of the trained network; with them,
    the closed form of the plain layers."""
    loaded = format_of(name).load(written)
    assert loaded.active_macs == count(network.module, (1, 8, 8)).macs
    plain = sum(layer.weight.numel() for layer in source.module.modules() if isinstance(layer, nn.Conv2d | nn.Linear))
    assert loaded.macs > loaded.active_macs  # SSC ships dense with zeros, where nothing packs it
    assert loaded.weight_bytes <= size(written)
    assert name == "torch" or 4 * plain <= loaded.weight_bytes  # torch/ leaves zeros out


def test_what_a_user_needs_is_inside(name: str, written: Path, source: Source) -> None:
    assert format_of(name).load(written).facts == source.facts


def test_a_damaged_file_is_one_line(name: str, written: Path, tmp_path: Path) -> None:
    broken = tmp_path / FORMATS[name]
    broken.mkdir() if written.is_dir() else None
    for file in written.iterdir() if written.is_dir() else [written]:
        content = file.read_bytes()
        (broken / file.name if written.is_dir() else broken).write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=f"{FORMATS[name]}.*export the run again") as caught:
        format_of(name).load(broken)
    assert "\n" not in str(caught.value)


def test_a_trained_state_is_not_taken_for_an_export(network: Network, tmp_path: Path) -> None:
    blueprint.save(network, tmp_path)
    with pytest.raises(UserError, match="holds a trained state, not an export"):
        format_of("torch").load(tmp_path)


def test_a_program_with_a_pickle_is_not_loaded(source: Source, tmp_path: Path) -> None:
    program = torch.export.export(nn.Linear(2, 2), (torch.zeros(1, 2),))  # torch pickles the example inputs
    torch.export.save(program, tmp_path / "model.pt2")
    with pytest.raises(UserError, match="holds pickled data"):
        format_of("program").load(tmp_path / "model.pt2")


@pytest.mark.parametrize("trick", ["no blanks", "an older format"])
def test_nor_is_one_that_hides_it(trick: str, source: Source, tmp_path: Path) -> None:
    format_of("program").write(source, tmp_path / "whole.pt2")
    with zipfile.ZipFile(tmp_path / "whole.pt2") as whole, zipfile.ZipFile(tmp_path / "model.pt2", "w") as changed:
        for name in whole.namelist():
            content = whole.read(name)
            if trick == "no blanks" and name.endswith("weights_config.json"):
                content = content.replace(b'"use_pickle": false', b'"use_pickle":true', 1)
                assert b'"use_pickle":true' in content
            changed.writestr(name, content)
        if trick == "an older format":
            changed.writestr("whole/data/weights/model.pt", b"a pickle")
    with pytest.raises(UserError, match="holds pickled data in whole/data/weights/model"):
        format_of("program").load(tmp_path / "model.pt2")


def test_masks_come_back_and_their_zeros_take_no_room(tmp_path: Path) -> None:
    """Of the two kinds with a mask of their own, one ships dense, the other as a sparse matrix."""
    architecture = {"_target_": "paredown.models.cifar.counterparts.three_fc", "num_classes": 3, "in_channels": 1}
    network = blueprint.create(architecture | {"image_size": [8, 8], "hidden": 64}, (1, 8, 8))
    names = [name for name, layer in network.module.named_modules() if isinstance(layer, nn.Linear)]
    for name, kind in zip(names, ("sparse", "masked"), strict=False):
        blueprint.rewrite(network, name, kind)
        layer: Any = network.module.get_submodule(name)
        layer.set_mask(torch.rand(layer.weight.shape) < 0.1)
    network.module.eval()
    source = Source(network, build(network, {}), {}, {})
    format_of("torch").write(source, tmp_path / "torch")
    loaded = format_of("torch").load(tmp_path / "torch")
    images = torch.randn(2, 1, 8, 8)
    torch.testing.assert_close(loaded.run(images), network.module(images))
    assert loaded.active_macs == count(network.module, (1, 8, 8)).macs
    values = sum(tensor.numel() * tensor.element_size() for tensor in network.module.state_dict().values())
    assert loaded.weight_bytes < values / 3


def test_an_opset_without_an_operator_is_told_with_the_one_that_has_it() -> None:
    from onnx import TensorProto, helper

    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("images", "logits")]
    node = helper.make_node("HardSwish", ["images"], ["logits"])
    model = helper.make_model(helper.make_graph([node], "g", values[:1], values[1:]))
    with pytest.raises(UserError, match=r"ONNX opset 9 lacks HardSwish \(since 14\)"):
        _converted(model, 9)


def test_an_opset_of_the_future_is_refused(source: Source, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="opset=99 is newer than onnx"):
        format_of("onnx").write(source, tmp_path / "model.onnx", 99)


class Tokens(nn.Module):
    """Patches, attention, and a linear layer in groups: products of two activations, and one of rows of tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, 12, 4, 4)
        self.attention = nn.MultiheadAttention(12, 2, batch_first=True)
        self.pair, self.head = decompose(nn.Linear(12, 10), "in_group", 3, 2), nn.Linear(10, 3)

    def forward(self, images: Tensor) -> Tensor:
        x = self.patches(images).flatten(2).transpose(1, 2)
        x = x + self.attention(x, x, x, need_weights=False)[0]
        return self.head(self.pair(x)).mean(1)


def test_attention_is_counted_by_shapes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Network(Tokens().eval(), {}, (1, 16, 16))
    format_of("onnx").write(
        Source(network, deploy(network.module).eval(), {}, {"input": [1, 16, 16]}), tmp_path / "m.onnx"
    )
    loaded, images = format_of("onnx").load(tmp_path / "m.onnx"), torch.randn(3, 1, 16, 16)
    torch.testing.assert_close(loaded.run(images), network.module(images), rtol=1e-4, atol=1e-5)
    tokens, by_hand = 16, 4 * 4 * 12 + 4 * 12 * 12 + 2 * 16 * 12 + 2 * (12 + 3 * 10) + 30
    assert loaded.macs == loaded.active_macs == tokens * by_hand == count(network.module, (1, 16, 16)).macs


def test_a_product_whose_shapes_onnx_does_not_infer_is_refused() -> None:
    from onnx import TensorProto, helper

    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 4, 4])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["found", "too"])
    nodes = [
        helper.make_node("NonZero", ["images"], ["found"]),
        helper.make_node("Cast", ["found"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["floats"], ["turned"]),
        helper.make_node("MatMul", ["turned", "floats"], ["logits"], name="unknown"),
    ]
    model = helper.make_model(helper.make_graph(nodes, "g", [images], [logits]))
    with pytest.raises(CostError, match="unknown: ONNX infers no shape for MatMul"):
        onnx_count(model)

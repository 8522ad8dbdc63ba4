"""A file in 8 bits: what is rounded, from which images, what it costs, and what is refused before anything is done."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

import paredown
from paredown.core import blueprint
from paredown.core.errors import UserError
from paredown.core.network import Network
from paredown.export import int8_file, onnx_file
from paredown.export.certificate import Entry, Quantised
from paredown.export.files import Source
from paredown.export.request import parse
from paredown.export.speed import speeds
from paredown.runtime.optimise import build


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(48, 1, 8, 8, generator=torch.Generator().manual_seed(3)) + 0.5


@pytest.fixture(scope="module")
def exact(source: Source, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exact") / "model.onnx"
    onnx_file.write(source, path)
    return path


@pytest.fixture(scope="module")
def rounded(source: Source, exact: Path, images: Tensor) -> Path:
    path = exact.with_name("model.int8.onnx")
    int8_file.write(exact, path, images.split(20), source.facts)
    return path


def constants(path: Path) -> dict[str, np.ndarray]:
    return {one.name: onnx.numpy_helper.to_array(one) for one in onnx.load(path).graph.initializer}


def test_every_filter_has_a_scale_of_its_own_and_seven_bits(rounded: Path, exact: Path) -> None:
    ours, weights = constants(rounded), constants(exact)
    for name in ("layer1.0.conv1.weight", "layer2.0.conv2.weight", "layer3.0.conv1.0.weight"):
        values, scales = ours[f"{name}_quantized"], ours[f"{name}_scale"]
        assert values.dtype == np.int8 and scales.shape == (len(values),) and abs(values.astype(int)).max() <= 64
        back = values * scales.reshape(-1, 1, 1, 1)
        assert (abs(back - weights[name]) <= 0.51 * scales.reshape(-1, 1, 1, 1)).all()


def test_the_ranges_are_those_of_the_images_given(rounded: Path, images: Tensor) -> None:
    ours = constants(rounded)
    assert ours["images_scale"] == pytest.approx(float(images.max() - images.min()) / 255, rel=1e-3)


def test_it_is_close_and_counted_as_the_exact_one(
    rounded: Path, exact: Path, images: Tensor, network: Network, source: Source
) -> None:
    small, large = onnx_file.load(rounded), onnx_file.load(exact)
    with torch.no_grad():
        logits = network.module(images)
    difference = float((small.run(images) - logits).abs().max() / logits.abs().max())
    assert 1e-4 < difference < 0.25
    assert small.facts == source.facts and small.macs == large.macs
    assert 0.9 * large.active_macs < small.active_macs <= large.active_macs  # small weights are rounded to zero
    assert small.weight_bytes < large.weight_bytes / 2


def test_logits_are_not_rounded(rounded: Path, images: Tensor) -> None:
    logits = onnx_file.load(rounded).run(torch.randn(2000, 1, 8, 8))
    assert len(logits.unique()) > 1000  # 256 if they were


def test_interleaved_layers_are_quantised_too(images: Tensor, tmp_path: Path) -> None:
    """SSC's library form: a convolution in groups plus a 1 x 1."""
    torch.manual_seed(0)
    architecture = {"_target_": "paredown.models.cifar.resnet.cifar_resnet", "depth": 8, "in_channels": 1}
    network = blueprint.create(architecture, (1, 8, 8))
    blueprint.rewrite(network, "layer2.0.conv2", "ssc", g=4, p=4)
    network.module.eval()
    layers = {name: "plain" for name, layer in network.module.named_modules() if hasattr(layer, "weight")}
    layers = {name: kind for name, kind in layers.items() if "bn" not in name and "norm" not in name}
    where = {"format": 1, "groups": 4, "memory_format": "contiguous", "dtype": "float32", "portable": True}
    choices = where | {"layers": layers | {"layer2.0.conv2": "interleaved"}, "batch": 1, "threads": 1, "device": "any"}
    source = Source(network, build(network, choices), choices, {"classes": []})
    onnx_file.write(source, tmp_path / "exact.onnx")
    int8_file.write(tmp_path / "exact.onnx", tmp_path / "rounded.onnx", [images], {})
    grouped = [values for name, values in constants(tmp_path / "rounded.onnx").items() if "spread" in name]
    assert any(values.dtype == np.int8 and values.ndim == 4 for values in grouped)


def entry(quantised: Quantised | None, difference: float = 0.3) -> Entry:
    return Entry("model", "", 1, 4, 1, 1, 1, 88.0, difference, 0.1, 0.9, False, (), quantised)


def test_a_drop_is_accepted_up_to_what_is_allowed() -> None:
    assert entry(Quantised(256, 90.0, 2.0, 2.0)).accepted and not entry(Quantised(256, 90.0, 2.0, 1.9)).accepted
    assert not entry(Quantised(256, 80.0, -8.0, 1.0), math.nan).accepted and not entry(None).accepted


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("quantize=int4", "quantize='int4': did you mean int8"),
        ("quantize=int8 format=torch,program", "add onnx to format="),
        ("quantize=int8 max_drop=-1", "max_drop='-1' (at least 0)"),
        ("quantize=int8 max_drop=nan", "max_drop='nan' (a finite number"),
        ("quantize=int8 max_drop=inf", "max_drop='inf' (a finite number"),
        ("quantize=int8 calibration=0", "calibration='0' (at least 1)"),
        ("quantize=int8 opset=12", "needs opset=13 or later"),
        ("max_drop=2", "are of quantize=int8"),
        ("calibration=9", "are of quantize=int8"),
    ],
)
def test_what_makes_no_sense_is_one_line(words: str, said: str) -> None:
    with pytest.raises(UserError) as raised:
        parse(["run=abcd", *words.split()])
    assert said in str(raised.value) and "\n" not in str(raised.value)


def test_an_export_that_exists_is_verified_not_quantised() -> None:
    with pytest.raises(UserError, match="quantize=int8 goes with run="):
        parse(["verify=somewhere", "quantize=int8"])


def linear(width: int, path: Path) -> Path:
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))
    onnx.save(onnx_file.exported(module.eval(), torch.zeros(2, 1, 8, 8)), path)
    return path


def test_the_faster_file_is_seen_to_be_faster(tmp_path: Path) -> None:
    found = speeds(linear(8, tmp_path / "a.onnx"), linear(30_000, tmp_path / "b.onnx"), (1, 8, 8), 0.05)
    assert [one.threads for one in found] in ([1], [1, 2]) and all(one.batch == 1 for one in found)
    assert all(one.speed_up > 2 and one.ms < one.dense_ms for one in found)


class TestTheFunction:
    """`paredown.export` on a module."""

    @pytest.fixture
    def module(self) -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(512, 4)).eval()

    def test_it_writes_the_file_in_8_bits(self, module: nn.Module, images: Tensor, tmp_path: Path) -> None:
        settings = {"formats": ["onnx"], "input_shape": (1, 8, 8), "quantize": "int8", "max_drop": 20}
        made = paredown.export(module, tmp_path, calibration=images, **settings)
        assert made["int8"].name == "model.int8.onnx" and made["int8"].stat().st_size < made["onnx"].stat().st_size

    def test_changed_classes_are_refused(
        self, module: nn.Module, images: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write = int8_file.write
        monkeypatch.setattr(int8_file, "write", lambda a, b, batches, facts: write(a, b, [0 * images], facts))
        with pytest.raises(UserError, match=r"in 8 bits \d+\.\d\d % of the images change class, more than max_drop=1"):
            paredown.export(
                module, tmp_path, formats=["onnx"], input_shape=(1, 8, 8), quantize="int8", calibration=images
            )
        assert not (tmp_path / "model.int8.onnx").exists()

    @pytest.mark.parametrize(
        ("settings", "said"),
        [
            ({"quantize": "int4"}, "quantize='int4'"),
            ({"formats": ["program"]}, "add 'onnx' to formats"),
            ({"calibration": None}, "calibration are training images"),
            ({"calibration": torch.zeros(0, 1, 8, 8)}, "calibration are training images"),
            ({"calibration": torch.zeros(4, 3, 8, 8)}, "not (4, 3, 8, 8)"),
            ({"max_drop": math.nan}, "max_drop=nan"),
            ({"opset": 12}, "opset=13 or later"),
            ({"quantize": None}, "calibration= is of quantize"),
        ],
    )
    def test_mistakes(self, settings: dict, said: str, module: nn.Module, images: Tensor, tmp_path: Path) -> None:
        asked = {"formats": ["onnx"], "input_shape": (1, 8, 8), "quantize": "int8", "calibration": images} | settings
        with pytest.raises(UserError) as raised:
            paredown.export(module, tmp_path / "new", **asked)
        assert said in str(raised.value) and not (tmp_path / "new").exists()

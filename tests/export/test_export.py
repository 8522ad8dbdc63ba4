"""A run on the way to its users: exported, certified in a fresh process, registered, used, damaged."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from paredown.core.errors import UserError
from paredown.core.requests import Failure
from paredown.experiment.prepare import open_data
from paredown.export.request import parse
from paredown.export.verify import verify
from paredown.export.work import export
from paredown.report.build import build
from paredown.report.request import Request
from paredown.run import walk
from paredown.tracking.client import connect

pytestmark = pytest.mark.slow
SMALL = ["dataset=digits", "model=resnet20", "model.depth=8", "dataset.fraction=0.1", "recipe.epochs=1"]
CHEAP = ["latency.seconds=0.02", "trainer.progress=false", "debug=fast"]
METHODS = {"ssc": ["method=ssc", "sparsity=0.7"], "low_rank": ["method=lr_s2", "speed_up=3"]}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    output = tmp_path_factory.mktemp("outputs")
    return {name: walk.run([*words, *SMALL, *CHEAP, f"output={output}"]) for name, words in METHODS.items()}


@pytest.fixture(scope="module")
def output(runs) -> Path:
    return runs["ssc"].folder.parents[1]


@pytest.fixture(scope="module")
def exported(runs, output):
    words = [f"run={runs['ssc'].run_id[:12]}", f"output={output}", "deploy=plain", "register=digits_ssc"]
    return export(parse(words))


def test_every_format_is_certified_by_a_fresh_process(exported, runs) -> None:
    made = exported.certificate
    assert set(made.entries) == {"torch", "program", "onnx"} and made.equal and made.images > 100
    for name, entry in made.entries.items():
        assert [one.threads for one in entry.latency][:1] == ([1] if name == "onnx" else [])
        assert all(one.batch == 1 and one.ms > 0 and one.dense_ms > 0 for one in entry.latency)
        assert entry.equal_predictions == 1 and entry.top1 == pytest.approx(made.trained_top1)
        assert entry.active_macs == runs["ssc"].metrics["cost/macs"] == made.trained_macs
        ratio = entry.bytes / entry.dense_bytes
        assert ratio < 0.4 if name == "torch" else 0.8 < ratio < 1.2  # zeros take room in the other two
    assert json.loads((exported.folder / "certificate.json").read_text())["certified"] is True


def test_the_usage_file_runs(exported, tmp_path: Path) -> None:
    """From another folder, on a real image, in every format."""
    image = tmp_path / "digit.png"
    Image.fromarray(np.full((20, 20), 200, np.uint8)).save(image)
    answers = []
    for keep in ("model.onnx", "model.pt2", "torch"):
        place = tmp_path / keep.replace(".", "_")
        place.mkdir()
        shutil.copy(exported.folder / "usage.py", place)
        source = exported.folder / keep
        shutil.copytree(source, place / keep) if source.is_dir() else shutil.copy(source, place)
        command = [sys.executable, str(place / "usage.py"), str(image)]
        ended = subprocess.run(command, capture_output=True, text=True, check=True)
        answers.append(ended.stdout.replace(str(image), ""))
    assert re.match(r"  \d \d+\.\d%", answers[0]) and len(set(answers)) == 1


def test_the_run_and_the_registry_know_of_it(exported, runs, output: Path) -> None:
    import mlflow

    uri = f"sqlite:///{output / 'mlflow.db'}"
    client = connect(uri)
    run = client.get_run(runs["ssc"].run_id)
    assert run.data.tags["certified"] == "torch,program,onnx" and run.info.status == "FINISHED"
    version = client.get_model_version("digits_ssc", "1")
    assert version.run_id == runs["ssc"].run_id and "| onnx | yes |" in version.description
    mlflow.set_tracking_uri(uri)
    model = mlflow.pyfunc.load_model("models:/digits_ssc/1")
    assert model.predict({"images": np.zeros((3, 1, 8, 8), np.float32)})["logits"].shape == (3, 10)


def test_a_front_of_certified_points_alone(exported, output: Path) -> None:
    report = build(Request(dataset="digits", output=str(output), certified=True))
    assert list(report.runs["method"]) == ["ssc"]
    assert "runs without a certificate, left out: 1" in report.missing


def test_a_damaged_export_is_one_line(exported, tmp_path: Path) -> None:
    place = shutil.copytree(exported.folder, tmp_path / "copy")
    with (place / "model.onnx").open("r+b") as file:
        file.seek(5000)
        file.write(b"\0" * 64)
    with pytest.raises(UserError, match=r"model\.onnx is not the file that was certified"):
        verify(place)
    assert verify(exported.folder).endswith("images of the val split")


def test_eight_bits_are_calibrated_on_training_images_as_evaluation_prepares_them(
    runs, output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from paredown.export import int8_file

    seen, write = [], int8_file.write

    def watched(exported, path, batches, facts) -> None:
        seen.extend(batches)
        write(exported, path, seen, facts)

    monkeypatch.setattr(int8_file, "write", watched)
    words = [f"run={runs['ssc'].folder}", "format=onnx", "deploy=plain", "seconds=0.02", f"folder={tmp_path}"]
    made = export(parse([*words, "quantize=int8", "calibration=40", "max_drop=5"]))
    data = open_data(made.certificate.dataset)
    pixels = torch.cat([images for images, _ in data.eval_loader("train", 64, "cpu")]).flatten(1)
    assert len(torch.cat(seen)) == 40
    assert all((pixels == image).all(1).any() for image in torch.cat(seen).flatten(1))
    entry, exact = made.certificate.entries["int8"], made.certificate.entries["onnx"]
    assert entry.quantised.calibration == 40 and entry.quantised.top1_before == made.certificate.trained_top1
    assert entry.quantised.drop == pytest.approx(made.certificate.trained_top1 - entry.top1)
    assert entry.bytes < exact.bytes and entry.largest_difference > exact.largest_difference and entry.latency
    assert "calibrated on 40 training images" in (tmp_path / "README.md").read_text()
    assert verify(tmp_path).count("onnx, int8 as certified") == 1


def test_eight_bits_that_lose_too_much_are_refused(
    runs, output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from paredown.export import int8_file

    write = int8_file.write

    def written_blind(exported, path, batches, facts) -> None:
        write(exported, path, [0 * images for images in batches], facts)

    monkeypatch.setattr(int8_file, "write", written_blind)
    words = [f"run={runs['low_rank'].run_id}", f"output={output}", "format=onnx", "deploy=plain", "register=blind"]
    with pytest.raises(UserError, match=r"model\.int8\.onnx loses .* points of top-1 .* more than max_drop=1: "):
        export(parse([*words, "quantize=int8", "seconds=0.02", f"folder={tmp_path}"]))
    assert "do not ship it" in (tmp_path / "README.md").read_text()
    with pytest.raises(UserError, match="do not ship it"):
        verify(tmp_path)
    client = connect(f"sqlite:///{output / 'mlflow.db'}")
    assert "certified" not in client.get_run(runs["low_rank"].run_id).data.tags
    assert "blind" not in [model.name for model in client.search_registered_models()]


def test_a_file_that_computes_something_else_is_neither_recorded_nor_registered(
    runs, output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from paredown.export import torch_file

    write = torch_file.write

    def write_wrongly(source, path, opset=None) -> None:
        write(source, path, opset)
        weights = load_file(path / "weights.safetensors")
        weights["fc.weight"].view(-1)[0] += 1  # one weight; a fresh dense network's biases are zeros and left out
        save_file(weights, path / "weights.safetensors")

    monkeypatch.setattr(torch_file, "write", write_wrongly)
    words = [f"run={runs['low_rank'].run_id}", f"output={output}", "format=torch", "deploy=plain", "register=wrong"]
    with pytest.raises(Failure, match="torch is not equivalent to the trained network"):
        export(parse([*words, f"folder={tmp_path}"]))
    assert "do not ship it" in (tmp_path / "README.md").read_text()
    client = connect(f"sqlite:///{output / 'mlflow.db'}")
    assert "certified" not in client.get_run(runs["low_rank"].run_id).data.tags
    assert "wrong" not in [model.name for model in client.search_registered_models()]


def test_onnxruntime_agrees_on_a_low_rank_network_too(runs, tmp_path: Path) -> None:
    """The last test: from here on both runs are certified."""
    words = [f"run={runs['low_rank'].folder}", "format=onnx", "deploy=plain", f"folder={tmp_path}"]
    entry = export(parse(words)).certificate.entries["onnx"]
    assert entry.equal and entry.macs == entry.active_macs  # factors have no zeros
    assert entry.bytes < 0.7 * entry.dense_bytes

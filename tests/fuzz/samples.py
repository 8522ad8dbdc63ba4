"""One real file of every format that is read, with the reader that a command would call."""

from __future__ import annotations

import io
import json
import pickle
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mutations as m
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from safetensors.torch import save_file
from scipy.io import savemat

from paredown.core import blueprint
from paredown.core.layout import read_result
from paredown.core.network import Network
from paredown.data import cache
from paredown.data.datasets import svhn
from paredown.data.datasets.cifar import Cifar
from paredown.data.decode import open_image
from paredown.data.parquet import read_parquet
from paredown.export import onnx_file, program_file, torch_file, verify
from paredown.export.files import Source
from paredown.models.cifar.resnet import cifar_resnet
from paredown.models.pretrained import load_pretrained
from paredown.results.find import find
from paredown.runtime.optimise import build
from paredown.store.lease import Leases
from paredown.store.objects import open_objects
from paredown.store.states import Record, Store
from paredown.surgery.synthesise import ImageStore
from paredown.sweep.spec import load as load_sweep
from paredown.tracking.journal import Journal
from paredown.tracking.sender import Sender
from paredown.tracking.tracker import Tracker
from paredown.training.checkpoint import SafeCheckpointIO

STATES = Path(__file__).parents[1] / "golden" / "states"
KEY = "ab" + "0" * 18
ARCHITECTURE = {
    "_target_": "paredown.models.cifar.resnet.cifar_resnet",
    "depth": 8,
    "num_classes": 10,
    "in_channels": 1,
}
CONFIG = {
    "names": {"method": "ssc", "model": "resnet20", "dataset": "digits"},
    "tracking": {"uri": "off"},
    "dataset": {"_target_": "paredown.data.datasets.digits.Digits", "name": "digits"},
}
FACTS = {"classes": ["a", "b"], "input": [1, 8, 8], "mean": [0.5], "std": [0.25], "scaled": [8, 8]}


@dataclass(frozen=True)
class Sample:
    """A file of a real format below a folder: `read(folder)` reads all of that folder after `file` was damaged.

    `weight` is its part of the inputs: readers that take long get fewer.
    """

    folder: Path
    file: str
    read: Callable[[Path], Any]
    kinds: tuple[m.Mutation, ...]
    weight: float = 1.0


def samples(root: Path) -> dict[str, Sample]:
    """Write the files below `root` and return them by the name of their format."""
    made: dict[str, Sample] = {}

    def add(name: str, file: str, read: Callable[[Path], Any], *kinds: m.Mutation, weight: float = 1.0) -> None:
        made[f"{name}: {file}"] = Sample(root / name, file, read, kinds or tuple(m.BYTES), weight)

    _states(root, add)
    _records(root, add)
    _weights(root, add)
    _images(root, add)
    _exports(root, add)
    return made


def _network() -> Network:
    torch.manual_seed(0)
    made = blueprint.create(ARCHITECTURE, (1, 8, 8))
    blueprint.rewrite(made, "layer2.0.conv2", "ssc", g=4, p=4)
    blueprint.rewrite(made, "layer3.0.conv1", "low_rank", factorisation="vertical_first", rank=5)
    made.module.eval()
    return made


def _states(root: Path, add: Any) -> None:
    (root / "state").mkdir()
    blueprint.save(_network(), root / "state")
    add("state", blueprint.ARCHITECTURE, blueprint.read, m.in_json, m.in_json, m.in_json, *m.BYTES)
    add("state", blueprint.WEIGHTS, blueprint.read, m.in_header, *m.BYTES)
    for name in ("branches", "searched", "masked"):
        shutil.copytree(STATES / name, root / name)
        add(name, blueprint.ARCHITECTURE, blueprint.read, m.in_json, weight=0.5)
    store = Store(root / "store")
    record = Record(
        KEY, "", {"name": "train"}, 0, "digits", 1.5, [{"train/loss": 0.5, "images": 10}], {"kept": {"a": 1}}
    )
    store.put(_network(), record)
    add("store", f"ab/{KEY}/stage.json", lambda folder: Store(folder).record(KEY), m.in_json, *m.BYTES)
    remote = Store(root / "cache", open_objects((root / "objects").as_uri()))
    remote.put(_network(), record)

    def fetched(folder: Path) -> Any:
        shutil.rmtree(folder / "cache", ignore_errors=True)
        open_objects.cache_clear()
        return Store(folder / "cache", open_objects(folder.as_uri())).read(KEY)

    add("objects", f"states/{KEY}.tar", fetched, m.in_tar, m.in_tar, *m.BYTES, weight=0.7)
    (root / "objects" / "owners").mkdir(exist_ok=True)
    (root / "objects" / "owners" / "abc.0").write_bytes(b"machine 12 holder 3")

    def leased(folder: Path) -> Any:
        open_objects.cache_clear()
        return Leases(open_objects(folder.as_uri())).is_leased("abc")

    add("objects", "owners/abc.0", leased, weight=0.3)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.randn(4, 3))], lr=0.1)
    state = {"epoch": 3, "state_dict": {"a": torch.randn(4, 3)}, "optimizer_states": [optimizer.state_dict()]}
    (root / "fit").mkdir()
    SafeCheckpointIO().save_checkpoint(state | {"pair": (1, None)}, root / "fit" / "last.safetensors")
    read = SafeCheckpointIO().load_checkpoint
    add("fit", "last.safetensors", lambda folder: read(folder / "last.safetensors"), m.in_header, *m.BYTES)
    images = ImageStore(root / "synthetic")
    images.write(0, torch.randn(4, 1, 8, 8), torch.tensor([0, 1, 2, 3]), [1.0, 0.5])
    add("synthetic", "00000.safetensors", lambda folder: ImageStore(folder).read(0), m.in_header, *m.BYTES, weight=0.5)


def _records(root: Path, add: Any) -> None:
    folder = root / "experiments" / "one"
    tracker = Tracker(folder, "off")
    tracker.start("one", {"seed": 0, "recipe": {"epochs": 3}}, {"method": "ssc"})
    for step in range(3):
        tracker.metrics({"train/loss": 0.5, "val/top1": 60.0 + step}, step)
    (place := root / "made").mkdir()
    blueprint.save(_network(), place)
    for name in (blueprint.ARCHITECTURE, blueprint.WEIGHTS):
        tracker.artifact(place / name, "state")
    tracker.text(json.dumps(CONFIG), "config.json")
    tracker.text(json.dumps([{"name": "train", "key": KEY}]), "plan.json")
    tracker.finish()
    metrics = {"final/top1": 60.5, "cost/macs": 1000, "cost/speed_up": 2.5, "latency/ms": 0.1}
    (folder / "result.json").write_text(json.dumps(metrics))
    Sender(Journal(folder), "sqlite:////nowhere/x.db").path.write_text(
        json.dumps({"run_id": "a" * 32, "experiment_id": "1", "offset": 20})
    )
    cursor = Sender(Journal(folder), "sqlite:////nowhere/x.db").path.name
    one = "one/"

    def found(folder: Path) -> Any:
        return find(str(folder / "one"), folder)

    add("experiments", f"{one}result.json", lambda folder: read_result(folder / "one"), m.in_json, *m.BYTES)
    add(
        "experiments",
        f"{one}tracking/journal.jsonl",
        lambda folder: Tracker(folder / "one", "off"),
        m.in_lines,
        *m.BYTES,
    )
    add("experiments", f"{one}tracking/files/config.json", found, m.in_json, *m.BYTES, weight=0.6)
    add("experiments", f"{one}tracking/files/state/architecture.json", found, m.in_json, weight=0.3)
    sent = lambda folder: Sender(Journal(folder / "one"), "sqlite:////nowhere/x.db").cursor  # noqa: E731
    add("experiments", f"{one}tracking/{cursor}", sent, m.in_json, *m.BYTES)
    (root / "sweeps").mkdir()
    (root / "sweeps" / "mine.yaml").write_text(
        "description: mine\noverrides: [dataset=digits]\ngrid: {method.g: [2, 4]}\nseeds: [0, 1]\n"
        "resources: {workers: 1}\n"
    )
    add(
        "sweeps",
        "mine.yaml",
        lambda folder: load_sweep([f"sweep={folder / 'mine.yaml'}"]),
        m.in_yaml,
        m.in_yaml,
        *m.BYTES,
    )


def _weights(root: Path, add: Any) -> None:
    torch.manual_seed(0)
    weights = cifar_resnet(8, 0.5).state_dict()
    (root / "weights").mkdir()
    save_file(weights, root / "weights" / "a.safetensors")
    torch.save({"state_dict": {f"module.{name}": value for name, value in weights.items()}}, root / "weights" / "b.pt")
    torch.save(weights, root / "weights" / "c.pt", _use_new_zipfile_serialization=False)

    def into(name: str) -> Callable[[Path], Any]:
        return lambda folder: load_pretrained(cifar_resnet(8, 0.5), folder / name)

    add("weights", "a.safetensors", into("a.safetensors"), m.in_header, *m.BYTES, weight=0.5)
    add("weights", "b.pt", into("b.pt"), m.in_zip, m.in_pickle, *m.BYTES, weight=0.5)
    add("weights", "c.pt", into("c.pt"), m.in_pickle, *m.BYTES, weight=0.5)


def _images(root: Path, add: Any) -> None:
    random = np.random.RandomState(0)
    picture = Image.fromarray(random.randint(0, 256, (12, 16, 3)).astype(np.uint8))
    (root / "images").mkdir()
    for name, mode in {
        "a.png": "RGB",
        "b.jpg": "RGB",
        "c.webp": "RGBA",
        "d.bmp": "P",
        "e.tiff": "RGB",
        "f.ppm": "RGB",
    }.items():
        picture.convert(mode).save(root / "images" / name)
        add(
            "images",
            name,
            lambda folder, name=name: open_image(folder / name, str(folder / name)),
            *m.BYTES,
            m.postscript,
            weight=0.6,
        )
    (root / "parquet").mkdir()
    files = []
    for number in range(6):
        picture.rotate(number).save(file := io.BytesIO(), "PNG")
        files.append({"bytes": file.getvalue(), "path": f"{number}.png"})
    features = {"info": {"features": {"label": {"names": ["a", "b", "c"]}}}}
    table = pa.table({"img": files, "label": [0, 1, 2] * 2}).replace_schema_metadata(
        {"huggingface": json.dumps(features)}
    )
    pq.write_table(table, root / "parquet" / "train.parquet")
    add("parquet", "train.parquet", lambda folder: read_parquet([folder / "train.parquet"]), *m.BYTES, m.flip_end)
    part = cache.Pixels(random.randint(0, 256, (4, 8, 8, 1)).astype(np.uint8), np.arange(4))
    cache.load(root / "decoded", "set", 1, lambda: cache.decoded("abcd", part, part))
    (entry,) = (path.name for path in (root / "decoded").iterdir() if path.is_dir())
    opened = lambda folder: cache.load(folder, "set", 1, lambda: cache.decoded("abcd", part, part))  # noqa: E731
    add("decoded", f"{entry}/metadata.json", opened, m.in_json, *m.BYTES, weight=0.4)
    add("decoded", f"{entry}/train_images.npy", opened, weight=0.5)
    add("decoded", f"{entry}/test_labels.npy", opened, weight=0.5)
    (root / "svhn").mkdir()
    images = {"X": random.randint(0, 256, (32, 32, 3, 3)).astype(np.uint8), "y": np.array([[1], [2], [10]], np.uint8)}
    savemat(root / "svhn" / "train_32x32.mat", images)
    add("svhn", "train_32x32.mat", lambda folder: svhn._read(folder / "train_32x32.mat"), weight=0.5)
    _cifar(root, add)


def _cifar(root: Path, add: Any) -> None:
    folder = root / "cifar" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for name in [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]:
        batch = {b"data": np.random.RandomState(0).randint(0, 256, (4, 3072)).astype(np.uint8), b"labels": [0, 1, 0, 1]}
        (folder / name).write_bytes(pickle.dumps({key.decode(): value for key, value in batch.items()}, protocol=3))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": ["a", "b"]}, protocol=3))

    def opened(place: Path) -> Any:
        shutil.rmtree(place / ".paredown", ignore_errors=True)
        settings: dict[str, Any] = {"mean": [0.5] * 3, "std": [0.5] * 3, "download": False, "validation": 0}
        return Cifar(name="cifar10", variant=10, root=place, **settings).prepare()

    add("cifar", "cifar-10-batches-py/data_batch_2", opened, m.in_pickle, *m.BYTES, weight=0.5)
    add("cifar", "cifar-10-batches-py/batches.meta", opened, m.in_pickle, *m.BYTES, weight=0.5)


def _exports(root: Path, add: Any) -> None:
    (root / "export").mkdir()
    source = Source(network := _network(), build(network, {}), {}, FACTS)
    torch_file.write(source, root / "export" / "torch")
    onnx_file.write(source, root / "export" / "model.onnx")
    program_file.write(source, root / "export" / "model.pt2")
    entry = {"file": "model.onnx", "sha256": "0" * 64, "top1": 60.0}
    made = {"certified": True, "dataset": CONFIG["dataset"], "split": "test", "entries": {"onnx": entry}}
    (root / "export" / "certificate.json").write_text(json.dumps(made))
    exported = lambda folder: torch_file.load(folder / "torch")  # noqa: E731
    add("export", "torch/architecture.json", exported, m.in_json, *m.BYTES, weight=0.3)
    add("export", "torch/weights.safetensors", exported, m.in_header, *m.BYTES, weight=0.3)
    add("export", "model.onnx", lambda folder: onnx_file.load(folder / "model.onnx"), weight=0.1)
    add("export", "model.pt2", lambda folder: program_file.load(folder / "model.pt2"), m.in_zip, *m.BYTES, weight=0.1)
    add("export", "certificate.json", lambda folder: verify._read(folder / "certificate.json"), m.in_json, *m.BYTES)

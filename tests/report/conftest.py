"""Recorded runs as experiments and sweeps leave them, in a database of their own."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from paredown.tracking.client import connect
from paredown.tracking.tracker import Status, Tracker

RESNET20 = {
    "_target_": "paredown.models.cifar.resnet.cifar_resnet",
    "depth": 20,
    "width": 1,
    "shortcut": "B",
    "block": "basic",
}
DENSE_MACS, DENSE_PARAMS = 40_813_184, 272_474
RANK = {"kind": "low_rank", "factorisation": "vertical_first", "rank": 5}
NAMES = ("layer", "kind", "dense_macs", "macs", "dense_weights", "weights", "blueprint")
ROWS = (("conv", "Conv2d", 400, 400, 40, 40, {}), ("layer1.0.conv1", "LowRank", 2000, 500, 200, 50, RANK))
LAYERS = [dict(zip(NAMES, row, strict=True)) for row in ROWS]
PRICE = {"images": 500, "other_images": 0, "epochs": 5, "seconds": 10.0, "macs": 1e9}


class Records:
    """Writes runs into a copy of the `empty` database below `folder`."""

    def __init__(self, folder: Path, empty: Path) -> None:
        shutil.copy(empty, folder / "mlflow.db")
        self.folder = folder
        self.uri = f"sqlite:///{folder / 'mlflow.db'}"
        self.number = 0
        self.client = connect(self.uri)

    def sweep(self, name: str, *folders: str) -> str:
        """The parent run of a sweep that lists the experiments `folders`."""
        run = self._run(name, {}, {"kind": "sweep", "sweep": name}, {}, "FINISHED")
        self.client.log_text(run, json.dumps({"experiments": [{"folder": folder} for folder in folders]}), "sweep.json")
        return run

    def experiment(
        self,
        method: str,
        seed: int,
        top1: float,
        speed_up: float = 1.0,
        status: Status | None = "FINISHED",
        tags: Mapping[str, str] | None = None,
        params: Mapping[str, Any] | None = None,
        layers: bool = True,
        **metrics: float,
    ) -> str:
        """A run as `run.walk` records it: its plan is the shared stage 'pretrain' of its seed and one of its own."""
        named = {"method": method, "model": "resnet20", "dataset": "cifar10", "debug": "None", "device": "cpu"}
        named |= {
            "seed": str(seed),
            "target": "none" if speed_up == 1 else f"speed_up={speed_up:g}",
            "kind": "experiment",
        }
        keys = [f"pretrain-{seed}", f"{method}-{speed_up}-{seed}-{top1}"]
        named |= {"stage/0_pretrain": keys[0], "stage/1_train": keys[1]} | dict(tags or {})
        named.setdefault("price", json.dumps([{"key": key} | PRICE for key in keys]))
        values = {"speed_up": None if speed_up == 1 else speed_up, "seed": seed, "model": RESNET20} | dict(params or {})
        figures = {"final/top1": top1, "cost/macs": DENSE_MACS / speed_up, "cost/dense_macs": DENSE_MACS}
        figures |= {
            "cost/speed_up": speed_up,
            "cost/dense_params": DENSE_PARAMS,
            "latency/ms": 2.0,
            "latency/dense_ms": 4.0,
        }
        figures |= {"price/macs": 2e9, "price/epochs": 10, "price/seconds": 20.0}
        figures |= {name.replace("__", "/"): value for name, value in metrics.items()}
        return self._run(f"{method}-{seed}", values, named, figures, status, layers)

    def _run(self, name: str, params: Any, tags: Any, metrics: Any, status: Status | None, layers: bool = False) -> str:
        self.number += 1
        tracker = Tracker(self.folder / str(self.number), self.uri)
        tracker.start(name, params, {key: value for key, value in tags.items() if key != "kind"})
        if metrics:
            tracker.metrics(metrics, 1)
        if layers:
            tracker.text(json.dumps(LAYERS), "layers.json")
        if status:
            assert tracker.finish(status)
        run = str(tracker.run_id)
        self.client.set_tag(run, "kind", tags.get("kind", "experiment"))
        return run


@pytest.fixture(scope="session")
def make_records(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Records]:
    empty = tmp_path_factory.mktemp("database") / "mlflow.db"  # making one takes seconds, copying it none
    connect(f"sqlite:///{empty}")
    return lambda: Records(tmp_path_factory.mktemp("outputs"), empty)


@pytest.fixture(scope="session")
def recorded(make_records: Callable[[], Records]) -> Records:
    """Sweep `whole`: dense and two ssc settings, three seeds, one of them twice, one failed. Sweep `waiting`: nothing
    finished. Sweep `mixed`: two data sets. A debug run and one of another width beside them."""
    records = make_records()
    whole = {"sweep": "whole"}
    records.sweep("whole")
    for seed in range(3):
        records.experiment("dense", seed, 91.0 + seed / 10, tags=whole)
        records.experiment("ssc", seed, 90.0 + seed / 10, 4, tags=whole, gain__top1=-1.0)
        records.experiment("ssc", seed, 80.0 + seed / 10, 3, tags=whole, gain__top1=-11.0)
    records.experiment("ssc", 2, 80.2, 3, tags=whole, gain__top1=-11.0)
    records.experiment("ssc", 3, 1.0, 8, tags=whole, status="FAILED")
    records.sweep("waiting")
    records.experiment("ssc", 0, 90.0, 5, tags={"sweep": "waiting"}, status=None)
    records.sweep("mixed")
    records.experiment("dense", 0, 98.0, tags={"sweep": "mixed", "dataset": "digits"}, layers=False)
    records.experiment("ssc", 0, 97.0, 2, tags={"sweep": "mixed", "dataset": "digits"}, layers=False)
    records.experiment("dense", 0, 90.0, tags={"sweep": "mixed"}, params={"recipe": {"epochs": 3}})
    records.experiment("dense", 7, 20.0, tags={"debug": "fast"})
    return records

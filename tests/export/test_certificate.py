"""A certificate against numbers worked by hand."""

from __future__ import annotations

import hashlib
import json
import math
import os
from pathlib import Path

import pytest
import torch

from paredown.core.errors import UserError
from paredown.export.certificate import compare, sha256
from paredown.export.check import Found
from paredown.export.request import parse
from paredown.export.verify import verify

LOGITS = torch.tensor([[4.0, 1.0], [0.0, 2.0], [3.0, 2.9], [1.0, 0.0]])
LABELS = torch.tensor([0, 1, 1, 1])


def entry(logits: torch.Tensor, path: Path, tolerance: float = 1e-4):
    (path / "model").write_bytes(b"abc")
    return compare(path / "model", Found(logits, 7, 5, 20), 30, LOGITS, LABELS, tolerance)


def test_the_figures(tmp_path: Path) -> None:
    changed = LOGITS.clone()
    changed[2] = torch.tensor([2.9, 3.0])  # one of four images falls into the other class: the right one
    found = entry(changed, tmp_path)
    assert found.largest_difference == pytest.approx(0.1) and found.relative_difference == pytest.approx(0.025)
    assert found.equal_predictions == 0.75 and found.top1 == 75 and not found.equal
    assert (found.bytes, found.dense_bytes, found.macs, found.active_macs) == (3, 30, 7, 5)
    assert entry(changed, tmp_path, tolerance=0.03).equal


def test_equal_within_rounding_and_never_where_a_logit_is_no_number(tmp_path: Path) -> None:
    assert entry(LOGITS * (1 + 5e-5), tmp_path).equal
    assert not entry(LOGITS * (1 + 2e-4), tmp_path).equal
    assert not entry(torch.full_like(LOGITS, math.nan), tmp_path).equal


def test_a_folder_s_digest_sees_names_and_contents(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    first = sha256(tmp_path)
    (tmp_path / "a").rename(tmp_path / "b")
    assert sha256(tmp_path) != first


@pytest.mark.parametrize("odd", ["folder", "link", "fifo", "a fifo alone"])
def test_what_is_no_file_has_no_digest(odd: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    make = {"folder": Path.mkdir, "link": lambda path: path.symlink_to("a")}.get(odd, os.mkfifo)
    make(tmp_path / "b")
    with pytest.raises(UserError, match=r"/b is no file of an export \(export the run again\)"):
        sha256(tmp_path / "b" if odd == "a fifo alone" else tmp_path)


def test_a_digest_is_that_of_earlier_exports(tmp_path: Path) -> None:
    for name in ("weights", "architecture"):
        (tmp_path / name).write_bytes(name.encode() * 100_000)
    content = b"".join(name + b"\n" + name * 100_000 for name in (b"architecture", b"weights"))
    assert sha256(tmp_path) == hashlib.sha256(content).hexdigest()
    assert sha256(tmp_path / "weights") == hashlib.sha256(b"weights" * 100_000).hexdigest()


def test_several_formats_in_either_way_to_write_them() -> None:
    assert parse(["run=abcd", "format=[onnx, torch]"]).format == parse(["run=abcd", "format=onnx,torch"]).format
    assert parse(["run=abcd"]).format == ("torch", "program", "onnx")


REFUSED = {"certified": False, "dataset": {}, "split": "test", "entries": {}}


def test_an_export_that_was_not_equal_is_not_verified(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no export, it has no certificate\.json"):
        verify(tmp_path)
    (tmp_path / "certificate.json").write_text("{")
    with pytest.raises(UserError, match=r"certificate\.json: Invalid JSON: .* \(export the run again\)"):
        verify(tmp_path)
    (tmp_path / "certificate.json").write_text(json.dumps(REFUSED))
    with pytest.raises(UserError, match="do not ship it"):
        verify(tmp_path)

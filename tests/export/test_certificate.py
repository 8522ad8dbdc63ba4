"""A certificate against numbers worked by hand."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from paredown.errors import UserError
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


def test_several_formats_in_either_way_to_write_them() -> None:
    assert parse(["run=abcd", "format=[onnx, torch]"]).formats == parse(["run=abcd", "format=onnx,torch"]).formats
    assert parse(["run=abcd"]).formats == ("torch", "program", "onnx")


def test_an_export_that_was_not_equal_is_not_verified(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no export lies there, it has no certificate\.json"):
        verify(tmp_path)
    (tmp_path / "certificate.json").write_text("{")
    with pytest.raises(UserError, match="is no certificate"):
        verify(tmp_path)
    (tmp_path / "certificate.json").write_text('{"certified": false}')
    with pytest.raises(UserError, match="do not ship it"):
        verify(tmp_path)

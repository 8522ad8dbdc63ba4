"""MATLAB's files, against scipy's writer; what scipy's reader faults on is one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from paredown.core.errors import UserError
from paredown.data.mat import read_mat


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.float64, np.int64, np.float32])
def test_arrays_are_read_as_scipy_wrote_them(compressed: bool, kind: type, tmp_path: Path) -> None:
    random = np.random.RandomState(0)
    written = {
        "X": random.randint(0, 100, (4, 3, 2, 5)).astype(kind),
        "y": random.randint(0, 10, (5, 1)).astype(kind),
        "single": np.array([[3]], kind),
        "text": "no number",
        "other": {"a": 1},
    }
    savemat(file := tmp_path / "a.mat", written, do_compression=compressed)
    found = read_mat(file, {"X", "y", "single"}, "fetch it")
    for name in ("X", "y", "single"):
        np.testing.assert_array_equal(found[name], written[name])
    with pytest.raises(UserError, match="holds no numbers called text"):
        read_mat(file, {"text"}, "fetch it")


def test_a_bomb_and_a_cut_are_one_line(tmp_path: Path) -> None:
    savemat(file := tmp_path / "a.mat", {"X": np.zeros((3000, 3000), np.uint8)}, do_compression=True)
    with pytest.raises(UserError, match=r"a.mat: it is cut short \(fetch it\)"):
        read_mat(file, {"X"}, "fetch it")  # a thousandfold of its size
    file.write_bytes(file.read_bytes()[:140])
    with pytest.raises(UserError, match=r"a.mat.*\(fetch it\)"):
        read_mat(file, {"X"}, "fetch it")

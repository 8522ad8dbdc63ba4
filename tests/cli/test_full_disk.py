"""A disk that is full, over its quota or read-only: one line, what is finished stays, and the same command goes on."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from paredown.core import files
from paredown.core.files import remove_leftovers, storage_failure, write_text
from paredown.core.requests import exit_codes

ROOT = Path(__file__).parents[2]
WORDS = ["dataset=digits", "dataset.fraction=0.1", "model=resnet20", "model.depth=8", "recipe.epochs=1"]
WORDS += ["latency.seconds=0", "tracking=off", "trainer.progress=false"]


def run(output: Path, most: int | None = None) -> subprocess.CompletedProcess[str]:
    """Run one experiment whose process can write files of `most` bytes."""
    command = [sys.executable, str(ROOT / "src/run.py"), *WORDS, f"output={output}", f"dataset.cache={output}/../cache"]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}

    def limit() -> None:
        if most:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))

    return subprocess.run(command, capture_output=True, text=True, env=environment, preexec_fn=limit, check=False)


@pytest.mark.slow
def test_a_run_over_its_limit_says_so_and_the_same_command_goes_on(tmp_path: Path) -> None:
    output = tmp_path / "out"
    for most, reason in ((200_000, "File too large"), (2_000_000, "File too large")):  # the state; its figures' page
        done = run(output, most)
        assert done.returncode == 1 and "Traceback" not in done.stderr
        line = done.stderr.strip().splitlines()[-1]
        assert line.startswith("paredown: ") and reason in line and "the same command goes on" in line
        assert not [path for path in output.rglob(".*") if path.name != ".lock"]
    assert len([*output.glob("store/*/*/stage.json")]) == 1  # the second try found the disk full after the training
    before = next(output.glob("store/*/*/stage.json")).stat().st_mtime_ns
    done = run(output)
    assert done.returncode == 0, done.stderr
    assert next(output.glob("store/*/*/stage.json")).stat().st_mtime_ns == before
    assert not [*output.rglob("*.unfinished")]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG])
def test_what_a_disk_refuses_is_one_line(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended, exit_codes():
        try:
            raise OSError(number, os.strerror(number), "/data/state")
        except OSError as error:
            raise RuntimeError("while storing") from error
    assert ended.value.code == 1
    assert capsys.readouterr().err == (
        f"paredown: {os.strerror(number)}: /data/state; what was finished is kept; when that is mended, the same "
        "command goes on\n"
    )


def test_a_library_s_exception_for_a_full_disk_is_one() -> None:
    assert storage_failure(ValueError("I/O error: No space left on device (os error 28)"))
    assert storage_failure(ValueError("no such layer")) is None
    assert storage_failure(FileNotFoundError(errno.ENOENT, "No such file")) is None


def test_a_file_that_cannot_be_written_is_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_text(tmp_path / "result.json", "old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_text(tmp_path / "result.json", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]
    assert (tmp_path / "result.json").read_text() == "old"


def test_what_a_killed_process_left_is_removed_and_a_living_one_s_is_not(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    living = {f".a.json.{os.getpid()}", f".a.json.{os.getpid()}-7", ".lock", "a.json", f".notes.{gone.pid}"}
    for name in (f".a.json.{gone.pid}", f".a.json.{gone.pid}-7", *living):
        (tmp_path / name).touch()
    (tmp_path / f".b.json.{gone.pid}").mkdir()
    remove_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == living | {f".b.json.{gone.pid}"}

"""The last net: an error that nothing else caught, as a person meets it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from paredown.core.crash import keep
from paredown.core.requests import FAILED, exit_codes

ROOT = Path(__file__).parents[2]
BREAK = """
import sys
sys.argv = {argv!r}
import paredown.cli.{command} as cli
def broken(*_):
    raise IndexError("list index\\nout of \\x1b[31mrange, http://me:secret@host/")
cli.{name} = broken
cli.main()
"""


@pytest.mark.parametrize(
    ("command", "name", "words"),
    [
        ("run", "_run", ["dataset=digits", "tracking=off"]),
        ("sweep", "_run", ["sweep=x"]),
        ("bench", "parse", ["model=resnet20"]),
        ("export", "parse", ["run=x"]),
        ("report", "parse", ["x=cost/macs"]),
    ],
)
def test_a_bug_is_one_line_and_a_file(command: str, name: str, words: list[str], tmp_path: Path) -> None:
    argv = ["x.py", *words, f"output={tmp_path / 'out put'}"]
    code = BREAK.format(argv=argv, command=command, name=name)
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert ended.returncode == FAILED and "Traceback" not in ended.stderr and len(ended.stderr.splitlines()) == 1
    line = r"^paredown: an unexpected error, IndexError: list index out of .*//host/; its traceback is in (.*) \("
    found = re.search(line, ended.stderr)
    assert found and Path(found[1]).parent == tmp_path / "out put"
    kept = Path(found[1]).read_text()
    assert "in broken" in kept and " ".join(words) in kept and "secret" not in kept and "\x1b" not in kept


def test_where_the_output_folder_takes_nothing_another_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["x.py", "output=/dev/null/x"])
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    with pytest.raises(SystemExit) as ended, exit_codes():
        raise MemoryError
    assert ended.value.code == FAILED
    (kept,) = tmp_path.iterdir()
    assert f"an unexpected error, MemoryError; its traceback is in {kept} " in capsys.readouterr().err


def test_an_output_folder_in_no_home_is_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    line = keep(IndexError("x"), ["run.py", "output=~nobody_of_this_name/x"])
    (kept,) = tmp_path.iterdir()
    assert f"IndexError: x; its traceback is in {kept.name} " in line

"""Wrong words of a bench are one line, before anything is timed."""

from __future__ import annotations

import pytest

from paredown.bench.request import parse
from paredown.core.errors import UserError


@pytest.mark.parametrize(
    ("word", "why"),
    [
        ("batch=[]", r"batch=\[\] times nothing"),
        ("batch=0", "batch='0' .at least 1"),
        ("threads=99999", "threads='99999' .1 to 1024"),  # with which torch ends the process
        ("threads=0", "threads='0' .1 to 1024"),
    ],
)
def test_a_wrong_word_is_refused(word: str, why: str) -> None:
    with pytest.raises(UserError, match=why):
        parse(["model=resnet20", "dataset=digits", word])

"""Which runs are one setting."""

from __future__ import annotations

from types import SimpleNamespace

from paredown.report.naming import identity, label, varied


def run(**params: str) -> SimpleNamespace:
    return SimpleNamespace(data=SimpleNamespace(params=params, tags={"method": "ssc"}))


def test_what_an_older_version_did_not_have_is_no_difference() -> None:
    runs = [run(seed="0", deploy="plain", control="null"), run(seed="1")]
    assert identity(runs[0]) == identity(runs[1])
    assert {label(one, varied(runs)) for one in runs} == {"ssc"}


def test_what_was_chosen_is_one() -> None:
    runs = [run(deploy="auto"), run(deploy="plain"), run()]
    assert len({identity(one) for one in runs}) == 2
    assert label(runs[0], varied(runs)) == "ssc deploy=auto"


def test_packed_training_is_the_same_setting_and_random_designs_are_not() -> None:
    assert identity(run(**{"method.packed": "auto"})) == identity(run())
    searched, drawn = run(**{"method.search.by": "gradient"}), run(**{"method.search.by": "random"})
    assert identity(searched) == identity(run()) != identity(drawn)

"""Published rows as commands: what the user adds to them, and why some cannot be run."""

from __future__ import annotations

import pytest

from paredown.core.config import compose
from paredown.core.errors import UserError
from paredown.cost import count
from paredown.cost.conventions import macs_under
from paredown.models import torchvision
from paredown.published.settings import THOP_AND_OURS, commands, overrides, rows, with_row


@pytest.mark.parametrize("name", THOP_AND_OURS)
def test_a_target_in_our_count_is_the_printed_change_of_flops_in_thops(name: str) -> None:
    network = getattr(torchvision, name)().eval()
    thop, ours = macs_under("thop", network, (3, 224, 224)), count(network, (3, 224, 224)).macs
    assert (thop, ours) == THOP_AND_OURS[name]
    row = next(row for row in rows("svd_nas/tablemain") if (row["model"], row["method"]) == (name, "lr_s2"))
    saved = ours - ours / compose(overrides(row))["speed_up"]  # of convolutions, which both count alike
    assert -100 * saved / thop == pytest.approx(row["flops_change"], abs=0.005)  # two digits are printed


def test_the_main_texts_rows_of_svd_nas_are_rows_of_table_s3_and_search_times_no_results() -> None:
    words = overrides(rows("svd_nas/tablemain/1")[0])
    assert {"method.beta=32", "method.gamma=[0.40,0.80]", "method.branches=2"} < set(words)
    small = next(row for row in rows("svd_nas/tableS2") if row["hyperparameters"]["search_val_images"] == "500")
    assert {"method.search.images=500", "method.search.passes=100"} < set(overrides(small))
    with pytest.raises(UserError, match=r"svd_nas/tableS1/1 cannot be run: it holds search times"):
        overrides(rows("svd_nas/tableS1")[0])


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("svd_training/table3/99", r"its rows are 1 to 76"),
        ("svd_training/table33", r"did you mean svd_training/table3"),
        ("beta_lasso/table3/1", None),
    ],
)
def test_what_cannot_be_run_says_why(name: str, says: str | None) -> None:
    if says:
        with pytest.raises(UserError, match=says):
            rows(name)
        return
    with pytest.raises(UserError, match=rf"{name} cannot be run: (there is no method|it holds counts)"):
        overrides(rows(name)[0])


def test_a_table_has_all_its_rows_in_order() -> None:
    found = rows("svd_training/table3")
    assert [row["id"] for row in found] == [f"svd_training/table3/{number}" for number in range(1, 77)]


ROW = "svd_training/table3/11"


def test_the_words_of_a_row_stand_beside_its_name_once() -> None:
    words = with_row(["--cfg", "job", f"reproduce={ROW}", "method.energy=1e-3", "-p", "method"])
    assert words[:2] == ["--cfg", "job"] and words[-3:] == ["method.energy=1e-3", "-p", "method"]
    assert words[2:-3] == [
        *("dataset=cifar10", "method=svd_training", "method.form=spatial", "method.regularizer=hoyer"),
        *("method.decay=0.03", "model=resnet20", "recipe=svd_training_code", "dataset.validation=0"),
        *("recipe.precision=32", f"reproduce={ROW}"),
    ]
    assert with_row(words) == words  # as the ranks of a run get them
    assert with_row(["method=ssc", "sparsity=0.9"]) == ["method=ssc", "sparsity=0.9"]


def test_the_settings_of_a_group_go_with_the_group() -> None:
    row = rows("svd_training/table6/6")[0]  # TRP on ResNet-32, of single width
    (words,) = commands(row, ["model=vgg19", "recipe=cifar10", "method=ssc", "sparsity=0.5"], 1)
    assert [word for word in words if word.startswith(("model.", "recipe.", "method."))] == ["recipe.precision=32"]
    assert compose(words)["model"]["weight_decay"] == 5e-4

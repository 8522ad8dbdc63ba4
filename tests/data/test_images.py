"""What every data set shares, shown on the embedded digits."""

import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from paredown.errors import UserError


def gather(loader):
    batches = list(loader)
    return torch.cat([images for images, _ in batches]), torch.cat([labels for _, labels in batches])


def test_digits_are_scikit_learns_digits_split_in_three(dataset):
    data = dataset("digits")
    data.prepare()
    assert (data.num_classes, data.input_shape, data.eval_splits) == (10, (1, 8, 8), ["val", "test"])
    assert data.sizes == {"train": 1294, "val": 144, "test": 359}
    images = torch.cat([gather(data.eval_loader(name, 100, "cpu"))[0] for name in ("train", "val", "test")])
    raw = (images * data.std[0] + data.mean[0]) * 16
    ours = sorted(map(tuple, raw.flatten(1).round().int().tolist()))
    assert ours == sorted(map(tuple, load_digits().data.astype(int).tolist()))


def test_digits_can_be_learnt_from_train_and_known_in_test(dataset):
    data = dataset("digits")
    (images, labels), (test, truth) = (gather(data.eval_loader(name, 100, "cpu")) for name in ("train", "test"))
    model = LogisticRegression(max_iter=300).fit(images.flatten(1), labels)
    assert model.score(test.flatten(1), truth) > 0.93


@pytest.mark.parametrize("name", ["digits", "cifar10", "tiny_imagenet"])
def test_mean_and_std_normalise_the_images(dataset, shared_data, real_cache, name):
    root = {"cifar10": "cifar10", "tiny_imagenet": "tiny-imagenet-20"}.get(name)
    where = [f"dataset.root={shared_data / root}"] if root else []
    data = dataset(name, *where, real_cache, "dataset.fraction=0.1")
    images, _ = gather(data.eval_loader("train", 500, "cpu"))
    assert images.mean((0, 2, 3)).abs().max() < 0.15
    assert (images.std((0, 2, 3)) - 1).abs().max() < 0.3  # the papers' std of CIFAR-10 is a mean over images


def test_splits_are_disjoint_and_the_first_classes_can_be_kept(dataset):
    data = dataset("digits", "dataset.classes=3", "dataset.fraction=0.5", "dataset.validation=30")
    parts = {name: gather(data.eval_loader(name, 64, "cpu")) for name in ("train", "val", "test")}
    assert data.num_classes == 3
    assert data.class_names == ("0", "1", "2")
    assert all(set(labels.tolist()) == {0, 1, 2} for _, labels in parts.values())
    assert data.sizes == {name: len(labels) for name, (_, labels) in parts.items()}
    assert data.sizes["val"] == 30
    train, val = ({tuple(image.flatten().tolist()) for image in parts[name][0]} for name in ("train", "val"))
    assert not train & val


def test_the_key_follows_what_a_training_sees_and_nothing_else(dataset, tmp_path):
    base = dataset("digits")
    base.prepare()
    same = dataset("digits", f"dataset.cache={tmp_path / 'elsewhere'}")
    same.prepare()
    assert base.key == same.key
    keys = {base.key}
    for change in (
        "fraction=0.5",
        "classes=9",
        "validation=0.2",
        "split_seed=1",
        "augment.crop=2",
        "augment.flip=true",
        "mean=[0.3]",
    ):
        other = dataset("digits", f"dataset.{change}")
        other.prepare()
        keys.add(other.key)
    assert len(keys) == 8
    assert all(len(key) == 20 for key in keys)


def test_without_validation_only_test_is_evaluated(dataset):
    data = dataset("digits", "dataset.validation=0")
    assert data.eval_splits == ["test"]
    assert data.sizes["train"] == 1438


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("dataset.fraction=0", r"fraction=0 is not in \(0, 1\]"),
        ("dataset.fraction=1.5", r"fraction=1.5 is not in"),
        ("dataset.validation=1.0", "validation=1.0 is neither"),
        ("dataset.validation=-3", "validation=-3 is neither"),
        ("dataset.validation=5000", "validation=5000 is more than the 1438"),
        ("dataset.fraction=half", "fraction='half' is not a number"),
        ("dataset.classes=2.5", "classes=2.5 is not a whole number"),
        ("dataset.split_seed=-1", "split_seed=-1 is not between"),
        ("dataset.split_seed=true", "split_seed=True is not a whole number"),
        ("dataset.mean=[a]", r"mean=\['a'\] .*one number per channel"),
        ("dataset.classes=11", "classes=11 is more than the 10"),
        ("dataset.classes=1", "classes=1 is below 2"),
        ("dataset.mean=[0.1,0.2]", "one number per channel"),
        ("dataset.augment.crop=9", "crop=9 .* 8x8 pixels"),
        ("+dataset.augment.flop=1", "did you mean flip"),
    ],
)
def test_wrong_values_are_one_line(dataset, override, message):
    with pytest.raises(UserError, match=message) as error:
        dataset("digits", override).prepare()
    assert "\n" not in str(error.value)


def test_three_values_for_one_channel_are_refused(dataset):
    with pytest.raises(UserError, match=r"mean has 3 values, the images of digits 1 channels"):
        dataset("digits", "dataset.mean=[0,0,0]", "dataset.std=[1,1,1]").prepare()


def test_a_choice_of_a_split_is_fixed_and_comes_in_every_pass(dataset):
    data = dataset("digits")
    data.prepare()

    def seen(loader):
        return sorted(map(tuple, gather(loader)[0].flatten(1).tolist()))

    every = seen(data.eval_loader("val", 64, "cpu"))
    chosen = seen(data.eval_loader("val", 64, "cpu", images=20))
    assert len(chosen) == 20 and set(chosen) <= set(every) and every == seen(data.chosen_loader("val", 50, 3, "cpu"))
    twice = data.chosen_loader("val", 16, 3, "cpu", images=20, passes=2)
    assert seen(twice) == sorted(chosen * 2) and len(twice) == 3
    halves = [data.chosen_loader("val", 16, 3, "cpu", rank, 2, images=20, passes=2) for rank in (0, 1)]
    assert sorted([image for half in halves for image in seen(half)]) == sorted(chosen * 2)
    assert seen(dataset("digits", "dataset.split_seed=1").eval_loader("val", 64, "cpu", images=20)) != chosen
    changed = seen(data.chosen_loader("train", 50, 3, "cpu", images=20, augmented=True))
    assert len(changed) == 20

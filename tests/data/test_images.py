"""What every data set shares, shown on the embedded digits."""

from itertools import product

import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from paredown.core.errors import UserError
from paredown.data.splits import split


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
    data = dataset(name, *where, real_cache, "dataset.fraction=0.1", "dataset.validation=0.1")
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
        ("dataset.fraction=0", r"fraction=0 \(in \(0, 1\]: 0\.2 keeps a fifth"),
        ("dataset.fraction=1.5", r"fraction=1\.5 \(in"),
        ("dataset.validation=1.0", r"validation=1\.0 \(a count, or a fraction below 1"),
        ("dataset.validation=-3", r"validation=-3 \(a count"),
        ("dataset.validation=5000", "validation=5000 is more than the 1438"),
        ("dataset.fraction=half", r"fraction='half' \(a number, in"),
        ("dataset.classes=2.5", r"classes=2\.5 \(a whole number, at least 2; null keeps all\)"),
        ("dataset.split_seed=-1", r"split_seed=-1 \(from 0 to"),
        ("dataset.split_seed=true", r"split_seed=true \(a whole number"),
        ("dataset.mean=[a]", r"dataset\.mean\.0='a' \(a number\)"),
        ("dataset.classes=11", "classes=11 is more than the 10"),
        ("dataset.classes=1", r"classes=1 \(at least 2; null keeps all\)"),
        ("dataset.mean=[0.1,0.2]", "one number per channel"),
        ("dataset.augment.crop=9", "crop=9 .* 8x8 pixels"),
        ("+dataset.augment.flop=1", "did you mean flip"),
        ("dataset.name=../../x", "dataset.name='../../x' is no name of a folder"),
        ("dataset.name=..", "dataset.name='..' is no name of a folder"),
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


def crops(images):
    padded = torch.nn.functional.pad(images, (1, 1, 1, 1), value=images.min())
    return [padded[..., y : y + 8, x : x + 8] for y, x in product(range(3), range(3))]


def cutouts(images):
    found = []
    for y, x in product(range(8), range(8)):
        found.append(images.clone())
        found[-1][..., max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2] = 0
    return found


# what each setting may make of the stored images (n, 1, 8, 8)
AUGMENTED = {
    "crop=1": crops,
    "flip=true": lambda images: [images, images.flip(-1)],
    "cutout=3": cutouts,
}


def as_set(images, labels):
    return {(int(label), *image.flatten().tolist()) for image, label in zip(images, labels, strict=True)}


@pytest.mark.parametrize("setting", AUGMENTED)
def test_training_images_are_augmented_anew_in_every_epoch(dataset, setting):
    data = dataset("digits", f"dataset.augment.{setting}")
    images, labels = gather(data.eval_loader("train", 100, "cpu"))
    views = [as_set(view, labels) for view in AUGMENTED[setting](images)]
    loader = data.train_loader(100, 0, "cpu")
    epochs = []
    for epoch in range(2):
        loader.set_epoch(epoch)
        epochs.append(as_set(*gather(loader)))
        assert epochs[-1] <= set().union(*views)
        for view in views:  # each comes, and none is all there is
            assert 0 < len(epochs[-1] & view) < 0.7 * len(images)
    assert len(epochs[0] & epochs[1]) < 0.7 * len(images)


def test_evaluation_never_augments_and_other_training_only_where_asked(dataset):
    plain, data = dataset("digits"), dataset("digits", *(f"dataset.augment.{setting}" for setting in AUGMENTED))
    for name in ("train", "val", "test"):
        expected, labels = gather(plain.eval_loader(name, 100, "cpu"))
        assert torch.equal(gather(data.eval_loader(name, 100, "cpu"))[0], expected)
        assert as_set(*gather(data.chosen_loader(name, 100, 0, "cpu"))) == as_set(expected, labels)
        augmented = as_set(*gather(data.chosen_loader(name, 100, 0, "cpu", augmented=True)))
        assert len(augmented & as_set(expected, labels)) < 0.2 * len(labels)


@pytest.mark.parametrize(
    "changes",
    [{"validation": 30}, {"validation": 0.2}, {"fraction": 0.5}, {"split_seed": 3}, {"classes": 4}],
    ids=str,
)
def test_every_setting_of_the_splits_arrives(dataset, changes):
    images, labels = gather(dataset("digits", "dataset.validation=0").eval_loader("train", 500, "cpu"))
    settings = {"validation": 0.1, "fraction": 1.0, "split_seed": 0, "classes": 10} | changes
    images, labels = images[labels < settings["classes"]], labels[labels < settings["classes"]]
    rows = split(labels.numpy(), settings["validation"], settings["fraction"], settings["split_seed"])
    data = dataset("digits", *(f"dataset.{name}={value}" for name, value in changes.items()))
    for name, expected in zip(("train", "val"), rows, strict=True):
        found, classes = gather(data.eval_loader(name, 500, "cpu"))
        assert torch.equal(found, images[expected]) and torch.equal(classes, labels[expected])


@pytest.mark.parametrize("loader", ["train_loader", "chosen_loader", "eval_loader"])
def test_mean_and_std_reach_every_loader(dataset, loader):
    first = () if loader == "train_loader" else ("val",)
    seed = () if loader == "eval_loader" else (0,)
    data, other = dataset("digits"), dataset("digits", "dataset.mean=[0.1]", "dataset.std=[0.5]")
    usual, changed = (gather(getattr(d, loader)(*first, 50, *seed, "cpu"))[0] for d in (data, other))
    raw = usual * data.std[0] + data.mean[0]
    torch.testing.assert_close(changed, (raw - 0.1) / 0.5)


def test_batch_size_seed_rank_and_world_reach_the_loaders(dataset):
    data = dataset("digits", "dataset.augment.crop=1")
    for make in (data.train_loader, lambda *args: data.chosen_loader("val", *args, augmented=True)):
        whole = list(make(36, 5, "cpu"))
        assert len(whole[0][1]) == 36
        assert not torch.equal(whole[0][1], next(iter(make(36, 6, "cpu")))[1])
        for rank in range(3):
            for (images, labels), (part, part_labels) in zip(whole, make(36, 5, "cpu", rank, 3), strict=True):
                assert torch.equal(part, images[rank::3]) and torch.equal(part_labels, labels[rank::3])
    images, _ = gather(data.eval_loader("val", 36, "cpu"))
    for rank in range(3):
        loader = data.eval_loader("val", 36, "cpu", rank, 3)
        assert torch.equal(gather(loader)[0], images[rank::3]) and len(next(iter(loader))[1]) == 36


def test_a_balanced_sample_has_equally_many_images_of_every_class(dataset):
    data = dataset("digits", "dataset.classes=7")
    chunks = list(data.balanced("train", 3, 2, seed=0, device="cpu", chunk=8))
    assert [len(labels) for _, labels in chunks] == [8, 8, 5] * 2
    draws = [gather(chunks[:3]), gather(chunks[3:])]
    stored = as_set(*gather(data.eval_loader("train", 100, "cpu")))
    for images, labels in draws:
        assert labels.tolist() == sorted([*range(7)] * 3)
        assert len(as_set(images, labels)) == 21 and as_set(images, labels) <= stored
    assert len(as_set(*draws[0]) & as_set(*draws[1])) < 5
    assert len(list(data.balanced("train", 3, 2, seed=0, device="cpu"))) == 2  # a chunk a sample
    assert [len(labels) for _, labels in data.balanced("val", 1, 1, seed=0, device="cpu", chunk=6)] == [6, 1]


def test_seed_and_draw_alone_fix_a_balanced_sample(dataset):
    data = dataset("digits", "dataset.augment.crop=1", "dataset.split_seed=4")

    def sample(per_class=5, draws=1, seed=0):
        return gather(data.balanced("train", per_class, draws, seed, "cpu"))[0]

    assert torch.equal(sample(), sample()) and torch.equal(sample(draws=3)[:50], sample())
    assert not torch.equal(sample(), sample(seed=1))
    plain = dataset("digits", "dataset.split_seed=4")
    few, more = (as_set(*gather(plain.balanced("train", count, 1, 0, "cpu"))) for count in (3, 5))
    assert few < more


def test_a_balanced_sample_is_augmented_as_in_training(dataset):
    data = dataset("digits", "dataset.augment.flip=true")
    found = as_set(*gather(data.balanced("train", 20, 1, 0, "cpu")))
    images, labels = gather(data.eval_loader("train", 100, "cpu"))
    stored, mirrored = as_set(images, labels), as_set(images.flip(-1), labels)
    assert found <= stored | mirrored and min(len(found & stored), len(found & mirrored)) > 50


def test_a_class_with_too_few_images_is_named(dataset):
    with pytest.raises(UserError, match=r"cannot take 20 images of every class: class '0' has 14$"):
        dataset("digits").balanced("val", 20, 1, 0, "cpu")

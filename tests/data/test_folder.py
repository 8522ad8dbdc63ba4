"""Folders of class folders, in memory and streamed."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from paredown.errors import UserError


def write(folder, classes=3, count=10, size=(20, 16), seed=0):
    random = np.random.RandomState(seed)
    for name in "abcdefgh"[:classes]:
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = random.randint(0, 256, (size[1], size[0], 3)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


PLAIN = ["dataset.mean=[0,0,0]", "dataset.std=[1,1,1]", "dataset.validation=0"]
STREAM = [*PLAIN, "dataset.memory=0", "dataset.augment.crop=0"]


def images_of(data, split, batch=4):
    batches = list(data.eval_loader(split, batch, "cpu"))
    return torch.cat([images for images, _ in batches]), torch.cat([labels for _, labels in batches])


def in_order(images, labels):
    pairs = zip(labels.tolist(), (image.flatten().tolist() for image in images), strict=True)
    return torch.tensor([[label, *image] for label, image in sorted(pairs)])


def test_train_and_val_folders_hold_what_torchvision_finds(dataset, tmp_path):
    write(tmp_path / "train")
    write(tmp_path / "val", count=4, seed=1)
    data = dataset("folder", f"dataset.root={tmp_path}", *PLAIN)
    for split, name in (("train", "train"), ("test", "val")):
        theirs = ImageFolder(tmp_path / name, v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]))
        pairs = [theirs[i] for i in range(len(theirs))]
        expected = in_order(torch.stack([image for image, _ in pairs]), torch.tensor([y for _, y in pairs]))
        torch.testing.assert_close(in_order(*images_of(data, split)), expected)
    assert data.class_names == ("a", "b", "c")
    assert data.input_shape == (3, 16, 20)


def test_a_single_folder_is_split(dataset, tmp_path):
    data = dataset("folder", f"dataset.root={write(tmp_path / 'all')}", *PLAIN)
    data.prepare()
    assert data.sizes == {"train": 24, "val": 0, "test": 6}
    train, test = (set(map(tuple, images_of(data, name)[0].flatten(1).tolist())) for name in ("train", "test"))
    assert not train & test


@pytest.mark.parametrize("workers", [0, 2])
def test_streamed_evaluation_is_scaled_and_cut_at_the_centre(dataset, tmp_path, workers):
    write(tmp_path / "train", size=(90, 60))
    write(tmp_path / "val", count=4, size=(90, 60), seed=1)
    sizes = ["dataset.size=28", f"dataset.workers={workers}"]
    data = dataset("folder", f"dataset.root={tmp_path}", *STREAM, *sizes)
    transform = v2.Compose([v2.Resize(32), v2.CenterCrop(28), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
    theirs = ImageFolder(tmp_path / "val", transform)
    pairs = [theirs[i] for i in range(len(theirs))]
    expected = in_order(torch.stack([image for image, _ in pairs]), torch.tensor([y for _, y in pairs]))
    torch.testing.assert_close(in_order(*images_of(data, "test")), expected)
    assert data.input_shape == (3, 28, 28)


def streamed(dataset, root, **place):
    data = dataset("folder", f"dataset.root={root}", *STREAM, "dataset.size=16", "dataset.workers=2")
    return data.train_loader(8, 0, "cpu", **place)


def test_streamed_training_repeats_and_its_ranks_make_up_one_process(dataset, tmp_path):
    root = write(tmp_path / "all", size=(40, 30))
    whole, again = list(streamed(dataset, root)), list(streamed(dataset, root))
    ranks = [list(streamed(dataset, root, rank=rank, world=2)) for rank in range(2)]
    for batch, (images, labels) in enumerate(whole):
        assert images.shape[1:] == (3, 16, 16)
        assert torch.equal(images, again[batch][0])
        for rank in range(2):
            assert torch.equal(ranks[rank][batch][0], images[rank::2])
            assert torch.equal(ranks[rank][batch][1], labels[rank::2])
    later = streamed(dataset, root)
    later.set_epoch(1)
    assert not torch.equal(next(iter(later))[0], whole[0][0])


def test_streaming_leaves_the_global_generator_alone(dataset, tmp_path):
    root = write(tmp_path / "all", size=(40, 30))
    settings = [*STREAM, "dataset.size=16", "dataset.workers=0"]
    data = dataset("folder", f"dataset.root={root}", *settings)
    before = torch.get_rng_state()
    # torch's own DataLoader draws one number per pass; the images must not depend on it
    first = [images for images, _ in data.train_loader(8, 0, "cpu")]
    torch.manual_seed(123)
    second = [images for images, _ in data.train_loader(8, 0, "cpu")]
    torch.set_rng_state(before)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_images_of_two_sizes_need_a_size(dataset, tmp_path):
    write(tmp_path / "all")
    Image.new("RGB", (30, 30)).save(tmp_path / "all" / "b" / "odd.png")
    with pytest.raises(UserError, match=r"pixels, .*dataset.size=N"):
        dataset("folder", f"dataset.root={tmp_path / 'all'}").prepare()
    data = dataset("folder", f"dataset.root={tmp_path / 'all'}", "dataset.size=12")
    data.prepare()
    assert data.input_shape == (3, 12, 12)


@pytest.mark.parametrize("memory", ["2", "0"])
@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_damaged_image_is_named_in_one_line(dataset, tmp_path, memory, workers):
    write(tmp_path / "all")
    damaged = tmp_path / "all" / "a" / "5.png"
    damaged.write_bytes(damaged.read_bytes()[:300])
    settings = [f"dataset.memory={memory}", f"dataset.workers={workers}", "dataset.size=8"]
    data = dataset("folder", f"dataset.root={tmp_path / 'all'}", *PLAIN, "dataset.augment.crop=0", *settings)
    with pytest.raises(UserError, match=r"a/5.png is not a whole image") as error:
        for split in ("train", "test"):
            images_of(data, split)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda root: None, "0 class folders"),
        (lambda root: write(root, classes=1), "1 class folders"),
        (lambda root: write(root / "train"), "none named test, val or valid"),
        (lambda root: (write(root / "train"), write(root / "val", classes=2)), "class 'c' is in only one"),
        (lambda root: (write(root), (root / "empty").mkdir()), "empty holds no images"),
    ],
)
def test_a_folder_without_what_it_needs_is_refused(dataset, tmp_path, prepare, message):
    root = tmp_path / "root"
    root.mkdir()
    prepare(root)
    with pytest.raises(UserError, match=message):
        dataset("folder", f"dataset.root={root}").prepare()


def test_no_folder_at_all(dataset, tmp_path):
    with pytest.raises(UserError, match=r"point dataset.root at a folder with one folder per class"):
        dataset("imagenet", f"dataset.root={tmp_path / 'none'}").prepare()


def test_too_many_to_keep_need_a_size_and_no_padding(dataset, tmp_path):
    root = write(tmp_path / "all")
    with pytest.raises(UserError, match=r"set dataset.size=N"):
        dataset("folder", f"dataset.root={root}", "dataset.memory=0").prepare()
    with pytest.raises(UserError, match="crop=4 is for images in memory"):
        dataset("folder", f"dataset.root={root}", "dataset.memory=0", "dataset.size=8").prepare()

"""Folders of class folders, in memory and streamed."""

import os

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from paredown.core.errors import UserError
from paredown.data.loaders import MemoryImages
from paredown.data.stream import FileImages


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


@pytest.mark.parametrize(("test", "count"), [(0.2, 6), (0.5, 15)])
def test_how_much_of_a_single_folder_is_tested_on(dataset, tmp_path, test, count):
    data = dataset("folder", f"dataset.root={write(tmp_path / 'all')}", *PLAIN, f"dataset.test={test}")
    data.prepare()
    assert data.sizes == {"train": 30 - count, "val": 0, "test": count}


def test_the_limit_of_memory_counts_every_pixel(dataset, tmp_path):
    root = write(tmp_path / "all")  # 30 images of 20x16 in three channels, 12x12 as they are kept
    for size, gib in ((12, 30 * 12 * 12 * 3 / 2**30), (16, 30 * 16 * 16 * 3 / 2**30)):
        settings = [f"dataset.root={root}", *PLAIN, "dataset.augment.crop=0", f"dataset.size={size}"]
        kept, streamed = (
            dataset("folder", *settings, f"dataset.memory={memory!r}", "dataset.workers=3").open().train
            for memory in (gib * 1.001, gib * 0.999)
        )
        assert isinstance(kept, MemoryImages)
        assert isinstance(streamed, FileImages) and streamed.workers == 3


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


def test_streamed_training_sees_random_resized_crops(dataset, tmp_path):
    """Areas of 8 to 100 % and aspect ratios of 3/4 to 4/3 (Szegedy et al., 2015), read off red = 4 x, green = 4 y."""
    y, x = np.mgrid[:60, :60].astype(np.uint8) * 4
    for name in "ab":
        (tmp_path / name).mkdir()
        for number in range(40):
            Image.fromarray(np.dstack([x, y, 0 * x])).save(tmp_path / name / f"{number}.png")
    settings = [*STREAM, "dataset.size=16", "dataset.workers=0", "dataset.augment.flip=false"]
    loader = dataset("folder", f"dataset.root={tmp_path}", *settings).train_loader(64, 0, "cpu")
    epochs = []
    for epoch in range(2):
        loader.set_epoch(epoch)
        images = torch.cat([images for images, _ in loader])
        sides = (images[:, :2, -1, -1] - images[:, :2, 0, 0]) * 255 / 4 * 16 / 15 / 60  # width and height, of 60 pixels
        area, ratio = sides.prod(1), sides[:, 0] / sides[:, 1]
        assert 0.06 < area.min() < 0.3 and 0.7 < area.max() < 1.1
        assert 0.65 < ratio.min() < 0.9 and 1.1 < ratio.max() < 1.5
        epochs.append({tuple(image.flatten().tolist()) for image in images})
        assert len(epochs[-1]) > 0.9 * len(images)
    assert len(epochs[0] & epochs[1]) < 0.1 * len(images)


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
    with pytest.raises(UserError, match=r"a/5.png cannot be read") as error:
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


def test_every_wrong_setting_of_a_folder_is_named(dataset):
    with pytest.raises(UserError) as error:
        dataset("folder", "dataset.size=0", "dataset.test=1", "dataset.memory=-1", "dataset.workers=-1")
    assert str(error.value).split("; ") == [
        "dataset.size=0 (at least 1, or null)",
        "dataset.test=1 (in (0, 1))",
        "dataset.memory=-1 (at least 0)",
        "dataset.workers=-1 (at least 0)",
    ]


def count(data):
    data.prepare()
    return sum(data.sizes.values())


def test_what_is_found_is_what_torchvision_finds_without_hidden_files(dataset, tmp_path):
    """Nested and linked folders and every ending; AppleDouble files, notebooks' copies and thumbnails left out."""
    root = write(tmp_path / "all")
    write(root / "a" / "nested", classes=1, seed=1)
    write(tmp_path / "elsewhere", classes=1, seed=2)
    (root / "b" / "linked").symlink_to(tmp_path / "elsewhere" / "a")
    (root / "d").symlink_to(root / "c")
    (root / "c" / "0.png").rename(root / "c" / "0.PNG")
    (root / "c" / "notes.txt").touch()
    theirs = len(ImageFolder(root))
    for folder in (root / "a" / ".ipynb_checkpoints", root / "b" / "@eaDir", root / "__MACOSX" / "a", root / ".git"):
        folder.mkdir(parents=True)
        (folder / "0.png").write_bytes((root / "a" / "0.png").read_bytes())
    for name in ("._1.png", ".hidden.png", ".png", ".DS_Store", "Thumbs.db"):
        (root / "a" / name).write_bytes(b"\0\5\x16\7 Mac OS X")
    data = dataset("folder", f"dataset.root={root}", *PLAIN)
    assert count(data) == theirs == 3 * 10 + 10 + 10 + 10
    assert data.class_names == ("a", "b", "c", "d")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda root: (root / "a" / "round").symlink_to(root), "round links to a folder that it is in"),
        (lambda root: (root / "a" / "gone.png").symlink_to(root / "nothing.png"), r"gone.png is no file, or links to"),
        (lambda root: os.mkfifo(root / "a" / "pipe.png"), "pipe.png is no file"),
    ],
)
def test_a_link_in_a_circle_or_to_nothing_is_refused(dataset, tmp_path, change, says):
    root = write(tmp_path / "all")
    change(root)
    with pytest.raises(UserError, match=says):
        count(dataset("folder", f"dataset.root={root}"))


@pytest.mark.parametrize("names", [("Train", "Test"), ("TRAIN", "Val"), ("training", "validation"), ("train", "VALID")])
def test_splits_are_found_in_any_case(dataset, tmp_path, names):
    for seed, name in enumerate(names):
        write(tmp_path / name, count=4 + seed, seed=seed)
    data = dataset("folder", f"dataset.root={tmp_path}", *PLAIN)
    data.prepare()
    assert data.class_names == ("a", "b", "c") and data.sizes == {"train": 12, "val": 0, "test": 15}


def loose(folder):
    """Images without class folders, as ImageNet's test split has them."""
    write(folder / "x", classes=1)
    for path in (folder / "x" / "a").iterdir():
        path.rename(folder / path.name)
    (folder / "x" / "a").rmdir()
    (folder / "x").rmdir()


SPLITS = {
    "val beside test": (["train", "val", "test"], [], "has both test and val, one of which would be left out"),
    "two of one name": (["train", "Train", "test"], [], "has both Train and train"),
    "no training": (["val", "test"], [], "hold folders of the same names|none named train"),
    "other names": (["first", "second"], [], "first, second hold folders of the same names"),
    "no class folders": ([], ["train", "test"], "train holds no folder per class"),
    "an unsorted val": (["train"], ["val"], "none named test, val or valid that holds class folders"),
}


@pytest.mark.parametrize("mistake", SPLITS)
def test_folders_that_may_be_splits_or_classes_are_not_guessed(dataset, tmp_path, mistake):
    sorted_ones, unsorted, says = SPLITS[mistake]
    for name in sorted_ones:
        write(tmp_path / name)
    for name in unsorted:
        loose(tmp_path / name)
    with pytest.raises(UserError, match=says):
        count(dataset("folder", f"dataset.root={tmp_path}"))


def test_a_class_may_be_called_train_and_imagenets_test_images_have_no_classes(dataset, tmp_path):
    for name in ("bus", "plane", "train"):
        loose(tmp_path / "vehicles" / name)
    data = dataset("folder", f"dataset.root={tmp_path / 'vehicles'}", *PLAIN)
    assert count(data) == 30 and data.class_names == ("bus", "plane", "train")
    write(tmp_path / "imagenet" / "train")
    write(tmp_path / "imagenet" / "val", count=4)
    loose(tmp_path / "imagenet" / "test")
    data = dataset("folder", f"dataset.root={tmp_path / 'imagenet'}", *PLAIN)
    assert count(data) == 30 + 12 and data.sizes["test"] == 12


DEEP = {
    "16-bit.png": np.linspace(0, 65535, 320).astype(np.uint16).reshape(16, 20),
    "float.tif": np.linspace(0, 1, 320).astype(np.float32).reshape(16, 20),
    "32-bit.tif": np.arange(320, dtype=np.int32).reshape(16, 20),
}


@pytest.mark.parametrize("name", DEEP)
def test_images_of_more_than_eight_bits_are_refused(dataset, tmp_path, name):
    root = write(tmp_path / "all")
    Image.fromarray(DEEP[name]).save(root / "a" / name)
    with pytest.raises(UserError, match=rf"{name} has more than 8 bits a channel"):
        count(dataset("folder", f"dataset.root={root}"))


@pytest.mark.parametrize("side", [9500, 14000])
def test_an_image_beyond_pillows_limit_is_named(dataset, tmp_path, side):
    root = write(tmp_path / "all")
    Image.new("1", (side, side)).save(root / "a" / "huge.png")
    with pytest.raises(UserError, match=r"huge.png: it has more than the 89,478,485 pixels"):
        count(dataset("folder", f"dataset.root={root}"))


def test_a_thin_image_is_not_scaled_to_gigabytes(dataset, tmp_path):
    root = write(tmp_path / "all")
    Image.new("RGB", (30000, 1)).save(root / "a" / "thin.png")
    with pytest.raises(UserError, match=r"thin.png: an image of 30000x1 pixels is too thin"):
        count(dataset("folder", f"dataset.root={root}", "dataset.size=224"))


def test_every_kind_of_eight_bits_is_what_torchvision_makes_of_it(dataset, tmp_path):
    """Grey, palette, transparent, CMYK and two frames, against torchvision's default loader."""
    root, random = tmp_path / "all", np.random.RandomState(0)
    for label in "ab":
        (root / label).mkdir(parents=True)
    picture = Image.fromarray(random.randint(0, 256, (16, 20, 3)).astype(np.uint8))
    picture.convert("L").save(root / "a" / "grey.JPEG", "JPEG")
    picture.convert("CMYK").save(root / "a" / "cmyk.JPG", "JPEG")
    picture.convert("LA").save(root / "a" / "la.PNG", "PNG")
    picture.quantize(16).save(root / "a" / "palette.png", transparency=0)
    picture.convert("RGBA").save(root / "b" / "alpha.webp", lossless=True)
    picture.convert("1").save(root / "b" / "bits.bmp")
    picture.save(root / "b" / "frames.tiff", save_all=True, append_images=[picture.rotate(180)])
    data = dataset("folder", f"dataset.root={root}", *PLAIN, "dataset.test=0.5")
    loader = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
    theirs = {tuple(image.flatten().tolist()) for image, _ in ImageFolder(root, loader)}
    ours = torch.cat([images_of(data, split)[0] for split in ("train", "test")])
    for image in ours:
        assert min((image.flatten() - torch.tensor(other)).abs().max() for other in theirs) < 1e-6
    assert len(ours) == 7


def test_photos_of_other_formats_are_said(dataset, tmp_path, caplog):
    root = write(tmp_path / "photos")
    for name in ("a/x.HEIC", "b/deep/y.heic", "b/z.dng", "c/notes.txt", "c/.hidden.heic"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(b"photo")
    dataset("folder", f"dataset.root={root}", *PLAIN, "dataset.size=8").prepare()
    assert "photos: 2 .heic, 1 .dng in it are left out, convert them to .jpg or .png" in caplog.text
    (root / "d").mkdir()
    (root / "d/x.heic").write_bytes(b"photo")
    with pytest.raises(UserError, match=r"d holds no images .*: 1 \.heic in it are left out"):
        dataset("folder", f"dataset.root={root}", *PLAIN, "dataset.size=8").prepare()


def test_a_class_of_few_photos_is_named(dataset, tmp_path, caplog):
    root = write(tmp_path / "photos", count=8)
    (root / "rare").mkdir()
    (root / "a/0.png").rename(root / "rare/0.png")
    data = dataset("folder", f"dataset.root={root}", *PLAIN, "dataset.size=8")
    data.prepare()
    assert "no image of rare is in the test split" in caplog.text
    assert 3 not in data._splits["test"][0].labels
    alone = write(tmp_path / "alone", count=1)
    with pytest.raises(UserError, match=r"dataset\.test=0\.2 holds out all 1 training images of class 0"):
        dataset("folder", f"dataset.root={alone}", *PLAIN, "dataset.size=8").prepare()


def test_a_class_whose_name_is_no_text_is_refused(dataset, tmp_path):
    write(tmp_path)
    (tmp_path / os.fsdecode(b"caf\xe9")).mkdir()
    with pytest.raises(UserError, match=r"caf\\udce9: the name of this class is no UTF-8: rename the folder"):
        dataset("folder", f"dataset.root={tmp_path}").prepare()

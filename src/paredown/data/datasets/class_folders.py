"""Image files in class folders, found as torchvision's ImageFolder finds them, without hidden ones."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from paredown.core.errors import UserError, printable
from paredown.core.files import reading
from paredown.data.cache import Pixels
from paredown.data.decode import arrange, decode

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
PHOTOS = (".heic", ".heif", ".avif", ".jfif", ".gif", ".jp2", ".dng", ".cr2", ".nef", ".arw")  # ImageFolder has none
LEFT_BEHIND = {"__MACOSX", "@eaDir"}  # folders of macOS's archives and of Synology's disks, with files named as images
# folders of a split, in any case; of the last two the second is a validation split where both exist
TRAIN, TEST, VAL = ("train", "training"), ("test", "testing"), ("val", "valid", "validation")
READABLE = "make it readable, or take it out"
log = logging.getLogger("paredown")


@dataclass(frozen=True)
class Listing:
    """Image files and their labels (n,)."""

    paths: list[Path]
    labels: NDArray[np.int64]

    def take(self, rows: Iterable[int]) -> Listing:
        """Select the files in `rows`, in that order."""
        rows = list(rows)
        return Listing([self.paths[row] for row in rows], self.labels[rows])

    def arranged(self) -> Listing:
        """Sort the files into the order of `decode.arrange`."""
        return self.take(arrange(self.labels.tolist(), [path.name for path in self.paths]))

    def pixels(self, size: int | None) -> Pixels:
        """Decode all images; see `decode.decode`."""
        return Pixels(decode(self.paths, [str(path) for path in self.paths], size), self.labels)


def class_folders(folder: Path) -> list[str]:
    """List the names of the folders in `folder`, linked ones too, sorted, without hidden ones."""
    with reading(folder, READABLE), os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if entry.is_dir() and not is_hidden(entry.name))
    for name in names:
        if not _is_text(name):
            raise UserError(f"{printable(str(folder / name))}: the name of this class is no UTF-8: rename the folder")
    return names


def _is_text(name: str) -> bool:
    """Tell whether a name of a file is text: bytes that are none are lone surrogates in it."""
    return name.isascii() or not any("\ud800" <= sign <= "\udfff" for sign in name)


def is_hidden(name: str) -> bool:
    """Tell whether a file or folder is hidden, or was left by an operating system."""
    return name.startswith(".") or name in LEFT_BEHIND


def is_image(name: str) -> bool:
    """Tell whether a file's name is an image's."""
    return name.lower().endswith(SUFFIXES) and not is_hidden(name)


def list_images(folder: Path, classes: Sequence[str]) -> Listing:
    """List the images anywhere below `folder`/<class>, sorted. Raise UserError for a class without images."""
    paths: list[Path] = []
    labels: list[int] = []
    left: Counter[str] = Counter()
    for label, name in enumerate(classes):
        others: Counter[str] = Counter()
        found = sorted(images_below(folder / name, others))
        if not found:
            raise UserError(f"{folder / name} holds no images ({', '.join(SUFFIXES)}){_said(others)}")
        paths += found
        labels += [label] * len(found)
        left += others
    if said := _said(left):
        log.warning("%s%s", folder, said)
    return Listing(paths, np.asarray(labels, np.int64))


def _said(left: Counter[str]) -> str:
    """Say how many photos of which endings were `left` out; nothing where there are none."""
    found = [f"{left[ending]} {ending}" for ending in PHOTOS if left[ending]]
    return f": {', '.join(found)} in it are left out, convert them to .jpg or .png" if found else ""


def images_below(folder: Path, others: Counter[str]) -> Iterator[Path]:
    """Yield the images anywhere below `folder`, through links, and count the endings of `others`. Raise UserError for a
    link in a circle, a link to nothing, and a folder that cannot be read: `os.walk` would leave its images out."""
    inside = {folder: {folder.resolve()}}  # of each folder: itself and those it is in
    for place, folders, files in os.walk(folder, followlinks=True, onerror=_refuse):
        above = inside.pop(Path(place))
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        for name in folders:
            below = Path(place, name)
            if below.is_symlink() and below.resolve() in above:
                raise UserError(f"{below} links to a folder that it is in: take the link out")
            inside[below] = above | {below.resolve()}
        others.update(Path(name).suffix.lower() for name in files if not is_image(name) and not is_hidden(name))
        for path in (Path(place, name) for name in files if is_image(name)):
            if not path.is_file():
                raise UserError(f"{path} is no file, or links to none: restore it, or take it out")
            yield path


def _refuse(error: OSError) -> None:
    raise UserError(f"{error.filename} cannot be read: {error.strerror} ({READABLE})") from error


@dataclass(frozen=True)
class Splits:
    """The folders of a training and a test split; `test` is None where all images are in the class folders `train`."""

    train: Path
    test: Path | None


def find_splits(root: Path) -> Splits:
    """Return the folders of `root` that are splits, in any case. Raise UserError where that is no clear answer."""
    folders = class_folders(root)
    train = _split(root, folders, TRAIN)
    test, val = _split(root, folders, TEST), _split(root, folders, VAL)
    if train is None:
        _refuse_mistaken(root, folders)
        return Splits(root, None)
    if test is None and val is None:
        raise UserError(
            f"{root} has a folder {train} but none named test, val or valid that holds class folders: add one, or give "
            f"dataset.root={root / train}, of which a part is then tested on"
        )
    if test is not None and val is not None and class_folders(root / test):  # ImageNet's test images have no classes
        raise UserError(
            f"{root} has both {test} and {val}, one of which would be left out: take {val} out of it, or put its "
            f"images into {train} (dataset.validation says how many of those are held out)"
        )
    held_out = test if test is not None and (val is None or class_folders(root / test)) else val
    return Splits(root / train, root / str(held_out))


def _split(root: Path, folders: Sequence[str], names: Sequence[str]) -> str | None:
    """Return the folder that is called one of `names`, and holds class folders (or nothing) rather than images."""
    found = [name for name in folders if name.lower() in names and not _holds_images(root / name)]
    if len(found) > 1:
        raise UserError(f"{root} has both {found[0]} and {found[1]}: which is the split? rename the other")
    return found[0] if found else None


def _holds_images(folder: Path) -> bool:
    """Tell whether `folder` is a class: it holds images and no folders."""
    return not class_folders(folder) and any(is_image(name) for name in os.listdir(folder))  # noqa: PTH208 (names)


def _refuse_mistaken(root: Path, folders: Sequence[str]) -> None:
    """Raise UserError where `folders` are splits by another name and not classes: each holds the same folders."""
    if not folders:
        return
    inner = {tuple(class_folders(root / name)) for name in folders}
    if len(folders) > 1 and len(inner) == 1 and len(inner.pop()) > 1:
        raise UserError(
            f"{root} has no folder train, and {', '.join(folders)} hold folders of the same names, so they are splits "
            f"and no classes: name them train and test"
        )
    lower = {name.lower() for name in folders}
    if lower & {*TRAIN} and lower & {*TEST, *VAL}:
        raise UserError(f"{root} has folders {', '.join(folders)}, but train holds no folder per class")
    if lower <= {*TEST, *VAL}:
        raise UserError(f"{root} has a folder {folders[0]} but none named train")

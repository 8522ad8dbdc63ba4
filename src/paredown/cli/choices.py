"""What a person can choose from, and what the yaml and the card of a choice say about it. Nothing heavy is imported."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from paredown.core.errors import UserError, nearest
from paredown.core.places import CARDS, CONF
from paredown.core.words import search_path
from paredown.core.yaml_files import read_yaml

LINE = re.compile(r"(?P<indent> *)(?P<key>[A-Za-z_]\w*):(?P<value>(?:\s+[^#\s]\S*)*)?\s*(?:#\s*(?P<comment>.*))?")
PUBLISHED = re.compile(r"[^.|]*\b[Pp]ublished\b(?:[^.|]|\.(?=\d))*")  # a sentence of a card
OF_ITS_GROUP = re.compile(r"([\w-]+(?:/[\w-]+)*)(?:@.*)?")  # what `defaults` name, as common/images@_here_
GLOBAL = "# @package _global_"  # the head of a file whose keys are typed without its group
FRONT = "---\n"  # around the metadata at a card's head
AT_A_GLANCE = {  # the metadata of a card, in words
    "family": "family",
    "needs_data": "training images",
    "needs_trained": "starts from a trained network",
    "targets": "targets",
    "shapes_change": "shapes of layers change",
    "macs_fall": "multiply-adds fall",
    "time_falls": "measured time falls",
    "published": "published rows",
    "ours": "our numbers",
}


@dataclass(frozen=True)
class Setting:
    """A setting of a yaml file: its key as it is typed, its default, what it means."""

    key: str
    default: str
    meaning: str


def every(words: Sequence[str] = ()) -> dict[str, list[str]]:
    """Return the names in each group of the configuration, with those of plugins and of the folders in `words`."""
    folders = [CONF, *search_path(words)]
    found = {path.name for folder in folders for path in folder.iterdir() if path.is_dir()}
    groups = sorted(found - {"sweeps", "sweep"})
    names = {group: {path.stem for folder in folders for path in (folder / group).glob("*.yaml")} for group in groups}
    return {group: sorted(chosen) for group, chosen in names.items() if chosen}


def written(word: str, words: Sequence[str] = ()) -> str | None:
    """Return how to write `word` if it is the name of a choice alone, as method=ssc; None if it is not."""
    found = [f"{group}={word}" for group, names in every(words).items() if word in names]
    return f"cannot read {word!r}: write {' or '.join(found)}" if found else None


def file_of(group: str, name: str, words: Sequence[str] = ()) -> Path:
    """Return the yaml file of `group`=`name`. Raise UserError where there is none."""
    known = every(words)
    if group not in known:
        raise UserError(f"nothing is chosen as {group}=: {nearest(group, known)}")
    if name not in known[group]:
        raise UserError(f"no {group} {name!r}: {nearest(name, known[group])}")
    paths = [folder / group / f"{name}.yaml" for folder in (CONF, *search_path(words))]
    return next(path for path in paths if path.is_file())


def head(path: Path) -> str:
    """Return what the comments at the head of a yaml file say."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        if not line.startswith("# @package"):
            lines.append(line.removeprefix("#").strip())
    return " ".join(lines)


def settings(group: str, path: Path, within: tuple[Path, ...] = ()) -> list[Setting]:
    """Return the settings of a yaml file in its order, then those of the files that its `defaults` name. Raise
    UserError for a damaged file, or one whose `defaults` lead back to one that it is read `within`."""
    if path in within:
        raise UserError(f"{path}: its `defaults` lead back to itself (mend them)")
    data = read_yaml(path, "mend it", resolve=False)
    text = path.read_text(encoding="utf-8")
    own = {row.key: row for row in _written("" if GLOBAL in text.splitlines() else group, text)}
    parents = _parents(path, data.get("defaults") if isinstance(data, dict) else None)
    inherited = {row.key: row for parent in parents for row in settings(group, parent, (*within, path))}
    rows = [replace(row, meaning=row.meaning or inherited.get(row.key, row).meaning) for row in own.values()]
    return rows + [row for key, row in inherited.items() if key not in own]


def _parents(path: Path, defaults: object) -> list[Path]:
    """Return the files that the `defaults` of a yaml file take from its folder, or from that group of the package."""
    found: list[Path] = []
    for item in defaults if isinstance(defaults, list) else ():
        if isinstance(item, str) and (name := OF_ITS_GROUP.fullmatch(item)):
            places = (folder / f"{name[1]}.yaml" for folder in (path.parent, CONF / path.parent.name))
            found += [place for place in places if place.is_file()][:1]
    return found


def _written(group: str, text: str) -> list[Setting]:
    """Return the settings of a yaml file with `text` itself, with the comments that stand beside or below them."""
    found: list[Setting] = []
    beside = False
    above: list[tuple[int, str]] = []  # of what is nested: the indent and the key
    for line in text.splitlines():
        matched = LINE.fullmatch(line)
        if matched and matched["key"] not in ("_target_", "defaults"):
            indent = len(matched["indent"])
            above = [one for one in above if one[0] < indent]
            key = ".".join([*([group] if group else []), *(name for _, name in above), matched["key"]])
            found.append(Setting(key, (matched["value"] or "").strip(), (matched["comment"] or "").strip()))
            above.append((indent, matched["key"]))
            beside = True
        elif not line.strip():
            beside = False  # what is said after an empty line is of what follows
        elif found and beside and line.strip().startswith("#"):
            last = found.pop()
            found.append(Setting(last.key, last.default, f"{last.meaning} {line.strip('# ')}".strip()))
    return found


def card(name: str) -> str | None:
    """Return the text of the card of the method `name`; None where it has none here, as a plugin's."""
    path = CARDS / f"{name}.md"
    return path.read_text(encoding="utf-8") if path.is_file() else None


def metadata(name: str) -> dict[str, Any]:
    """Return what stands at the head of the card of the method `name`, {} where it has no card."""
    import yaml

    text = card(name)
    if text is None or not text.startswith(FRONT):
        return {}
    found: dict[str, Any] = yaml.safe_load(text[len(FRONT) :].split(f"\n{FRONT}", 1)[0])
    return found


def siblings(name: str) -> list[str]:
    """Return the other methods of the family of `name` that have a card."""
    family = metadata(name).get("family")
    others = (path.stem for path in sorted(CARDS.glob("*.md")) if path.stem not in (name, "README"))
    return [other for other in others if family and metadata(other).get("family") == family]


def describe(group: str, name: str, words: Sequence[str] = ()) -> str:
    """Return what there is to say about the choice `group`=`name`: what it is, each setting, and of a method what its
    card says at a glance, its siblings and an example. Raise UserError where there is no such choice."""
    path = file_of(group, name, words)
    text = _settings_text(group, path, card(name) if group == "method" else None)
    parts = [f"{group}={name}\n{head(path)}", text]
    if group == "method":
        parts += [_glance(name), _beside(name), _examples(name)]
        parts.append(f"Card: {CARDS / f'{name}.md'}" if card(name) else "")
    return "\n\n".join(part for part in parts if part) + "\n"


def explained(word: str, words: Sequence[str] = ()) -> list[str]:
    """Return what there is to say about `word`: a choice as GROUP=NAME, its name alone, or a setting, with or without a
    value. Raise UserError where it is nothing of these."""
    key, _, name = word.lstrip("-").partition("=")
    groups = every(words)
    if key in groups and name:
        return [describe(key, name, words)]
    if found := [group for group, names in groups.items() if key in names and not name]:
        return [describe(group, key, words) for group in found]
    rows = [row for row in _all_settings(words) if row.key == key or row.key.startswith(f"{key}.")]
    if rows:
        return [_rows_text(rows) + "\n"]
    if key in groups:
        return [f"{key}=NAME, one of {', '.join(groups[key])}\n"]
    if name:
        file_of(key, name, words)  # says what is wrong
    choices = (name for every_one in groups.values() for name in every_one)
    known = {*groups, *choices, *(row.key for row in _all_settings(words))}
    close = get_close_matches(key, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    raise UserError(f"nothing is called {key!r}: {hint}write method=NAME, model=NAME or another group, or a setting")


def _all_settings(words: Sequence[str]) -> list[Setting]:
    """Return the settings of conf/config.yaml, and of each choice that `words` name or that stands there."""
    typed = dict(word.split("=", 1) for word in words if "=" in word)
    rows = settings("", CONF / "config.yaml")
    for group, names in every(words).items():
        chosen = typed.get(group, {"method": "dense", "recipe": "cifar10", "dataset": "cifar10"}.get(group, "auto"))
        if chosen in names:
            rows += settings(group, file_of(group, chosen, words))
    return [row for row in rows if not row.key.startswith(("hydra", "defaults"))]


def _rows_text(rows: Sequence[Setting]) -> str:
    return "\n".join(f"{row.key}{f'={row.default}' if row.default else ':'}  {row.meaning}".rstrip() for row in rows)


def _settings_text(group: str, path: Path, text: str | None) -> str:
    rows = settings(group, path)
    if not rows:
        return "It has no settings of its own."
    width = max(len(f"{row.key}={row.default}") for row in rows if len(row.default) < 30)
    lines = [f"  {f'{row.key}={row.default}' if row.default else f'{row.key}:':{width}}  {row.meaning}" for row in rows]
    for at, row in reversed([*enumerate(rows)]):
        lines[at + 1 : at + 1] = [f"  {'':{width}}  {said}" for said in published(row, text or "")]
    return "Settings (key=default)\n" + "\n".join(line.rstrip() for line in lines)


def published(row: Setting, text: str) -> list[str]:
    """Return the sentences about what was published that the table of the card `text` has for the setting `row`."""
    lines = [line for line in text.splitlines() if line.startswith("|") and f"`{row.key}`" in line.split("|")[1]]
    said = [sentence.strip() for line in lines for sentence in PUBLISHED.findall(line.split("|", 3)[-1])]
    return [sentence for sentence in said if sentence not in row.meaning]


def _glance(name: str) -> str:
    found = metadata(name)
    lines = [f"  {words:30} {_words(found[key])}" for key, words in AT_A_GLANCE.items() if key in found]
    return "At a glance\n" + "\n".join(lines) if lines else ""


def _words(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _beside(name: str) -> str:
    lines = [f"  {other:14} {head(CONF / 'method' / f'{other}.yaml')}" for other in siblings(name)]
    compared = (f"  {sentence}" for sentence in _compared(name, siblings(name)))
    return "\n".join(["Its siblings", *lines, *compared]) if lines else ""


def _compared(name: str, others: Sequence[str]) -> Iterator[str]:
    """Yield the paragraphs of the card that link to a sibling's card, as one line each."""
    for paragraph in (card(name) or "").split("\n\n"):
        linked = any(f"({other}.md)" in paragraph for other in others)
        if linked and not paragraph.startswith(("|", "    ", "#")):
            yield re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", " ".join(paragraph.split()))


def _examples(name: str) -> str:
    section = re.search(r"^## How to run\n(.*?)(?=^## |\Z)", card(name) or "", re.MULTILINE | re.DOTALL)
    lines = [line for line in section[1].splitlines() if line.startswith("    ")][:4] if section else []
    plain = [f"    python src/run.py method={name} model=resnet20 dataset=digits"]
    return "Examples\n" + "\n".join(lines or plain)

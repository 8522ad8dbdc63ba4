"""A .pt2 file as data: a copy of it without anything that torch.export.load would unpickle, evaluate, import or call.

Torch unpickles weights that ask for it, gives `expr_str` to sympy's eval, executes guards and the names of inputs as
source, and resolves operators and tree specifications to any attribute or module that they name. A program of plain
ATen operators, as `program_file` writes, needs none of it.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from paredown.core.errors import UserError, printable
from paredown.core.files import reading
from paredown.export.files import EXPORT_AGAIN

PROGRAM = "models/model.json"
# the members that torch.export.save writes and reads as numbers and JSON; its older formats are pickles
PLAIN = re.compile(
    r"[\w.-]+/(archive_format|archive_version|byteorder|\.data/\w+|extra/[\w.-]+|models/model\.json"
    r"|data/weights/(weight_\d+|model_weights_config\.json)|data/constants/(tensor_\d+|model_constants_config\.json))",
    re.ASCII,
)
TEXT = re.compile(r"[\w.+-]*", re.ASCII)  # names of layers, tensors and types, versions
# save, warn and print are TorchScript's, which write files or to the terminal
OPERATOR = re.compile(
    r"torch\.ops\.aten\.(?!_*from_file)(?!_*(?:save|warn|print)\.)(?!__)\w+\.(?!__)\w+|_operator\.[a-z]+", re.ASCII
)
SYMBOL = re.compile(r"Symbol\('[su]\d{1,6}'(, (positive|nonnegative|integer)=True)*\)|\b[su]\d{1,6}\b", re.ASCII)
FUNCTION = re.compile(r"\b(FloorDiv|CleanDiv|CeilDiv|Mod|PythonMod|Max|Min)\(", re.ASCII)
ARITHMETIC = re.compile(r"(\d{1,18}|\*(?!\*)|[-+/(), ])*", re.ASCII)
LONGEST = 1000  # characters of an expression or a string
TREES = ("builtins.tuple", "builtins.list", "builtins.dict", None)  # of tensors
CONTEXTS = ("null", "[]", None)


def screened(path: Path) -> io.BytesIO:
    """Return a copy of the program `path` in memory, packed anew from what was read: torch's reader of archives may see
    other members than Python's. Raise UserError for a program that is more than data."""
    copy = io.BytesIO()
    with reading(path, EXPORT_AGAIN), zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        _check_members(path, members)
        with zipfile.ZipFile(copy, "w") as plain:
            for info in members:
                content = archive.read(info)
                plain.writestr(info.filename, _screened_json(path, info.filename, content) or content)
    copy.seek(0)
    return copy


def _check_members(path: Path, members: list[zipfile.ZipInfo]) -> None:
    names = [info.filename for info in members]
    if sum(info.file_size for info in members) > path.stat().st_size:
        raise UserError(f"{path} is packed, which torch.export never does ({EXPORT_AGAIN})")
    if len({name.lower() for name in names}) < len(names) or len({name.partition("/")[0] for name in names}) > 1:
        raise UserError(f"{path} has several members of one name, of which torch may read another ({EXPORT_AGAIN})")
    if pickled := [info.filename for info in members if not _is_plain(info)]:
        raise _pickled(path, pickled[0])


def _is_plain(info: zipfile.ZipInfo) -> bool:
    """Return whether torch is known to read this member without unpickling."""
    empty_sample = info.filename.endswith("/data/sample_inputs/model.pt") and not info.file_size
    return empty_sample or PLAIN.fullmatch(info.filename) is not None


def _pickled(path: Path, member: str) -> UserError:
    return UserError(f"{path} holds pickled data in {printable(member)}, which is not loaded: export it again")


def _screened_json(path: Path, member: str, content: bytes) -> bytes | None:
    """Return the checked JSON of a program or of its weights' table; None for another member."""
    if not member.endswith((PROGRAM, "_config.json")):
        return None
    values = json.loads(content)
    for name, value in _leaves("", values):
        if name == "use_pickle" and value is not False:
            raise _pickled(path, member)
        if isinstance(value, str) and not _is_data(name, value):
            what = f"{name}={printable(value)[:100]!r}"
            raise UserError(f"{path}: {what} would be evaluated or called by torch.export.load: it is not loaded")
    if member.endswith(PROGRAM):
        values["guards_code"] = []  # source of assertions
    return json.dumps(values).encode()


def _leaves(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the values of nested JSON by the key that they are under, and each key as the value of `key`. What only
    describes a node for people (`metadata`: where it comes from) is emptied."""
    if isinstance(value, dict):
        if isinstance(value.get("metadata"), dict):
            value["metadata"] = {}
        for key, part in value.items():
            yield "key", key
            yield from _leaves(key, part)
    elif isinstance(value, list):
        for part in value:
            yield from _leaves(name, part)
    else:
        yield name, value


def _is_data(name: str, text: str) -> bool:
    """Tell whether torch takes `text`, a value of the key `name`, for nothing but a name, a sum or a known operator."""
    if len(text) > LONGEST:
        return False
    if name in ("target", "as_operator"):
        return OPERATOR.fullmatch(text) is not None
    if name == "expr_str":
        return ARITHMETIC.fullmatch(FUNCTION.sub("(", SYMBOL.sub("1", text))) is not None
    if name in ("in_spec", "out_spec"):
        return _is_tree(json.loads(text))
    return name in ("as_string", "guards_code") or TEXT.fullmatch(text) is not None


def _is_tree(spec: Any) -> bool:
    """Tell whether a specification of a tree, [version, node], is of tuples, lists and dicts without names alone."""
    waiting = [spec[1]]
    while waiting:
        node = waiting.pop()
        if node["type"] not in TREES or node["context"] not in CONTEXTS:
            return False
        waiting += node["children_spec"]
    return True

"""Damage and attacks on the bytes of a file: cut, flipped and spliced; other values, types and names in its JSON; other
members in its archive. Everything follows from one random generator."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import random
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Mutation = Callable[[bytes, random.Random], bytes]
CANARY = Path("/nowhere")  # what every attack would create; set by the test


class Trap:
    """Its unpickling would create the canary."""

    def __reduce__(self) -> Any:
        return type(CANARY).touch, (CANARY,)


def hostile(rng: random.Random) -> bytes:
    """Return bytes of something else: a pickle that runs code, deep nesting, huge numbers, nothing."""
    return rng.choice(
        [
            lambda: pickle.dumps(Trap(), protocol=rng.randrange(5)),
            lambda: b"[" * rng.choice([100, 5_000, 200_000]),
            lambda: b'{"a":' * rng.choice([100, 5_000, 100_000]),
            lambda: b"9" * rng.choice([30, 5_000]),
            lambda: (rng.choice([10**6, 10**11, 2**63 - 1])).to_bytes(8, "little") + b"{}",
            lambda: b"",
            lambda: b"null\n",
            lambda: b"{}\n",
            lambda: b"[]\n",
            lambda: "\ud83d\ude00 é \0 \x1b[31m".encode("utf-8", "surrogatepass"),
            lambda: rng.randbytes(rng.randrange(1, 2000)),
            lambda: b"\xff\xfe" + "{}".encode("utf-16-le"),
        ]
    )()


def cut(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.randrange(len(content) + 1)]


def flip(content: bytes, rng: random.Random) -> bytes:
    changed = bytearray(content)
    near = rng.choice([len(changed), 64, 512])  # headers lie at the start
    for _ in range(rng.randrange(1, 9)):
        if changed:
            changed[rng.randrange(min(near, len(changed)))] = rng.choice([0, 0xFF, 0x80, rng.randrange(256)])
    return bytes(changed)


def flip_end(content: bytes, rng: random.Random) -> bytes:
    """Change bytes of the last kilobyte, where zip and parquet keep their tables."""
    changed = bytearray(content)
    for _ in range(rng.randrange(1, 5)):
        if changed:
            changed[-1 - rng.randrange(min(1024, len(changed)))] = rng.randrange(256)
    return bytes(changed)


def splice(content: bytes, rng: random.Random) -> bytes:
    first, last = sorted((rng.randrange(len(content) + 1), rng.randrange(len(content) + 1)))
    between = rng.choice([b"", content[first:last] * 2, rng.randbytes(16), hostile(rng)])
    return content[:first] + between + content[rng.choice([first, last]) :]


def other(content: bytes, rng: random.Random) -> bytes:
    return hostile(rng)


def postscript(content: bytes, rng: random.Random) -> bytes:
    """PostScript, which Pillow gives to Ghostscript."""
    return b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 16 12\n%%EndComments\nshowpage\n" + content


BYTES: list[Mutation] = [cut, flip, flip, flip_end, splice, other]

VALUES: list[Callable[[], Any]] = [
    *(lambda value=value: value for value in (None, True, False, -1, 0, 1, 3, 2**31, 2**63, 10**30, 10**5, 0.5, -7)),
    *(lambda value=value: value for value in (1e308, float("nan"), float("inf"), "", "x", "../../x", "/etc/passwd")),
    *(lambda value=value: value for value in ("\0", "\x1b[31mred", "os.system", "é" * 300, "9" * 5000, [], {}, [[]])),
    lambda: [10**6] * 3,
    lambda: {"_target_": "os.system", "command": f"touch {CANARY}"},
    lambda: {"_target_": "pathlib.Path.touch", "self": str(CANARY)},
    lambda: json.loads("[" * 300 + "]" * 300),
    lambda: list(range(1000)),
]


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every value inside `value`."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*path, key))


def mutate_data(data: Any, rng: random.Random) -> Any:
    """Replace, remove, rename or swap values of JSON `data`."""
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        paths = [path for path in places(data) if path]
        if not paths:
            return rng.choice(VALUES)()
        *parents, last = rng.choice(paths)
        owner = data
        for part in parents:
            owner = owner[part]
        action = rng.randrange(6)
        if action == 0:
            del owner[last]
        elif action == 1 and isinstance(owner, dict):
            owner[rng.choice(["", "x", "_target_", "kind", f"{last}_"])] = owner.pop(last)
        elif action == 2 and isinstance(owner[last], int | float) and not isinstance(owner[last], bool):
            owner[last] = owner[last] * rng.choice([-1, 0, 2, 1000, 10**9, 0.5])
        elif action == 3 and isinstance(owner, list):
            owner.append(owner[last])
        else:
            owner[last] = rng.choice(VALUES)()
    return data if rng.randrange(40) else rng.choice(VALUES)()


def in_json(content: bytes, rng: random.Random) -> bytes:
    return json.dumps(mutate_data(json.loads(content), rng), ensure_ascii=bool(rng.randrange(4))).encode(
        "utf-8", "surrogatepass"
    )


def in_lines(content: bytes, rng: random.Random) -> bytes:
    """Mutate one line of JSON lines."""
    lines = content.splitlines()
    number = rng.randrange(len(lines))
    lines[number] = rng.choice([in_json, in_json, cut, splice])(lines[number], rng)
    return b"\n".join(lines) + b"\n"


def in_header(content: bytes, rng: random.Random) -> bytes:
    """Mutate the JSON header of safetensors, with its length and the tensors after it kept right."""
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    structure = header.get("__metadata__", {}).get("structure")
    if structure and rng.randrange(2):
        header["__metadata__"]["structure"] = in_json(structure.encode(), rng).decode("utf-8", "surrogatepass")
        if rng.randrange(2):
            header["__metadata__"].pop("sha256", None)
    else:
        header = mutate_data(header, rng)
    text = json.dumps(header).encode("utf-8", "surrogatepass")
    return len(text).to_bytes(8, "little") + text + content[8 + size :]


def in_zip(content: bytes, rng: random.Random) -> bytes:
    """Write an archive anew with a member damaged, renamed, repeated, compressed or added."""
    packing = rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(made, "w", packing) as new:
        infos = old.infolist()
        chosen = rng.randrange(len(infos))
        for number, info in enumerate(infos):
            held, name = old.read(info), info.filename
            if number == chosen:
                action = rng.randrange(5)
                held = rng.choice(BYTES)(held, rng) if action < 2 else held
                held = b"\0" * 10**7 if action == 2 else held
                name = rng.choice(["../x", "/x", f"{name}.x", "data.pkl"]) if action == 3 else name
                if action == 4:
                    continue
            new.writestr(name, held)
        if not rng.randrange(4):
            new.writestr(rng.choice(["data.pkl", "archive/data.pkl", "extra/x"]), pickle.dumps(Trap(), protocol=2))
    return made.getvalue()


def in_tar(content: bytes, rng: random.Random) -> bytes:
    """Write an archive anew with a member that is missing, a link, elsewhere, sparse, damaged, or all of it packed."""
    made = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(content)) as old, tarfile.open(fileobj=made, mode="w") as new:
        members = old.getmembers()
        chosen = rng.randrange(len(members))
        for number, member in enumerate(members):
            reader = old.extractfile(member)
            held = reader.read() if reader else b""
            if number == chosen:
                action = rng.randrange(7)
                if action == 0:
                    continue
                member.name = rng.choice(["../x", "/tmp/x", "a/../../x"]) if action == 1 else member.name
                if action in (2, 3):
                    member.type, member.linkname = rng.choice([tarfile.SYMTYPE, tarfile.LNKTYPE]), "/etc/passwd"
                    held = b""
                member.type = (
                    rng.choice([tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE]) if action == 4 else member.type
                )
                held = rng.choice(BYTES)(held, rng) if action == 5 else held
            member.size = len(held)
            new.addfile(member, io.BytesIO(held))
    packed = made.getvalue()
    return gzip.compress(packed) if not rng.randrange(6) else packed


ANCHORS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join([f'*{chr(97 + i)}'] * 9)}]\n" for i in range(8)
)


def in_yaml(content: bytes, rng: random.Random) -> bytes:
    """Add what a yaml loader may execute, expand or recurse into."""
    more = rng.choice(
        [
            ANCHORS,
            f"x: !!python/object/apply:os.system ['touch {CANARY}']\n",
            f"x: !!python/object/apply:pathlib.Path.touch [{CANARY}]\n",
            "x: &x [*x]\n",
            "x: " + "[" * rng.choice([40, 1000, 50_000]) + "\n",
            "? " * rng.choice([40, 20_000]) + "x\n",
            "x: ${oc.env:HOME}\n",
            "x: ${y}${y}\ny: ${z}${z}\nz: ${x}\n",
            "".join(f"x{i}: ${{x{i + 1}}}${{x{i + 1}}}\n" for i in range(40)) + "x40: xxxxxxxx\n",
            "x: ${now:}\n",
            "grid: {seed: [1, 2, .nan, .inf]}\n",
            "points: 3\n",
            "resources: {cpus: 99999999999999999999}\n",
            "seeds: [1e400]\n",
            "x: 2026-99-99\n",
            "<<: *nothing\n",
            f"_target_: os.system\ncommand: touch {CANARY}\n",
            "a: 1\na: 2\n",
            "%YAML 9.9\n---\nx: 1\n",
        ]
    ).encode()
    return rng.choice([content + more, more + content, more])


def in_pickle(content: bytes, rng: random.Random) -> bytes:
    """Swap a pickle for a hostile one, alone or inside what is expected."""
    held = rng.choice([Trap(), {"data": Trap()}, {b"data": [Trap()], "labels": [1]}, {"state_dict": Trap()}])
    return pickle.dumps(held, protocol=rng.randrange(5))

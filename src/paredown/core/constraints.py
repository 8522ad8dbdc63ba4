"""Constraints in types: the annotation of a field states its valid values, and one mechanism checks every field.

A dataclass below `Checked` is checked when it is constructed, whether by `make`, from a configuration, or in Python;
`check_arguments` does the same for the arguments of a function. pydantic is imported on first use.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, make_dataclass
from functools import cache, reduce, wraps
from operator import getitem
from types import NoneType, UnionType
from typing import Annotated, Any, ClassVar, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Interval, Predicate

from paredown.core.errors import UserError, nearest

Value = TypeVar("Value", bound="Checked")
Function = TypeVar("Function", bound=Callable[..., Any])
CONFIG = {"arbitrary_types_allowed": True, "extra": "forbid", "allow_inf_nan": False}  # of pydantic
VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
UNSET = ("missing", "missing_argument", "missing_keyword_only_argument")
UNKNOWN = ("unexpected_keyword_argument", "extra_forbidden")
KINDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "text",
    "tuple": "a list",
    "list": "a list",
    "dict": "a mapping",
    "mapping": "a mapping",
    "dataclass": "a mapping",
    "path": "a path",
    "sequence": "a list",
    "finite": "a finite number",
}
PROBLEMS = ("type", "exact_type", "parsing", "from_float", "str", "number")  # what follows the kind in pydantic's codes
LIMITS = {
    "greater_than_equal": "at least {ge:g}",
    "greater_than": "above {gt:g}",
    "less_than_equal": "at most {le:g}",
    "less_than": "below {lt:g}",
}


@dataclass(frozen=True)
class Rule:
    """The constraints to its left in an `Annotated`, in words: the error for a wrong value reads `name=value (words)`.

    A number under a rule is neither true nor false.
    """

    words: str

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], Any]) -> Any:
        from pydantic_core import PydanticCustomError as Mistake
        from pydantic_core import ValidationError, core_schema

        def validate(value: Any, inner: Callable[[Any], Any]) -> Any:
            try:
                return inner(str(value) if isinstance(value, bool) else value)  # pydantic takes true for 1
            except ValidationError as error:
                errors = error.errors(include_url=False, include_input=False)
                if _path(errors[0], value):  # of a part of the value
                    raise
                kind = _kind(errors[-1]["type"])  # of a union's members the last
                words = f"{kind}, {self.words}" if kind and self.words not in kind else kind or self.words
                raise Mistake("rule", "{words}", {"words": words}) from error

        return core_schema.no_info_wrap_validator_function(validate, handler(source))


@dataclass(frozen=True)
class Before:
    """A function in an `Annotated` that every value goes through before it is checked."""

    function: Callable[[Any], Any]

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], Any]) -> Any:
        from pydantic_core import core_schema

        return core_schema.no_info_before_validator_function(self.function, handler(source))


def _rising(values: Sequence[float]) -> bool:
    return list(values) == sorted(set(values)) and all(0 < value < 1 for value in values)


Number = Annotated[float, Rule("finite")]
NonNegative = Annotated[float, Ge(0), Rule("at least 0")]
Positive = Annotated[float, Gt(0), Rule("above 0")]
Fraction = Annotated[float, Interval(ge=0, lt=1), Rule("in [0, 1)")]
OpenFraction = Annotated[float, Interval(gt=0, lt=1), Rule("in (0, 1)")]
Share = Annotated[float, Interval(gt=0, le=1), Rule("in (0, 1]")]
Energy = Annotated[float, Interval(ge=0, lt=1), Rule("in [0, 1): the fraction of squared singular values removed")]
Count = Annotated[int, Ge(1), Rule("at least 1")]
Threads = Annotated[int, Interval(ge=1, le=1024), Rule("1 to 1024")]  # torch ends the process with far more
NonNegativeInt = Annotated[int, Ge(0), Rule("at least 0")]
Sample = Annotated[int, Predicate(lambda images: images == 0 or images > 1), Rule("0, or at least 2")]
Milestones = Annotated[tuple[float, ...], Predicate(_rising), Rule("fractions of the epochs, rising")]


class Checked:
    """A base of dataclasses whose fields are checked against their annotations, and converted to them.

    `section` is the part of a configuration that holds the fields; in errors it precedes their names. A rule over
    several fields goes into a `__post_init__` that first calls this one.
    """

    section: ClassVar[str] = ""
    __pydantic_config__: ClassVar[Mapping[str, Any]] = CONFIG

    def __post_init__(self) -> None:
        """Raise UserError naming every field whose value is wrong."""
        kind: Any = type(self)
        shape = _fields(kind)
        given = {item.name: getattr(self, item.name) for item in fields(shape)}
        for name, value in vars(_validate(shape, given, self.section)).items():
            object.__setattr__(self, name, value)  # the dataclass is frozen


def make(kind: type[Value], values: Mapping[str, Any], section: str) -> Value:
    """Return an instance of the dataclass `kind` with `values`. Raise UserError naming every wrong value at once."""
    made: Value = _validate(kind, values, section)
    return made


def check_arguments(function: Callable[..., Any], arguments: Mapping[str, Any], section: str) -> dict[str, Any]:
    """Return `arguments` of `function`, converted to its annotations. Raise UserError naming every wrong value."""
    shape = _parameters(function)
    known = {item.name for item in fields(shape)}
    given = {name: value for name, value in arguments.items() if name in known}
    checked = _validate(shape, given, section)
    return {**arguments, **{name: getattr(checked, name) for name in given}}


def checked(section: str) -> Callable[[Function], Function]:
    """Return a decorator that checks the keyword arguments of each call, as `check_arguments` does."""

    def decorate(function: Function) -> Function:
        @wraps(function)
        def call(*positional: Any, **arguments: Any) -> Any:
            return function(*positional, **check_arguments(function, arguments, section))

        return call  # type: ignore[return-value]

    return decorate


@cache
def _validator(kind: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(kind).validator


@cache
def _fields(kind: Any) -> Any:
    """Return a dataclass of the fields of `kind`, without its `__post_init__`."""
    hints = get_type_hints(kind, include_extras=True)
    return _shape(kind.__name__, {item.name: hints[item.name] for item in fields(kind) if item.init})


@cache
def _parameters(function: Callable[..., Any]) -> Any:
    """Return a dataclass of the annotated named parameters of `function`, all optional."""
    hints = get_type_hints(function, include_extras=True)
    named = [item.name for item in inspect.signature(function).parameters.values() if item.kind not in VARIADIC]
    return _shape(function.__name__, {name: hints[name] for name in named if name in hints})


def _shape(name: str, hints: Mapping[str, Any]) -> Any:
    optional = [(part, hint, field(default=None)) for part, hint in hints.items()]
    return make_dataclass(name, optional, namespace={"__pydantic_config__": CONFIG})


def _validate(kind: Any, values: Mapping[str, Any], section: str) -> Any:
    from pydantic import ValidationError

    try:
        return _validator(kind).validate_python(dict(values))
    except ValidationError as error:
        wrong: dict[tuple[Any, ...], list[Any]] = {}
        for item in error.errors(include_url=False):
            wrong.setdefault(_path(item, values), []).append(item)
        raise UserError("; ".join(_say(kind, path, items, section, values) for path, items in wrong.items())) from error


def _path(item: Mapping[str, Any], values: Any) -> tuple[Any, ...]:
    """Locate the wrong value: pydantic's location without the tags of the members of a union."""
    path: list[Any] = []
    for part in item["loc"]:
        known = part in values if isinstance(values, Mapping) else _indexes(part, values)
        if not known and item["type"] not in UNSET:
            break
        path.append(part)
        values = values[part] if known else None
    return tuple(path)


def _indexes(part: Any, values: Any) -> bool:
    return isinstance(part, int) and isinstance(values, Sequence) and not isinstance(values, str) and part < len(values)


def _say(
    kind: Any, path: Sequence[Any], items: Sequence[Mapping[str, Any]], section: str, values: Mapping[str, Any]
) -> str:
    name = ".".join(str(part) for part in ([section] if section else []) + [*path])
    if items[0]["type"] in UNSET:
        return f"{name} is not set"
    if items[0]["type"] in UNKNOWN:
        owner = next(option for option in _options(_hint(kind, path[:-1])) if is_dataclass(option))
        known = [item.name for item in fields(owner) if item.init]
        return f"{name} is no setting of {owner.__name__}: {nearest(path[-1], known)}"  # type: ignore[union-attr]
    options = list(_options(_hint(kind, path)))
    choices = list(dict.fromkeys(written(choice, text=str) for choice in _choices(options)))
    given: Any = reduce(getitem, path, values)
    value = given if isinstance(given, bool) else items[0]["input"]  # pydantic reports the text a `Rule` made of it
    phrases = list(dict.fromkeys(_phrase(item) for item in items if item["type"] != "literal_error"))
    null = ["null"] if NoneType in options and not any("null" in phrase for phrase in phrases) else []
    if choices and not phrases:
        return f"{name}={written(value)}: {nearest(written(value, text=str), [*choices, *null])}"
    return f"{name}={written(value)} ({', or '.join([*phrases, *choices, *null])})"


def written(value: Any, text: Callable[[str], str] = repr) -> str:
    """Format `value` as a configuration has it, in one line: null, true and false, text by `text`."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return text(value)
    if isinstance(value, list):
        return f"[{', '.join(map(written, value))}]"
    return " ".join(repr(value).split())


def _phrase(item: Mapping[str, Any]) -> str:
    kind, limit = _kind(item["type"]), LIMITS.get(item["type"])
    return kind or (limit.format(**item["ctx"]) if limit else item["msg"][:1].lower() + item["msg"][1:])


def _kind(error: str) -> str | None:
    """Return the expected type in words, None where `error` is not about the type."""
    if error == "is_instance_of":  # of the classes in annotations, Sequence alone is not a type of pydantic's
        return KINDS["sequence"]
    name, _, problem = error.partition("_")
    return KINDS.get(name) if problem in PROBLEMS else None


def _hint(hint: Any, path: Sequence[Any]) -> Any:
    """Return the annotation at `path` inside another."""
    for part in path:
        found: Any = Any
        for option in _options(hint):
            if is_dataclass(option):
                found = get_type_hints(option, include_extras=True).get(part, Any)
            elif arguments := [item for item in get_args(option) if item is not Ellipsis]:
                found = arguments[-1]
        hint = found
    return hint


def _choices(hints: Iterable[Any]) -> Iterator[Any]:
    """Yield the values of every Literal in or inside `hints`."""
    for hint in hints:
        yield from get_args(hint) if get_origin(hint) is Literal else _choices(get_args(hint))


def _options(hint: Any) -> Iterator[Any]:
    """Yield the members of a union, without their annotations."""
    if get_origin(hint) is Annotated:
        yield from _options(get_args(hint)[0])
    elif get_origin(hint) in (Union, UnionType):
        for member in get_args(hint):
            yield from _options(member)
    else:
        yield hint

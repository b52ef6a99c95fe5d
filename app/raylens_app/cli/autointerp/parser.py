"""Words of the one-command form → :class:`Autointerp`, and its ``--help``.

argparse rather than typer, which takes no several values after one flag (``--scorers fuzz detection``) and
no value after a switch (``--center_examples False``). Dashes in a flag's name may stand for underscores.
"""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Final, Literal, NoReturn, Union, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from raylens.bundle import paths
from raylens.catalog.aliases import Aliases
from raylens.errors import InputError, UnknownNameError
from raylens_app.cli.autointerp.flags import PICO, PRESETS, About, Autointerp

USAGE: Final = "raylens autointerp [MODEL [SAE]] [flags]"
_HINT: Final = "raylens autointerp --help lists every flag and what it takes."
_YES: Final = frozenset({"true", "yes", "on", "1"})
_NO: Final = frozenset({"false", "no", "off", "0"})
_NONE: Final = frozenset({"none", "null"})
_POSITIONAL: Final = {"model": "MODEL", "sparse_model": "SAE"}
_WIDTH: Final = 100


@dataclass(frozen=True, slots=True)
class Flag:
    """One flag, read off its field.

    Attributes:
        field: Its field of :class:`Autointerp`.
        options: Its name and other names, with dashes in front.
        kind: Of one value.
        several: Whether it takes any number of values.
        optional: Whether ``None`` is one.
        choices: The values it takes, where it takes only these.
        default: What holds where neither the command line nor a preset gives it.
        about: Group and stage.
        help: One paragraph.
    """

    field: str
    options: tuple[str, ...]
    kind: type
    several: bool
    optional: bool
    choices: tuple[str, ...]
    default: Any
    about: About
    help: str

    def value(self, text: str) -> Any:
        """``text`` as a value of this flag.

        Raises:
            InputError: It is none.
        """
        if self.optional and text.casefold() in _NONE:
            return None
        if self.choices:
            for choice in self.choices:
                if choice.casefold() == text.casefold():
                    return choice
            raise UnknownNameError.among(f"value of {self.options[0]}", text, self.choices)
        if self.kind is bool:
            if text.casefold() in _YES | _NO:
                return text.casefold() in _YES
            raise self._wrong("True or False", text)
        if self.kind in (int, float):
            try:
                return self.kind(text)
            except ValueError:
                raise self._wrong("a whole number" if self.kind is int else "a number", text) from None
        return text

    def _wrong(self, what: str, text: str) -> InputError:
        return InputError(f"{self.options[0]} takes {what}, and {text!r} is none.", hint=_HINT)

    @property
    def metavar(self) -> str:
        """What stands for its value in the help."""
        if self.choices:
            return "{" + ",".join(self.choices) + "}"
        return {bool: "BOOL", int: "N", float: "X"}.get(self.kind, "TEXT")


@dataclass(frozen=True, slots=True)
class Parsed:
    """A command line, understood.

    Attributes:
        config: All flags.
        given: Fields that the command line itself names; a preset's are not among them.
    """

    config: Autointerp
    given: frozenset[str]


def flags() -> tuple[Flag, ...]:
    """Every flag, in the order of the help."""
    return tuple(_flag(name, info) for name, info in Autointerp.model_fields.items())


def parse(words: Sequence[str]) -> Parsed:
    """Understand a command line, without its program name.

    Raises:
        InputError: A flag is unknown, lacks a value, or has one that it does not take.
    """
    known = flags()
    parser = _parser(known)
    found, rest = parser.parse_known_args(_with_underscores(words, known))
    if rest:
        unknown = next((word for word in rest if word.startswith("-")), None)
        if unknown is None:
            raise InputError(
                f"nothing is known to do with {rest[0]!r}.",
                hint=f"{USAGE}: MODEL and SAE come first, and several values directly after their flag.",
            )
        names = [option for flag in known for option in flag.options]
        raise UnknownNameError.among("flag", unknown.partition("=")[0], names, hint=_HINT)
    given = dict(vars(found))
    for field, word in _POSITIONAL.items():
        text = given.pop(word, None)
        if text is not None and field in given:
            raise InputError(
                f"the {'model' if field == 'model' else 'SAE'} is named twice: {text} and --{field} {given[field]}.",
                hint="name it once.",
            )
        if text is not None:
            given[field] = text
    preset = given.get("preset")
    of_model = PICO if "model" in given and Aliases().canonical(given["model"]) == paths.PICO else {}
    values = {**of_model, **(PRESETS[preset] if preset else {}), **given}
    return Parsed(_validated(values, known), frozenset(given))


def help_text() -> str:
    """All flags with their defaults."""
    return _parser(flags()).format_help()


def _validated(values: dict[str, Any], known: Sequence[Flag]) -> Autointerp:
    try:
        return Autointerp.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
    field = str(first["loc"][0])
    flag = next(one for one in known if one.field == field)
    problem = f"{first['msg'][0].lower()}{first['msg'][1:]}"
    raise InputError(f"{flag.options[0]} is not valid: {problem} (got {first['input']!r}).", hint=_HINT)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message.removeprefix('argument ')}.", hint=_HINT)


class _Help(argparse.HelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=34, width=_WIDTH)

    def _split_lines(self, text: str, width: int) -> list[str]:
        # Names are not broken at their hyphens.
        return textwrap.wrap(text, width, break_on_hyphens=False, break_long_words=False)


def _parser(known: Sequence[Flag]) -> argparse.ArgumentParser:
    parser = _Parser(
        prog="raylens autointerp",
        usage=USAGE.replace("%", "%%"),
        description=(
            "Cache a model's SAE activations over text, explain each latent, score the explanations on text that "
            "the explainer did not see, and write results/NAME. python -m raylens MODEL SAE [flags] is the same."
        ),
        epilog="Flags may be written with dashes: --n-tokens. docs/speed.md says what to lower first.",
        add_help=False,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
        formatter_class=_Help,
    )
    groups: dict[str, Any] = {}
    for word in _POSITIONAL.values():
        parser.add_argument(word, nargs="?", help=f"The same as --{_field_of(word)}.")
    for flag in known:
        group = groups.get(flag.about.group) or groups.setdefault(
            flag.about.group, parser.add_argument_group(flag.about.group)
        )
        options: dict[str, Any] = {"dest": flag.field, "metavar": flag.metavar, "type": _typed(flag)}
        if flag.several:
            options |= {"nargs": "*", "action": _Several}
        elif flag.kind is bool:
            options |= {"nargs": "?", "const": True}
        group.add_argument(*flag.options, help=_explained(flag), **options)
    return parser


class _Several(argparse.Action):
    """Any number of values as a tuple; ``[]`` is none, as some write it."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        setattr(namespace, self.dest, tuple(values))


def _typed(flag: Flag) -> Callable[[str], Any]:
    # argparse turns a ValueError into words of its own; an InputError passes through.
    return flag.value


def _explained(flag: Flag) -> str:
    default = flag.default
    if flag.several:
        shown = " ".join(map(str, default)) if default else "[]"
    else:
        shown = "''" if default == "" else str(default)
    return f"{flag.help} (default: {shown})".replace("%", "%%")


def _field_of(word: str) -> str:
    return next(field for field, shown in _POSITIONAL.items() if shown == word)


def _with_underscores(words: Sequence[str], known: Sequence[Flag]) -> list[str]:
    """Every known flag as it is declared; values stay as they are."""
    names = {option for flag in known for option in flag.options}
    several = {option for flag in known if flag.several for option in flag.options}
    written: list[str] = []
    for word in words:
        name, equals, value = word.partition("=")
        plain = "--" + name[2:].replace("-", "_") if name.startswith("--") else name
        if plain in names:
            written.append(f"{plain}{equals}{value}")
        elif word == "[]" and written and written[-1] in several:
            continue
        else:
            written.append(word)
    return written


def _flag(name: str, info: FieldInfo) -> Flag:
    about = next(one for one in info.metadata if isinstance(one, About))
    kind, several, optional, choices = _shape(info.annotation)
    return Flag(
        field=name,
        options=(about.option or f"--{name}", *about.aliases),
        kind=kind,
        several=several,
        optional=optional,
        choices=choices,
        default=info.default,
        about=about,
        help=" ".join((info.description or "").split()),
    )


def _shape(annotation: Any) -> tuple[type, bool, bool, tuple[str, ...]]:
    """Type of one value, whether there may be several, whether None is one, and the values where they are counted."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _shape(arguments[0])
    if origin in (Union, UnionType):
        inner = next(one for one in arguments if one is not NoneType)
        kind, several, _, choices = _shape(inner)
        return kind, several, NoneType in arguments, choices
    if origin is tuple:
        kind, _, optional, choices = _shape(arguments[0])
        return kind, True, optional, choices
    if origin is Literal:
        return str, False, False, tuple(arguments)
    return annotation, False, False, ()

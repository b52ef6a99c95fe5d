"""What a rule can ask of one token's text: that it is a certain text, or of a certain class."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, cast

from raylens.errors import InputError

Kind = Literal["exact", "stripped", "folded", "class"]
KINDS: tuple[Kind, ...] = ("exact", "stripped", "folded", "class")

_OPERATOR = re.compile(r"[-+*/%=<>!&|^~@]+")


def _is_punctuation(text: str) -> bool:
    return bool(text) and not any(c.isalnum() or c.isspace() or c == "_" for c in text)


CLASSES: Mapping[str, tuple[str, Callable[[str], bool]]] = {
    "any": ("any token", lambda text: True),
    "digits": ("digits", lambda text: text.strip().isdigit()),
    "identifier": ("a name or word", lambda text: text.strip().isidentifier()),
    "spaced word": ("a word after a space", lambda text: text[:1] == " " and text[1:].isalpha()),
    "capitalised": (
        "a capitalised word",
        lambda text: len(s := text.strip()) > 1 and s.isalpha() and s[0].isupper() and s[1:].islower(),
    ),
    "capitals": ("capitals", lambda text: len(s := text.strip()) > 1 and s.isalpha() and s.isupper()),
    "underscore": ("a leading underscore", lambda text: text.strip().startswith("_")),
    "line break": ("a line break", lambda text: "\n" in text),
    "indented line": ("the start of an indented line", lambda text: re.search(r"\n[ \t]+$", text) is not None),
    "outer line": ("the start of a line without indentation", lambda text: text.endswith("\n")),
    "blank line": ("a blank line", lambda text: text.count("\n") > 1),
    "spaces": ("spaces", lambda text: text.isspace() and "\n" not in text),
    "operator": ("an operator", lambda text: _OPERATOR.fullmatch(text.strip()) is not None),
    "opening bracket": ("an opening bracket", lambda text: text.strip()[-1:] in {"(", "[", "{"}),
    "closing bracket": ("a closing bracket", lambda text: text.strip()[:1] in {")", "]", "}"}),
    "quote": ("a quotation mark", lambda text: '"' in text or "'" in text),
    "punctuation": ("punctuation", lambda text: _is_punctuation(text.strip())),
    "non-ASCII": ("text beyond ASCII", lambda text: not text.isascii()),
}
"""Classes of tokens: the words for one in a phrase, and whether a token's text is of it."""


@lru_cache(maxsize=1 << 17)
def classes_of(text: str) -> frozenset[str]:
    """Names of the classes that a token's text is of, :data:`ANY`'s left out."""
    return frozenset(name for name, (_, of_class) in CLASSES.items() if name != "any" and of_class(text))


@dataclass(frozen=True, slots=True)
class TokenTest:
    """A question about one token's text.

    Attributes:
        kind: ``exact``: the token is ``text``; ``stripped``: it is, without surrounding white space; ``folded``: and
            without regard to case; ``class``: it is of the class named ``text``, a key of :data:`CLASSES`.
        text: Of a ``stripped`` or ``folded`` test already stripped or folded.
    """

    kind: Kind
    text: str

    def holds(self, token: str) -> bool:
        if self.kind == "exact":
            return token == self.text
        if self.kind == "stripped":
            return token.strip() == self.text
        if self.kind == "folded":
            return token.strip().casefold() == self.text
        return self.text == "any" or self.text in classes_of(token)

    @property
    def is_any(self) -> bool:
        return self == ANY

    def to_value(self) -> dict[str, str]:
        """As JSON's values: ``{"exact": " return"}``."""
        return {self.kind: self.text}

    @classmethod
    def from_value(cls, value: object, where: str) -> TokenTest:
        """Inverse of :meth:`to_value`; ``where`` names the place in the rule.

        Raises:
            InputError: ``value`` is not an object of one known kind and a text that a test of the kind can have.
        """
        hint = f"write one of {', '.join(KINDS)} and its text, as in {{'exact': 'return'}}."
        if not isinstance(value, dict) or len(value) != 1:
            raise InputError(f"{where} of a rule is no token test: {value!r}.", hint=hint)
        ((kind, text),) = value.items()
        if kind not in KINDS or not isinstance(text, str):
            raise InputError(f"{where} of a rule is no token test: {value!r}.", hint=hint)
        if kind == "class" and text not in CLASSES:
            raise InputError(f"{where} of a rule names no class: {text!r}.", hint=f"there are {', '.join(CLASSES)}.")
        if kind in {"stripped", "folded"} and text != text.strip():
            raise InputError(f"{where} of a rule has spaces around {text!r}.", hint=f"a {kind} test has none.")
        if kind == "folded" and text != text.casefold():
            raise InputError(f"{where} of a rule has capitals in {text!r}.", hint="a folded test is in lower case.")
        return cls(cast(Kind, kind), text)

    def __str__(self) -> str:
        if self.kind == "class":
            return CLASSES[self.text][0]
        with_what = {"exact": "", "stripped": " with any spaces around", "folded": " in any case"}[self.kind]
        return f"{self.text!r}{with_what}"


ANY = TokenTest("class", "any")

# SPDX-License-Identifier: Apache-2.0
"""How a hyperparameter is declared: said once, for the check, the command line, the search and the docs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from numbers import Real
from typing import Any

from tflm_zo.errors import ZoError

# Of the kernels (Configure): a larger one would leave the range of float32.
LARGEST_RATE = 1e30

_KEY = "declaration"


class Range(ABC):
    """The values that a hyperparameter may have; as a string: in words, short enough for a table."""

    def check(self, name: str, value: Any) -> None:
        """Raise :class:`ZoError` that names the hyperparameter and the range if ``value`` is out of it."""
        if not self._holds(value):
            raise ZoError(self._refusal(name, value))

    @abstractmethod
    def _holds(self, value: Any) -> bool: ...

    def _refusal(self, name: str, value: Any) -> str:
        return f"{name} is {value}: it must be {self}"


@dataclass(frozen=True)
class Whole(Range):
    """Whole numbers from ``low`` to ``high``, both included."""

    low: int
    high: int

    def _holds(self, value: Any) -> bool:
        return _is_number(value) and bool(self.low <= value <= self.high and int(value) == value)

    def __str__(self) -> str:
        return f"a whole number from {self.low} to {self.high}"


@dataclass(frozen=True)
class Part(Range):
    """Real numbers from ``low`` to ``high``, both included."""

    low: float
    high: float

    def _holds(self, value: Any) -> bool:
        return _is_number(value) and bool(self.low <= value <= self.high)

    def __str__(self) -> str:
        return f"from {self.low:g} to {self.high:g}"


@dataclass(frozen=True)
class Rate(Range):
    """Real numbers that a learning rate can be, or be multiplied by."""

    def _holds(self, value: Any) -> bool:
        return _is_number(value) and bool(0 <= value < LARGEST_RATE)

    def __str__(self) -> str:
        return f"0 or more, and below {LARGEST_RATE:g}"


@dataclass(frozen=True)
class Codes(Range):
    """Whole codes up to the headroom of a tensor, which only a model knows: ``make_recipe`` checks them."""

    def _holds(self, value: Any) -> bool:
        return True

    def __str__(self) -> str:
        return "a whole number from 0 to the tensor's headroom"


@dataclass(frozen=True)
class OneOf(Range):
    """One of some names."""

    names: tuple[str, ...]

    def _holds(self, value: Any) -> bool:
        return value in self.names

    def _refusal(self, name: str, value: Any) -> str:
        return f"{name} {value!r} is unknown: choose from {self}"

    def __str__(self) -> str:
        return ", ".join(self.names)


@dataclass(frozen=True)
class Switch(Range):
    """On or off, with a name for each on the command line."""

    on: str
    off: str

    def _holds(self, value: Any) -> bool:
        return value in (True, False)

    def __str__(self) -> str:
        return "true or false"


@dataclass(frozen=True)
class Numbers:
    """What a search tries: numbers from ``low`` to ``high``, even on a logarithmic scale; ``whole``: integers."""

    low: float
    high: float
    whole: bool = False

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g}"


@dataclass(frozen=True)
class Choice:
    """What a search tries: one of a few values."""

    values: tuple[int | bool, ...]

    def __str__(self) -> str:
        return ", ".join(str(value).lower() for value in self.values)


@dataclass(frozen=True)
class Traits:
    """How a model is trained, as far as it decides which hyperparameters matter to it: in closed form, by its input
    adapter, by the outputs of layers, by perturbed weights or biases (other than the adapter's), in how many groups;
    ``batches``: samples of a batch are not just trained on one after the other."""

    exact: bool
    adapter: bool
    nodes: bool
    weights: bool
    biases: bool
    groups: int
    batches: bool


@dataclass(frozen=True)
class Search:
    """How a hyperparameter is searched: what is tried, the default among it; the models that it matters to; and the
    hyperparameters that leave nothing to search in it if they are given."""

    values: Numbers | Choice
    matters: Callable[[Traits], bool]
    unless: tuple[str, ...] = ()


@dataclass(frozen=True)
class Declaration:
    """What is said of one hyperparameter.

    ``text``: what it does, for help and tables. ``unit`` of its values. ``none``: what the default does where that is
    None, which then is a value too. ``by_layer``: may be a dict by the names of layers. ``search``: how
    ``tflm-zo tune`` tries it; None: not at all.
    """

    range: Range
    text: str
    unit: str = ""
    none: str = ""
    by_layer: bool = False
    search: Search | None = None

    def check(self, name: str, value: Any) -> None:
        """Raise :class:`ZoError` if ``value``, or one of a dict's by layer, is out of range."""
        if value is None and self.none:
            return
        values = list(value.values()) if self.by_layer and isinstance(value, Mapping) else [value]
        for one in values:
            self.range.check(name, one)


def declare(default: Any, range_: Range, text: str, **more: Any) -> Any:
    """Return a dataclass's field with this default and a :class:`Declaration` of the rest."""
    return field(default=default, metadata={_KEY: Declaration(range_, text, **more)})


def declarations(owner: type) -> Iterator[tuple[str, Any, Declaration]]:
    """The hyperparameters that a dataclass declares, in its order: name, default, declaration."""
    for one in fields(owner):
        yield one.name, one.default, one.metadata[_KEY]


def option_name(name: str, declaration: Declaration) -> str:
    """How a hyperparameter is spelled on the command line, in the form that click takes."""
    if isinstance(declaration.range, Switch):
        return f"--{declaration.range.on}/--{declaration.range.off}"
    return f"--{name.replace('_', '-')}"


def default_text(default: Any, declaration: Declaration) -> str:
    """A default in words: what None does, or the value."""
    if default is None:
        return declaration.none
    return str(default).lower() if isinstance(default, bool) else str(default)


def _is_number(value: Any) -> bool:
    return isinstance(value, Real)

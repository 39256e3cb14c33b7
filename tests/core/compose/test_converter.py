from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import attrs
import pytest
from attrs import field, validators
from uncollapse.core.compose.converter import make_converter
from uncollapse.core.compose.problems import Invalid
from uncollapse.core.errors import UncollapseError
from uncollapse.core.registry import Registry

if TYPE_CHECKING:
    from decimal import Decimal

CONVERTER = make_converter(Registry())


def wrong(cls, data):
    """Every problem in words."""
    with pytest.raises(Invalid) as caught:
        CONVERTER.structure(data, cls)
    return [str(problem) for problem in caught.value.problems]


@attrs.frozen
class Window:
    low: float = attrs.field(default=0.5, validator=validators.ge(0))
    high: float = attrs.field(default=5.0)

    @high.validator
    def _above_low(self, attribute, value):
        if not value > self.low:
            raise ValueError(f"high must be more than low, {self.low}, got {value}")


def test_a_value_that_is_refused_beside_another_is_told_with_its_key():
    assert wrong(Window, {"high": 0.1}) == ["high = 0.1: must be more than low, 0.5"]
    assert wrong(Window, {"low": 7}) == ["high = 5.0: must be more than low, 7.0"]
    assert wrong(Window, {"low": -1, "high": "x", "hi": 1}) == [
        "low = -1.0: must be >= 0",
        "high = 'x': must be a number",
        "hi = 1: unknown key; did you mean 'high'?",
    ]


@attrs.frozen
class Words:
    """Named as what a reader that is made by a program might call its own variables."""

    cl: int
    attrs: int = field(validator=validators.ge(0))
    converter: int
    o: int
    res: int
    errors: int = field(alias="mistakes")
    _hidden: int = 0


def test_parameters_may_have_any_name():
    data = {"cl": 1, "attrs": 2, "converter": 3, "o": 4, "res": 5, "mistakes": 6, "hidden": 7}
    assert attrs.astuple(CONVERTER.structure(data, Words)) == (1, 2, 3, 4, 5, 6, 7)
    assert wrong(Words, data | {"mistakes": "6", "hidden": 0.5, "attrs": -1}) == [
        "attrs = -1: must be >= 0",
        "mistakes = '6': must be a whole number; write 6",
        "hidden = 0.5: must be a whole number",
    ]
    assert wrong(Words, {key: data[key] for key in data if key != "mistakes"}) == [
        "mistakes: is missing, and has no default"
    ]


@attrs.frozen
class Nested:
    pair: tuple[int, str] = (0, "")
    rows: list[tuple[int, ...]] = attrs.field(factory=list)
    windows: dict[str, Window] = attrs.field(factory=dict)
    either: int | tuple[str, ...] = 0
    anything: Any = None
    loose: Mapping = attrs.field(factory=dict)
    noted: Annotated[int, "a word of its author"] = attrs.field(default=1, validator=validators.ge(1))


def test_what_is_wrong_is_found_at_every_depth_in_one_pass():
    found = wrong(
        Nested,
        {
            "pair": [0.5, 1],
            "rows": [[1], [2, "3"], 4],
            "windows": {"a": {"low": "x"}, "b": {"lwo": 1}, "c": {}},
            "either": 0.5,
            "noted": 0,
        },
    )
    assert found == [
        "pair.0 = 0.5: must be a whole number",
        "pair.1 = 1: must be text; write '1', in quotes",
        "rows.1.1 = '3': must be a whole number; write 3",
        "rows.2 = 4: must be a list; write [4]",
        "windows.a.low = 'x': must be a number",
        "windows.b.lwo = 1: unknown key; did you mean 'low'?",
        "either = 0.5: must be a whole number, or a list",
        "noted = 0: must be >= 1",
    ]


def test_what_is_right_is_read_at_every_depth():
    data = {"pair": [1, "a"], "rows": [[1, 2]], "windows": {"a": {"low": 1}}, "either": ["x"], "loose": {"k": [1]}}
    read = CONVERTER.structure(data | {"anything": {"x": 1}}, Nested)
    assert read == Nested((1, "a"), [(1, 2)], {"a": Window(1.0)}, ("x",), {"x": 1}, {"k": [1]})


@attrs.frozen
class Odd:
    value: complex = 0j


@attrs.frozen
class Unreadable:
    value: "Decimal"


def test_types_that_no_file_can_hold():
    assert wrong(Odd, {"value": 1}) == ["value = 1: has a type that no file can hold: <class 'complex'>"]
    assert CONVERTER.structure({}, Odd) == Odd(0j)
    with pytest.raises(UncollapseError, match=r"Unreadable cannot be read.*Decimal"):
        CONVERTER.structure({}, Unreadable)


def test_an_error_in_a_class_of_somebody_else_is_not_taken_for_a_wrong_value():
    @attrs.frozen
    class Broken:
        value: int = 0

        def __attrs_post_init__(self):
            raise ZeroDivisionError("a mistake")

    with pytest.raises(ZeroDivisionError, match="a mistake") as caught:
        CONVERTER.structure({"value": 1}, Broken)
    assert not hasattr(caught.value, "__notes__")

"""What an environment says of its tools, and what they hand over, is checked."""

from __future__ import annotations

import attrs
import pytest
from uncollapse.core.components import Env, Environment, Step
from uncollapse.core.compose.named import Named
from uncollapse.core.errors import EpisodeLostError, RequestError, RunError
from uncollapse.core.registry import registry
from uncollapse.plugins.rollout.borders import CheckedEnvironment
from uncollapse.plugins.rollout.tool_failures import MOST, ToolFailedError
from uncollapse.plugins.rollout.tools import tools_of


class Shop(Env):
    system_text: object = ""
    earlier_turns: object = ()

    def initial_observation(self) -> str:
        return "A shop."

    def buy(self, item: str, count: int = 1, gift: bool | None = None) -> object:
        """Buy something.

        Args:
            item: What to buy. (choices: ["tea", "milk"])
            count: How many.
            gift: Whether it is one.
        """
        if count > 9:
            raise ValueError("there are 9")
        return {"tea": f"{count} tea", "milk": Step("milk", 0.5, done=True)}[item]

    def step(self, action: str) -> Step:
        return Step("No.", 0.0)


def look() -> str:
    """Look around."""
    return "tea"


@attrs.frozen
class Shops(Environment):
    tools: object = (Shop.buy, look)
    made: type = Shop
    actions: None = None
    instruction: str = "Shop."

    def make(self, seed: int, member: int = 0) -> Env:
        return self.made()


def checked(**given: object) -> CheckedEnvironment:
    assert registry().entry("environment", "bandit")
    return CheckedEnvironment(Named("environment", "bandit", {}, Shops(**given)))


def test_types_and_docstrings_are_the_schema():
    buy, other = tools_of(checked())
    assert buy.function == {
        "name": "buy",
        "description": "Buy something.",
        "parameters": {
            "type": "object",
            "properties": {
                "item": {"type": "string", "enum": ["tea", "milk"], "description": "What to buy."},
                "count": {"type": "integer", "description": "How many."},
                "gift": {"type": "boolean", "nullable": True, "description": "Whether it is one."},
            },
            "required": ["item"],
        },
    }
    assert (other.name, other.function["parameters"]) == ("look", {"type": "object", "properties": {}})


def without_words(number: int) -> str:
    return str(number)


def without_types(number) -> str:
    """Do something.

    Args:
        number: A number.
    """
    return str(number)


@pytest.mark.parametrize(
    ("tools", "said"),
    [
        ((without_words,), "the tool without_words has no schema: Cannot generate JSON schema"),
        ((without_types,), "the tool without_types has no schema: Argument number is missing a type hint"),
        ((look, look), "two tools have the name 'look'"),
    ],
)
def test_a_tool_without_a_schema_is_refused(tools, said):
    with pytest.raises(RequestError) as raised:
        tools_of(checked(tools=tools))
    assert said in str(raised.value)
    assert raised.value.where == "environment bandit"


def test_what_is_no_tuple_of_functions_is_refused():
    with pytest.raises(RunError, match="tools must be a tuple of functions, not 'look'"):
        tools_of(checked(tools="look"))


def test_a_tool_gives_a_text_or_a_step_and_a_value_error_is_told():
    env = checked().make(0)
    assert env.call("buy", {"item": "tea", "count": 2}) == Step("2 tea", 0.0)
    assert env.call("buy", {"item": "milk"}) == Step("milk", 0.5, done=True)
    assert env.call("buy", {"item": "tea", "count": 10}) == Step("Error: there are 9", 0.0)


def test_a_tool_that_fails_is_told_and_a_person_hears_of_it_once(capsys):
    env = checked().make(0)
    for _ in range(3):
        with pytest.raises(ToolFailedError) as raised:
            env.call("buy", {"item": "coffee"})
        assert raised.value.what == "KeyError: 'coffee'"
    assert capsys.readouterr().err.count("the tool buy of environment 'bandit' failed: KeyError: 'coffee'") == 1


def test_a_tool_that_fails_each_time_ends_the_run_and_one_that_works_again_does_not():
    env = checked().make(0)

    def fail(times):
        for _ in range(times):
            with pytest.raises(ToolFailedError):
                env.call("buy", {"item": "coffee"})

    fail(MOST - 1)
    env.call("buy", {"item": "tea"})
    fail(MOST - 1)
    with pytest.raises(RunError, match=r"failed in call\('buy'\): KeyError: 'coffee'") as ended:
        env.call("buy", {"item": "coffee"})
    assert not isinstance(ended.value, ToolFailedError)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ConnectionRefusedError("down"), EpisodeLostError),
        (TimeoutError("slow"), EpisodeLostError),
        (SystemExit(3), RunError),
    ],
)
def test_a_lost_connection_or_an_exit_is_not_told_to_the_model(error, kind):
    class Gone(Shop):
        def buy(self, item):
            raise error

    with pytest.raises(kind) as raised:
        checked(made=Gone).make(0).call("buy", {"item": "tea"})
    assert not isinstance(raised.value, ToolFailedError)


def test_bytes_and_what_cannot_be_encoded_become_text_and_async_tools_are_awaited():
    class Odd(Shop):
        def buy(self, item):
            return {"bytes": b"tea \xff", "half": "tea \ud800", "none": None}[item]

    env = checked(made=Odd).make(0)
    assert env.call("buy", {"item": "bytes"}).observation == "tea \ufffd"
    assert env.call("buy", {"item": "half"}).observation == "tea ?"
    assert env.call("buy", {"item": "none"}).observation == "None"

    class Later(Shop):
        async def buy(self, item):
            if item == "milk":
                raise ValueError("no milk")
            return f"{item}, later"

    env = checked(made=Later).make(0)
    assert env.call("buy", {"item": "tea"}).observation == "tea, later"
    assert env.call("buy", {"item": "milk"}).observation == "Error: no milk"


def test_what_a_call_may_not_hand_over_is_refused_by_name():
    class Nothing(Shop):
        def call(self, name, arguments):
            return Step("", "much")

    with pytest.raises(RunError, match="call gave reward = 'much', which is of the type str and not a number"):
        checked(made=Nothing).make(0).call("buy", {})


@pytest.mark.parametrize(
    ("system", "earlier", "said"),
    [
        (None, (), "system_text gave NoneType None, not a text"),
        ("", [("u", "a")], "earlier_turns gave [('u', 'a')], which is not a tuple of pairs of texts"),
        ("", (("u",),), "which is not a tuple of pairs of texts"),
        ("", (("u", 1),), "earlier_turns gave int 1, not a text"),
    ],
)
def test_what_comes_before_the_first_turn_is_text(system, earlier, said):
    class Odd(Shop):
        system_text = system
        earlier_turns = earlier

    with pytest.raises(RunError) as raised:
        checked(made=Odd).make(0)
    assert said in str(raised.value)


def test_members_of_a_group_have_the_same_turns_before_the_first():
    class Each(Shop):
        number = 0

        def __init__(self) -> None:
            Each.number += 1
            self.system_text = f"You are {Each.number}."

    world = checked(made=Each)
    world.make(0)
    with pytest.raises(RunError, match="must see the same first prompt"):
        world.make(0, 1)

"""The public interface: what it lists is there, is documented, and costs nothing before it is used."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import uncollapse
from uncollapse import api
from uncollapse.core import components, errors
from uncollapse.core.errors import RequestError
from uncollapse.core.kinds import KINDS

ROOT = Path(uncollapse.__file__).parent
GUIDE = (ROOT / "docs" / "python.md").read_text("utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", GUIDE, flags=re.MULTILINE | re.DOTALL)
TRAINS = ("train(", ".run(", "RunDirectory.open(")


@pytest.mark.parametrize("module", ["uncollapse", "uncollapse.api"])
def test_importing_it_loads_neither_torch_nor_a_plugin_nor_the_schema(module):
    code = f"import json, sys, {module}; print(json.dumps(list(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stdout))
    assert module in loaded
    assert not {"torch", "numpy", "transformers", "cattrs", "ruamel.yaml", "pluggy", "click"} & loaded
    assert not any(name.startswith(("uncollapse.plugins", "uncollapse.core.compose")) for name in loaded)


def test_each_public_name_is_there_and_in_the_guide():
    words = set(re.findall(r"\w+", GUIDE))
    for name in api.__all__:
        assert getattr(api, name) is not None
        assert name in words, name
    assert {name for name in uncollapse.__all__ if getattr(uncollapse, name) is getattr(api, name)} == {
        *("RunDirectory", "Sweep", "compose", "hookimpl", "registry", "train")
    }
    assert set(api.__all__) <= set(dir(api))
    assert set(uncollapse.__all__) <= set(dir(uncollapse))


def test_every_contract_of_a_kind_is_public():
    assert {kind.contract for kind in KINDS.values() if kind.contract} <= set(components.__all__) <= set(api.__all__)


def test_what_type_checkers_read_is_what_is_imported():
    tree = ast.parse(Path(api.__file__).read_text("utf-8"))
    told = next(node for node in tree.body if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
    homes = {
        alias.asname or alias.name: f".{statement.module}:{alias.name}"
        for statement in told.body
        for alias in statement.names
    }
    assert homes == api.HOMES
    at_once = {
        alias.name for node in tree.body if isinstance(node, ast.ImportFrom) and node.level for alias in node.names
    }
    assert at_once | set(homes) == set(api.__all__)
    assert not at_once & set(homes)


@pytest.mark.parametrize("module", [uncollapse, api])
def test_a_name_that_is_not_public_is_no_attribute(module):
    with pytest.raises(AttributeError, match="has no attribute 'compos'"):
        module.compos  # noqa: B018


@pytest.mark.parametrize("block", [block for block in BLOCKS if not any(word in block for word in TRAINS)])
def test_the_examples_of_the_guide_run(block, capsys):
    exec(compile(block, "python.md", "exec"), {"__name__": "example"})
    if "top_q" in block:
        assert "there is no rollout_filter 'top_q'" in capsys.readouterr().out
    if "kl.coef=-1" in block:
        assert capsys.readouterr().out.splitlines() == ["top_p 0.9 0", "kl.coef must be at least 0", "1 "]


def test_the_public_errors_say_whether_the_request_was_wrong():
    errors = {getattr(api, name) for name in api.__all__ if name.endswith("Error")}
    assert {error.__name__ for error in errors if not issubclass(error, RequestError)} == {
        "UncollapseError",
        "RunError",
        "EpisodeLostError",
    }


COMMAND_LINE = ("core/console", "plugins/sweeps/commands", "plugins/training/commands", "plugins/training/processes")
"""Where only the command line comes: commands, and the start of the processes that it asks for."""
BOTH = ("in_python", "in Python", "RESUME", "BY_FILE", "TRUST", "STALE", "OTHER_ROOT")


def messages():
    """(place, source) of each text that is handed to an error, is called a fix, or is returned."""
    for folder in ("core", "plugins/training", "plugins/sweeps", "plugins/launch", "plugins/rollout"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            name = path.relative_to(ROOT).as_posix()
            if name.startswith(COMMAND_LINE):
                continue
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                given = []
                if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("Error", "Problem", "say")):
                    given = [*node.args, *(keyword.value for keyword in node.keywords)]
                named = isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in ("fix", "what", "reason")
                if named or (isinstance(node, ast.Return) and isinstance(node.value, ast.JoinedStr | ast.Constant)):
                    given = [node.value]
                yield from ((f"{name}:{node.lineno}", ast.unparse(text)) for text in given)


def test_a_message_that_names_an_option_says_what_it_is_in_python():
    found = list(messages())
    assert len(found) > 300
    named = [(place, text) for place, text in found if re.search(r"(?<![\w-])--[a-z]", text)]
    assert len(named) > 3
    assert [place for place, text in named if not any(word in text for word in BOTH)] == []
    assert api.UncollapseError("what", fix=f"continue with {errors.RESUME}").fix == (
        "continue with --resume (resume=True in Python)"
    )

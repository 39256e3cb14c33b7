"""Imports point down: who may import whom, and no module imports itself on a way round."""

import ast
import functools
from pathlib import Path
from xml.etree import ElementTree

import pytest
import uncollapse

ROOT = Path(uncollapse.__file__).parent
LAYERS = (
    {"core"},
    {"core.components", "core.console"},
    {"core.compose"},
    {"core.runs"},
    {"estimators"},
    {"filters", "plugins.models"},
    {
        *("plugins.dialogue", "plugins.environments", "plugins.launch"),
        *("plugins.report", "plugins.rollout", "plugins.tracking", "plugins.verifiers"),
    },
    {"plugins.training"},
    {"plugins.collapse", "plugins.experiments", "plugins.sweeps"},
    {"plugins.probe", "plugins.ragen"},
    {"testing"},
    {"cli"},
)
"""A room may import from itself and from rooms of lower layers."""
KNOWN_UP = {"core": {"core.components", "core.compose", "core.runs"}, "core.components": {"core.runs"}}
"""The registry looks the contracts up; hooks are given a run directory and an experiment, trackers a run directory."""


@functools.cache
def modules():
    """Module -> its file, below the package."""
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): path
        for folder in ("core", "filters", "estimators", "plugins", "testing", "cli")
        for path in (ROOT / folder).rglob("*.py")
        if path.name != "__init__.py"
    }


def room(module):
    """The room of the layers that a module is in."""
    known = sorted((name for layer in LAYERS for name in layer), key=len, reverse=True)
    return next(name for name in known if module == name or module.startswith(f"{name}."))


def imported(module, path, typing=True):
    """The modules of this package that a module imports, below the root."""
    tree = ast.parse(path.read_text("utf-8"))
    skipped = set()
    if not typing:
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
                skipped.update(id(child) for child in ast.walk(node))
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                skipped.update(id(child) for child in ast.walk(node))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level and id(node) not in skipped:
            base = module.split(".")[: -node.level]
            target = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                name = f"{target}.{alias.name}" if target else alias.name
                yield name if name in modules() else target


def test_every_module_is_in_a_room():
    assert len({room(module) for module in modules()}) == sum(map(len, LAYERS))


def test_rooms_import_from_lower_rooms_only():
    level = {name: number for number, layer in enumerate(LAYERS) for name in layer}
    wrong = []
    for module, path in modules().items():
        here = room(module)
        for target in imported(module, path):
            there = room(target) if target else ""
            if there and there != here and level[there] >= level[here] and there not in KNOWN_UP.get(here, ()):
                wrong.append(f"{module} imports {target}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(("start", "typing"), [("", False), ("plugins.probe", True), ("plugins.report", True)])
def test_no_module_imports_itself_on_a_way_round(start, typing):
    """In the rooms that are named not for type hints either."""
    graph = {
        module: {target for target in imported(module, path, typing) if target != module}
        for module, path in modules().items()
        if module.startswith(start)
    }
    done, under_way = set(), []

    def visit(module):
        if module in under_way:
            raise AssertionError(" -> ".join([*under_way[under_way.index(module) :], module]))
        if module not in done and module in graph:
            under_way.append(module)
            for target in sorted(graph[module]):
                visit(target)
            done.add(under_way.pop())

    for module in sorted(graph):
        visit(module)


def test_no_two_modules_know_each_other_even_by_their_type_hints():
    targets = {module: set(imported(module, path)) for module, path in modules().items()}
    pairs = {
        tuple(sorted((module, target)))
        for module, others in targets.items()
        for target in others
        if target != module and module in targets.get(target, ())
    }
    assert not pairs


SVG = "{http://www.w3.org/2000/svg}"


def picture():
    return ElementTree.parse(ROOT / "docs" / "architecture.svg").getroot()


def test_the_picture_has_every_room_in_the_row_of_its_layer():
    names = [node for node in picture().iter(f"{SVG}text") if node.get("class") == "name"]
    rows = {}
    for node in names:
        rows.setdefault(int(node.get("y")), set()).add(node.text)
    assert [rows[y] for y in sorted(rows, reverse=True)] == list(LAYERS)


def test_arrows_of_the_picture_are_imports_and_imports_follow_from_arrows():
    """Of plugins and the command line: what they import from below is for all to see in the rows."""
    arrows = {(node.get("data-from"), node.get("data-to")) for node in picture().iter(f"{SVG}path")} - {(None, None)}
    sources = dict(modules())
    rooms = {module: room(module) for module in sources}
    imports = {
        (rooms[module], rooms[target])
        for module, path in sources.items()
        for target in imported(module, path)
        if target in rooms and rooms[target] != rooms[module]
    }
    assert arrows - imports == set()
    below = {name: {target for start, target in arrows if start == name} for name in rooms.values()}
    for _ in LAYERS:
        below = {name: near.union(*(below[target] for target in near)) for name, near in below.items()}
    of_plugins = {(start, end) for start, end in imports if end.startswith("plugins.")}
    assert {(start, end) for start, end in of_plugins if end not in below[start]} == set()

"""Imports point down: who may import whom, and no module imports itself on a way round."""

import ast
from pathlib import Path

import uncollapse

ROOT = Path(uncollapse.__file__).parent
LAYERS = (
    {"core"},
    {"core.components", "core.console"},
    {"core.compose"},
    {"core.runs"},
    {"estimators"},
    {"filters"},
    {"plugins.environments", "plugins.launch", "plugins.report", "plugins.rollout", "plugins.tracking"},
    {"plugins.experiments", "plugins.training"},
    {"plugins.collapse", "plugins.sweeps"},
    {"plugins.probe", "plugins.ragen"},
    {"cli"},
)
"""A room may import from itself and from rooms of lower layers."""
KNOWN_UP = {"core": {"core.components", "core.compose", "core.runs"}, "core.components": {"core.runs"}}
"""The registry looks the contracts up; hooks are given a run directory and an experiment, trackers a run directory."""


def modules():
    """Module -> its file, below the package."""
    for path in ROOT.rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if parts[0] in ("core", "filters", "estimators", "plugins", "cli") and parts[-1] != "__init__":
            yield ".".join(parts), path


def room(module):
    """The room of the layers that a module is in."""
    known = sorted((name for layer in LAYERS for name in layer), key=len, reverse=True)
    return next(name for name in known if module == name or module.startswith(f"{name}."))


def imported(module, path, typing=True):
    """The modules of this package that a module imports, below the root."""
    everything = dict(modules())
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
                yield name if name in everything else target


def test_every_module_is_in_a_room():
    assert len({room(module) for module, _ in modules()}) == sum(map(len, LAYERS))


def test_rooms_import_from_lower_rooms_only():
    level = {name: number for number, layer in enumerate(LAYERS) for name in layer}
    wrong = []
    for module, path in modules():
        here = room(module)
        for target in imported(module, path):
            there = room(target) if target else ""
            if there and there != here and level[there] >= level[here] and there not in KNOWN_UP.get(here, ()):
                wrong.append(f"{module} imports {target}")
    assert not wrong, "\n".join(wrong)


def test_no_module_imports_itself_on_a_way_round():
    graph = {
        module: {target for target in imported(module, path, typing=False) if target != module}
        for module, path in modules()
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

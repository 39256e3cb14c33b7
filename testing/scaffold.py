"""A package to start from has one working component of any kind, its test, and its entry point."""

from __future__ import annotations

import ast
import keyword
import re
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from string import Template

from ..core.errors import RequestError, nearest
from ..core.files import make_directory
from ..core.kinds import KINDS
from ..core.registry import registry
from ..core.targets import locate

NAME = re.compile(r"[A-Za-z](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")
FILES = {
    "pyproject.toml": "pyproject.toml",
    "README.md": "README.md",
    "tests/test_conformance.py": "test_conformance.py",
    "{package}/plugin.py": "plugin.py",
}
"""Template that each file is written from, by path."""


def write_package(name: str, kind: str, folder: Path) -> list[Path]:
    """Write the package ``name`` with a component of ``kind`` into ``folder/name``; return the files.

    Raises:
        RequestError: there is no such kind, the name cannot be that of a package or is taken, or the folder exists.
            Nothing is written.
    """
    registry().entries(kind)
    if kind not in kinds():
        raise RequestError(f"there is no package of a {kind} to start from", fix=nearest(kind, kinds()))
    package = re.sub(r"[-.]+", "_", name).lower()
    if not NAME.fullmatch(name) or not package.isidentifier() or keyword.iskeyword(package):
        fix = "letters, digits and - _ . between them"
        raise RequestError(f"{name!r} cannot be the name of a package", "uncollapse plugins new", fix)
    if registry().has(kind, package):
        what, fix = f"there is a {kind} {package!r} already", "choose another name for the package"
        raise RequestError(what, str(registry().entry(kind, package).plugin), fix)
    if locate(package) is not None:
        fix = "choose another name for the package"
        raise RequestError(f"there is a Python module {package!r} already", "uncollapse plugins new", fix)
    target = folder / name
    if target.exists():
        raise RequestError(f"{target} is there already", fix="choose another name, or another folder with --to")
    texts = _texts(name, package, kind)
    for path, text in texts.items():
        make_directory((target / path).parent)
        (target / path).write_text(text, encoding="utf-8")
    return [target / path for path in texts]


def _texts(distribution: str, package: str, kind: str) -> dict[str, str]:
    """Return the text of each file, by path below the package's folder."""
    is_mapping = KINDS[kind].is_mapping
    cls = "".join(word.capitalize() for word in package.split("_")) or package
    file = f"{package}.yaml" if is_mapping else "component.py"
    words = {"distribution": distribution, "package": package, "name": package, "kind": kind, "Class": cls}
    words |= {"hook": KINDS[kind].hook, "file": file}
    component = _filled(kind, words)
    words["target"] = f"{package}:{file}" if is_mapping else f"{package}.component:{cls}"
    if kind == "command":
        words["target"] = f"{package}.component:command"
    words["summary"] = f"a {kind} to start from" if is_mapping else _summary(component)
    texts = {path.format(package=package): _filled(source, words) for path, source in FILES.items()}
    header = "" if is_mapping else f'"""The {kind} ``{package}``."""\n\n'
    texts[f"{package}/__init__.py"] = f'"""A plugin for uncollapse: the {kind} ``{package}``."""\n'
    texts[f"{package}/{file}"] = header + component
    return texts


def _filled(template: str, words: dict[str, str]) -> str:
    return Template(_source(template).read_text("utf-8")).substitute(words)


def _source(template: str) -> Traversable:
    return resources.files(__package__) / "templates" / f"{template}.template"


def kinds() -> list[str]:
    """List the kinds that a package can be written for."""
    return [kind for kind in KINDS if _source(kind).is_file()]


def _summary(component: str) -> str:
    """Return the first sentence of the component's docstring, as a summary: in lower case, without a full stop."""
    for node in ast.parse(component).body:
        doc = ast.get_docstring(node) if isinstance(node, ast.ClassDef | ast.FunctionDef) else None
        if doc:
            sentence = doc.partition("\n")[0].partition(". ")[0].rstrip(".").replace("``", "").replace('"', "'")
            return sentence[0].lower() + sentence[1:]
    raise ValueError("the template has no docstring")

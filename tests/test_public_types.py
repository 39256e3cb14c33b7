"""The public interface as type checkers see it, and how much of core they cannot see."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import uncollapse

ROOT = Path(uncollapse.__file__).parent
BLOCK = re.compile(r"^```python\n(.*?)^```", flags=re.MULTILINE | re.DOTALL)


@pytest.fixture
def folder(tmp_path):
    """A folder with what is to be checked: the file of assertions, and the examples of the guide."""
    (tmp_path / "uncollapse").symlink_to(ROOT)
    (tmp_path / "public.py").write_text((ROOT / "tests" / "typing_tests" / "public.py").read_text("utf-8"))
    for number, block in enumerate(BLOCK.findall((ROOT / "docs" / "python.md").read_text("utf-8"))):
        (tmp_path / f"example_{number}.py").write_text(block)
    return tmp_path


def checked(folder, *command):
    """The exit code and the output of a type checker, run where the package has its own name."""
    files = sorted(path.name for path in folder.glob("*.py"))
    done = subprocess.run([sys.executable, "-m", *command, *files], cwd=folder, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.slow  # mypy reads torch first
def test_mypy_knows_the_types_of_the_public_interface(folder):
    strict = ("mypy", "--strict", "--follow-imports=silent", "--cache-dir=.cache", "--config-file=")
    code, output = checked(folder, *strict)
    assert code == 0, output
    (folder / "public.py").write_text("import uncollapse\nuncollapse.compose(3)\nuncollapse.compos('demo')\n")
    code, output = checked(folder, *strict)
    assert code == 1
    assert [line.rpartition("[")[2] for line in output.splitlines() if "error:" in line] == [
        "arg-type]",
        "attr-defined]",
    ]


def test_pyright_knows_the_types_of_the_public_interface(folder):
    strict = '[tool.basedpyright]\ntypeCheckingMode = "strict"\nreportUnnecessaryTypeIgnoreComment = "error"\n'
    (folder / "pyproject.toml").write_text(strict)
    code, output = checked(folder, "basedpyright", "--pythonpath", sys.executable)
    assert code == 0, output
    (folder / "public.py").write_text("import uncollapse\nuncollapse.compose(3)\nuncollapse.compos('demo')\n")
    code, output = checked(folder, "basedpyright", "--pythonpath", sys.executable)
    assert code == 1
    assert "reportArgumentType" in output
    assert '"compos" is not a known attribute' in output


def test_the_modules_that_are_strict_have_every_flag_of_strict():
    text = subprocess.run([sys.executable, "-m", "mypy", "--help"], capture_output=True, text=True, check=True).stdout
    listed = re.search(r"--strict .*?flags:(.*?)\n  --[a-z]", text, flags=re.DOTALL).group(1)
    flags = {re.sub(r"-\s+", "-", flag).strip(" -\n").replace("-", "_") for flag in listed.split(",")}
    assert len(flags) > 10
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["mypy"]
    (strict,) = (part for part in settings["overrides"] if "uncollapse" in part["module"])
    given = {name for name, value in (settings | strict).items() if value is True}
    given |= {f"no_{name}" for name, value in strict.items() if value is False}
    assert flags <= given
    assert {f"uncollapse.{name}.*" for name in ("core", "cli", "filters", "estimators")} <= set(strict["module"])


def test_at_most_a_tenth_of_the_arguments_in_core_may_be_anything():
    kinds = []
    for path in (ROOT / "core").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                given = node.args
                arguments = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
                kinds += [
                    ast.unparse(argument.annotation) if argument.annotation else "Any"
                    for argument in arguments
                    if argument is not None and argument.arg not in ("self", "cls")
                ]
    assert len(kinds) > 500
    assert kinds.count("Any") <= len(kinds) / 10

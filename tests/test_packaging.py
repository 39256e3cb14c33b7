"""The root folder is the package: the list of packages is complete, and a wheel holds all that an install needs."""

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import uncollapse

ROOT = Path(uncollapse.__file__).parent
NOT_SHIPPED = {"tests", "examples", "benchmarks", "build", "docs", "runs", ".venv", ".venv-vllm"}


def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_every_package_is_listed():
    folders = {path.parent.relative_to(ROOT) for path in ROOT.rglob("__init__.py")}
    found = {".".join(["uncollapse", *folder.parts]) for folder in folders if not NOT_SHIPPED & set(folder.parts[:1])}
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
        missing = {f"uncollapse/{path}" for path in found if not NOT_SHIPPED & set(path.parts[:1])} - shipped
        assert not missing
    assert not any(name.startswith(("uncollapse/tests", "uncollapse/benchmarks")) for name in shipped)
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

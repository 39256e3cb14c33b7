"""``uncollapse plugins new``: a package of each kind works as it is written."""

import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import uncollapse
from click.testing import CliRunner
from uncollapse.cli.main import main
from uncollapse.core.kinds import KINDS
from uncollapse.testing import scaffold

ROOT = Path(uncollapse.__file__).parent
RUN = [sys.executable, "-m"]


def environment(folder):
    path = os.pathsep.join([str(folder), str(ROOT.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path}


def new(*words, code=0):
    done = CliRunner().invoke(main, ["plugins", "new", *map(str, words)])
    assert done.exit_code == code, done.output
    return done


def announce(folder, distribution):
    """What pip would write beside the package: its name and its entry points."""
    package = distribution.replace("-", "_")
    info = folder / f"{package}-0.1.0.dist-info"
    info.mkdir()
    info.joinpath("METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 0.1.0\n")
    info.joinpath("entry_points.txt").write_text(f"[uncollapse]\n{package} = {package}.plugin\n")
    folder.joinpath(package).symlink_to(folder / "sources" / distribution / package)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder on the path that holds a new package of every kind, as if they were installed."""
    folder = tmp_path_factory.mktemp("site")
    for kind in scaffold.kinds():
        name = f"new-{kind.replace('_', '-')}"
        new(name, "--kind", kind, "--to", folder / "sources")
        announce(folder, name)
    return folder


@pytest.fixture(scope="module")
def outcomes(site):
    """Kind -> the outcomes of the tests that were written with its package, all run in one process."""
    words = [*RUN, "pytest", "-q", "--import-mode=importlib", "-p", "no:cacheprovider", "--junitxml=results.xml"]
    subprocess.run([*words, "sources"], cwd=site, env=environment(site), capture_output=True, check=False)
    found = {}
    for case in ET.parse(site / "results.xml").iter("testcase"):
        package = case.get("classname").split(".")[1]
        outcome = next((f"{child.tag}: {child.text or child.get('message')}" for child in case), "passed")
        found.setdefault(package, []).append((case.get("name"), outcome))
    return found


def test_there_is_a_package_to_start_from_for_every_kind():
    assert scaffold.kinds() == list(KINDS)


@pytest.mark.parametrize("kind", scaffold.kinds())
def test_a_new_package_passes_the_test_that_comes_with_it(outcomes, kind):
    name = f"new_{kind}"
    results = dict(outcomes[f"new-{kind.replace('_', '-')}"])
    assert results == {f"test_components[registration-{name.replace('_', '-')}]": "passed"} | {
        f"test_components[{kind}-{name}]": "passed"
    }


@pytest.mark.slow
def test_plugins_check_finds_nothing_wrong_with_any_of_them(site):
    words = [*RUN, "uncollapse.cli.main", "plugins", "--check", "--json"]
    done = subprocess.run(words, env=environment(site), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    registered = {}
    for plugin in json.loads(done.stdout):
        if plugin["distribution"].startswith("new-"):
            assert plugin["status"] == "loaded", plugin["errors"]
            registered |= plugin["registers"]
    assert registered == {kind: [f"new_{kind}"] for kind in scaffold.kinds()}


def test_ruff_finds_nothing_in_what_is_written(site):
    words = [*RUN, "ruff", "check", "--isolated", "--line-length=120", "--select=E,F,I,UP,B", "sources"]
    done = subprocess.run(words, cwd=site, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["mine", "--kind", "filter"], "there is no kind 'filter'; did you mean 'rollout_filter'?"),
        (["top_p", "--kind", "rollout_filter"], "there is a rollout_filter 'top_p' already"),
        (["1st", "--kind", "kl"], "'1st' cannot be the name of a package"),
        (["a/b", "--kind", "kl"], "'a/b' cannot be the name of a package"),
        (["class", "--kind", "kl"], "'class' cannot be the name of a package"),
        (["json", "--kind", "kl"], "there is a Python module 'json' already"),
    ],
)
def test_what_cannot_be_written_is_refused_before_anything_is(tmp_path, words, says):
    done = new(*words, "--to", tmp_path, code=2)
    assert says in " ".join(done.output.replace("fix:", ";").split()).replace(" ;", ";"), done.output
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_there_is_left_alone(tmp_path):
    (tmp_path / "mine").mkdir()
    assert "is there already" in new("mine", "--kind", "kl", "--to", tmp_path, code=2).output
    assert not list((tmp_path / "mine").iterdir())


@pytest.mark.slow
def test_new_packages_install_with_pip(tmp_path):
    pip = [*RUN, "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--target"]
    site, sources = tmp_path / "site", tmp_path / "sources"
    for kind in ("kl", "sweep"):
        new(f"fresh-{kind}", "--kind", kind, "--to", sources)
        subprocess.run([*pip, str(site), str(sources / f"fresh-{kind}")], check=True)
    shown = [*RUN, "uncollapse.cli.main", "list", "--json"]
    done = subprocess.run(shown, env=environment(site), capture_output=True, text=True, check=True)
    listed = {
        (entry["kind"], entry["name"], entry["distribution"], entry["version"]) for entry in json.loads(done.stdout)
    }
    assert ("kl", "fresh_kl", "fresh-kl", "0.1.0") in listed
    assert ("sweep", "fresh_sweep", "fresh-sweep", "0.1.0") in listed
    tests = [*RUN, "pytest", "-q", "--import-mode=importlib", "-p", "no:cacheprovider", str(sources)]
    done = subprocess.run(tests, env=environment(site), cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "4 passed" in done.stdout

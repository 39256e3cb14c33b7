"""The guides against the program: links, options, commands, names, and what the README says that is printed."""

import re
import shlex
from pathlib import Path

import click
import pytest
import uncollapse
from uncollapse.cli.main import main
from uncollapse.core.compose.config import compose
from uncollapse.core.kinds import KINDS
from uncollapse.core.registry import registry
from uncollapse.core.runs.status import Status, stopped_by
from uncollapse.plugins.sweeps.sweep import load
from uncollapse.plugins.training.processes.rank_processes import LAUNCHER

ROOT = Path(__file__).parents[1]
GUIDES = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/*.md")), *sorted(ROOT.glob("examples/*/README.md"))]
TEXTS = {guide: guide.read_text("utf-8") for guide in GUIDES}
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", flags=re.MULTILINE | re.DOTALL)
FOLDERS = "benchmarks|cli|core|docs|estimators|examples|filters|plugins|tests"
OPTIONS_OF_OTHERS = {"--x", "--no-gradient-checkpointing", "--temperatures", "--kl-coef", "--rootdir", "--no-deps"}
OPTIONS_OF_OTHERS |= {"--rows", "--minutes", "--per-gpu", "--page", "--thin"}
"""Of no command of ours: an example of a spelling, those of benchmarks, of a guide, of pytest and of pip."""


def prose(text: str) -> str:
    return BLOCK.sub("", text)


def anchors(text: str) -> set[str]:
    heads = re.findall(r"^#+ (.*)$", prose(text), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.strip().lower()).replace(" ", "-") for head in heads}


def commands(command: click.Command, context: click.Context):
    yield command
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            yield from commands(below, click.Context(below, info_name=name, parent=context))


def lines_of(text: str) -> list[list[str]]:
    """The words of every command line of ours that stands in a block."""
    found = []
    for language, block in BLOCK.findall(text):
        if language in ("", "bash"):
            for line in re.sub(r"\\\n *", "", block).splitlines():
                line = line.removeprefix("$ ").removeprefix(".venv/bin/")
                if line.startswith("uncollapse "):
                    found.append(shlex.split(re.split(r" {2,}|\$SETTINGS", line)[0], comments=True)[1:])
    return found


LINES = [(guide.name, words) for guide, text in TEXTS.items() for words in lines_of(text)]


@pytest.mark.parametrize("guide", GUIDES, ids=lambda guide: guide.name)
def test_links_and_files_are_there(guide):
    for target in re.findall(r"\]\((?!https:)([^)\s]+)\)", prose(TEXTS[guide])):
        path, _, anchor = target.partition("#")
        file = (guide.parent / path).resolve() if path else guide
        assert file.exists(), target
        assert not anchor or anchor in anchors(file.read_text("utf-8")), target
    for path in re.findall(rf"`((?:{FOLDERS})/[\w./-]+)`", TEXTS[guide]):
        assert (ROOT / path).exists(), path


def test_the_architecture_names_files_from_the_root_and_what_they_define():
    text = TEXTS[ROOT / "docs/architecture.md"]
    files = set(re.findall(r"`([\w./-]+\.py)`", text))
    assert len(files) > 60
    assert [file for file in files if not (ROOT / file).is_file()] == []
    for file, name in re.findall(r"`([\w./]+\.py)` `(\w+)`", text):
        definition = rf"^(?:def|class) {name}\b"
        assert re.search(definition, (ROOT / file).read_text("utf-8"), flags=re.MULTILINE), (file, name)


def test_contributing_says_of_every_kind_how_a_name_is_added():
    told = re.findall(
        r"^\| (`.*?`) \|", TEXTS[ROOT / "CONTRIBUTING.md"].partition("## Add a name")[2], flags=re.MULTILINE
    )
    assert [kind for cell in told for kind in re.findall(r"`(\w+)`", cell) if kind not in KINDS] == []
    assert KINDS.keys() - set(re.findall(r"`(\w+)`", " ".join(told))) == set()


def test_what_is_said_to_be_public_is_there():
    text = TEXTS[ROOT / "docs/stability.md"]
    names = re.search(r"^\| `uncollapse\.(.*?) \|", text, flags=re.MULTILINE)[1]
    assert set(re.findall(r"\w+", names)) == set(uncollapse.__all__)
    source = " ".join(
        path.read_text("utf-8") for room in ("core", "plugins", "cli") for path in (ROOT / room).rglob("*.py")
    )
    read = set(re.findall(r"UNCOLLAPSE_[A-Z_]*[A-Z]", source)) - {LAUNCHER}
    assert set(re.findall(r"UNCOLLAPSE_\w+", text)) == read
    statuses = re.search(r"^\| status \|(.*?)\|", TEXTS[ROOT / "docs/glossary.md"], flags=re.MULTILINE)[1]
    told = re.findall(r"`([\w:<>]+)`", statuses)
    assert set(told) == {*Status} - {Status.STOPPED} | {stopped_by("<detector>")}


def test_options_of_the_guides_exist():
    ours = {word for command in commands(main, click.Context(main)) for param in command.params for word in param.opts}
    for guide, text in TEXTS.items():
        named = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", text))
        assert {name.replace("_", "-") for name in named} - ours - {"--help"} - OPTIONS_OF_OTHERS == set(), guide


def test_help_says_whose_keys_set_changes():
    for command in commands(main, click.Context(main)):
        for param in command.params:
            if "--set" in param.opts:
                of_probe = "plugins.probe" in (command.callback.__module__ if command.callback else "")
                assert ("the probe's configuration;" in param.help) is of_probe, command.name


@pytest.mark.parametrize(("guide", "words"), LINES, ids=lambda item: item if isinstance(item, str) else " ".join(item))
def test_commands_of_the_guides_are_accepted(guide, words):
    """Command and options, and for an experiment of ours every setting; plugin files are those of the guides."""
    words = [word for at, word in enumerate(words) if "--plugin" not in (word, *words[max(at - 1, 0) : at])]
    command, context = main, click.Context(main)
    while isinstance(command, click.Group) and words and not words[0].startswith("--"):
        if not (name := words.pop(0)).islower() or name == "temperatures":
            return
        if name.endswith(".yaml"):
            name = "custom"
        command = command.get_command(context, name)
        assert command is not None, (guide, name)
        context = click.Context(command, info_name=name, parent=context)
    given, rest, _ = command.make_parser(context).parse_args(words)
    experiment = given.get("experiment") or next(iter(rest), None)
    changes = [text for text in given.get("overrides", []) if not re.search("above_mean|guess", text)]
    if experiment in registry().names("experiment") and command.name in ("train", "doctor"):
        compose(experiment, changes)


def test_the_readme_prints_the_titles_and_directories_that_a_sweep_has(tmp_path):
    text = TEXTS[ROOT / "README.md"]
    demo = [(point.title, point.label) for point in load("demo").prepared(tmp_path)]
    table = re.findall(r"^(filter\.select .*?)  +success .*  (\S+)$", text, flags=re.MULTILINE)
    assert table == demo
    axes = {"filter.select": "nofilter, min_p(0.8)", "kl.coef": "0"}  # of the same shape, among the names of ours
    mine = [(point.title, point.label) for point in load("demo").changed(axes=axes).prepared(tmp_path)]
    started = re.findall(r"^started (.*), see runs/mine/(.*)/log\.txt$", text, flags=re.MULTILINE)
    assert [tuple(part.replace("above_mean", "min_p") for part in line) for line in started] == mine

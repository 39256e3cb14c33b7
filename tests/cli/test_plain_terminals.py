from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from uncollapse.core.console.options import print_json

ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0"}
SWEEP = "experiment: tiny-sokoban\nset: {environment.symbols: '#_O√XPS'}\naxes: {seed: [0]}\n"


@pytest.mark.parametrize("words", [(), ("--json",)])
def test_a_terminal_without_unicode_gets_all_of_it(tmp_path, words):
    (tmp_path / "a.yaml").write_text(SWEEP, encoding="utf-8")
    command = [sys.executable, "-m", "uncollapse.cli.main", "sweep", "show", "a.yaml", *words]
    done = subprocess.run(command, env=os.environ | ASCII, cwd=tmp_path, capture_output=True, check=True)
    text = done.stdout.decode("ascii")
    assert "\\u221a" in text
    if words:
        assert "√" in json.loads(text)["seed_0"]["environment"]


def test_json_has_null_for_numbers_that_it_does_not_know(capsys):
    print_json({"se": math.nan, "most": [math.inf, -math.inf, 1.5], "path": Path("a"), "word": "😀"})
    found = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert found == {"se": None, "most": [None, None, 1.5], "path": "a", "word": "😀"}


CLOSED = ">&-", "2>&-", ">&- 2>&- <&-"


@pytest.mark.parametrize("where", CLOSED)
@pytest.mark.parametrize("words", ["list kl", "check tiny-sokoban"])
def test_a_command_whose_output_is_closed_ends_as_it_would(words, where):
    command = f"{sys.executable} -m uncollapse.cli.main {words} {where}"
    assert subprocess.run(["sh", "-c", command], stdin=subprocess.DEVNULL, check=False).returncode == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
@pytest.mark.parametrize("words", ["list", "--version", "train --help"])
def test_an_output_that_is_full_is_one_message(words):
    command = f"{sys.executable} -m uncollapse.cli.main {words} > /dev/full"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "error: the output cannot be written: No space left on device\n")

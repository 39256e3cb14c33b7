from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

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

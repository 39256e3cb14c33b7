from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from uncollapse.cli.plain_output import plain

ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0"}
SWEEP = "experiment: tiny-sokoban\nset: {environment.symbols: '#_O√XPS'}\naxes: {seed: [0]}\n"


def test_what_cannot_be_shown_is_replaced():
    assert plain("0.5 ± 0.1 → ü – 中", "ascii") == "0.5 +- 0.1 -> \\xfc - \\u4e2d"
    assert plain("0.5 ± ü →", "latin-1") == "0.5 ± ü ->"
    assert plain("0.5 ± 0.1 →", "utf-8") == "0.5 ± 0.1 →"


@pytest.mark.parametrize("words", [(), ("--json",)])
def test_a_terminal_without_unicode_gets_all_of_it(tmp_path, words):
    (tmp_path / "a.yaml").write_text(SWEEP, encoding="utf-8")
    command = [sys.executable, "-m", "uncollapse.cli.main", "sweep", "show", "a.yaml", *words]
    done = subprocess.run(command, env=os.environ | ASCII, cwd=tmp_path, capture_output=True, check=True)
    text = done.stdout.decode("ascii")
    assert "\\u221a" in text
    if words:
        assert "√" in json.loads(text)["seed_0"]["environment"]

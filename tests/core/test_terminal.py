"""Whatever the locale and whatever is echoed: a terminal can show it, and is not steered by it."""

import io
import os
import subprocess
import sys

import pytest
from uncollapse.core.terminal import LONGEST, escaped, printable_streams


def test_control_characters_are_escaped_and_lines_stay():
    assert escaped("a\x1b[31m\x00\r\nb\tc") == "a\\x1b[31m\\x00\\r\nb\\tc"
    assert escaped("é √ 中") == "é √ 中"
    assert escaped("\ud800") == "\\ud800"


def test_a_long_line_is_cut_in_the_middle():
    cut = escaped("a" * 10_000 + "z\nshort")
    assert cut.endswith("aaz\nshort")
    assert len(cut) < LONGEST + 60


def test_what_an_encoding_lacks_is_spelled_out(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    printable_streams()
    print("0.5 ± 0.1 – √ \udcff")
    stream.flush()
    assert stream.buffer.getvalue() == b"0.5 +- 0.1 - \\u221a \\udcff\n"


@pytest.mark.parametrize("arguments", [["list"], ["show", "environment", "sokoban"], ["check", "tiny-sokoban"]])
def test_a_locale_without_utf8_is_no_obstacle(arguments):
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-m", "uncollapse.cli.main", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert len(done.stdout.decode("utf-8")) > 100

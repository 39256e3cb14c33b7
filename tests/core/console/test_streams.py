"""Output that nobody takes, and processes that end with a code."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from uncollapse.core.console.exit_codes import ending
from uncollapse.core.console.streams import say

PROGRAM = (
    "import sys, time\n"
    "from uncollapse.core.console.streams import never_fail, say\n"
    "never_fail()\n"
    "for number in range(3):\n"
    "    print(number, '\\u00b1' * 9000, flush=True)\n"
    "    say('said')\n"
    "open('file', 'w').write('kept')\n"
    "print('x' * 99999)\n"
    "sys.exit(7)\n"
)


@pytest.mark.parametrize("where", [">/dev/full 2>/dev/full", ">&- 2>&- <&-", "| true", "2>&1 | true", ">out 2>err"])
def test_work_goes_on_and_ends_as_it_would_where_its_output_goes_nowhere(tmp_path, where):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    shell = f'set -o pipefail; "{sys.executable}" program.py {where}'
    # no UTF-8: letters that the encoding lacks are no error either
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(["bash", "-c", shell], cwd=tmp_path, env=environment, capture_output=True, check=False)
    assert (done.returncode, done.stderr.replace(b"said\n", b"")) == (7, b"")
    assert (tmp_path / "file").read_text() == "kept"
    if "out" in where:
        assert (tmp_path / "out").read_bytes().startswith(b"0 +-+-")
        assert (tmp_path / "err").read_text() == "said\n" * 3


def test_a_word_to_a_stream_that_is_gone_is_no_error(monkeypatch):
    with Path(os.devnull).open("w") as closed:
        pass
    for stream in (None, closed):
        monkeypatch.setattr(sys, "stderr", stream)
        say("anybody?")


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (1, "failed with exit code 1"),
        (137, "was killed by signal 9 (SIGKILL): perhaps the machine, or the job's limit, is out of memory"),
        (-9, "was killed by signal 9 (SIGKILL): perhaps the machine, or the job's limit, is out of memory"),
        (128 + signal.SIGTERM, "was killed by signal 15 (SIGTERM)"),
        (255, "failed with exit code 255"),
    ],
)
def test_signals_have_names(code, words):
    assert ending(code) == words

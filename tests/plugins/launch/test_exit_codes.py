from __future__ import annotations

import pytest
from uncollapse.plugins.launch.exit_codes import how_it_ended


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (137, "killed by signal 9 (SIGKILL): perhaps out of memory"),
        (139, "killed by signal 11 (SIGSEGV): a library has crashed"),
        (138, "killed by signal 10 (SIGUSR1)"),
        (127, "the process could not be started (code 127)"),
        (1, "the process ended with code 1"),
        (250, "the process ended with code 250"),
    ],
)
def test_signals_are_named(code, words):
    assert how_it_ended(code) == words

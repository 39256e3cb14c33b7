"""What others' code changes for the whole process is put back, and said."""

from pathlib import Path

import pytest
import torch
from uncollapse.core.calling import call, manager
from uncollapse.core.errors import RequestError, RunError
from uncollapse.core.plugins import load_file
from uncollapse.core.surroundings import restored

CHANGES = {
    "the working directory": "import os; os.chdir('/')",
    "torch's default dtype": "import torch; torch.set_default_dtype(torch.float64)",
    "torch's default device": "import torch; torch.set_default_device('meta')",
    "torch's recording of gradients": "import torch; torch.set_grad_enabled(False)",
    "torch's autocast": "import torch; torch.set_autocast_enabled('cpu', True)",
}
HOOK = """
from uncollapse import hookimpl
{at_import}

@hookimpl
def step_finished(step):
    {at_step}
"""


def state():
    return (
        str(Path.cwd()), torch.get_default_dtype(), torch.empty(0).device.type, torch.is_grad_enabled(),
        torch.is_autocast_enabled("cpu"),
    )  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_whatever_is_changed_is_put_back_and_named(name):
    before = state()
    with restored() as changes:
        exec(CHANGES[name], {})
        assert state() != before
    assert state() == before
    assert len(changes) == 1
    assert changes[0].startswith(f"{name} (it was ")


def test_nothing_is_said_of_what_was_put_back_by_itself():
    with restored() as changes, torch.no_grad():
        torch.manual_seed(0)
    assert changes == []


@pytest.mark.parametrize("name", CHANGES)
def test_a_plugin_that_changes_the_process_while_it_is_imported_is_refused(name, tmp_path):
    (tmp_path / "rude.py").write_text(HOOK.format(at_import=CHANGES[name], at_step="pass"))
    before = state()
    with pytest.raises(RequestError, match=f"it changed {name}"):
        load_file(tmp_path / "rude.py")
    assert state() == before


@pytest.mark.parametrize("name", CHANGES)
def test_a_hook_that_changes_the_process_ends_the_run_and_is_named(name, tmp_path):
    (tmp_path / "rude.py").write_text(HOOK.format(at_import="", at_step=CHANGES[name]))
    plugin, before = load_file(tmp_path / "rude.py"), state()
    with pytest.raises(RunError, match=f"plugin 'rude' .* failed in step_finished: .*it changed {name}"):
        call(manager([plugin]), "step_finished", run=None, step=1, metrics={})
    assert state() == before

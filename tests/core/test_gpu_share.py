"""The share of each GPU that a run is given by its environment."""

import pytest
from uncollapse.core.errors import RequestError
from uncollapse.core.gpu_share import GIB, VARIABLE, gpu_share, overfills, variables


@pytest.mark.parametrize("share", [1, 2**20, 22 * GIB // 3, 150_754_820_096])
def test_a_share_that_was_given_is_read_to_the_byte(monkeypatch, share):
    for name, value in variables(share).items():
        monkeypatch.setenv(name, value)
    assert gpu_share() == share
    assert not overfills()


@pytest.mark.parametrize(("text", "all_the_same"), [("", False), (" ", False), ("all", True)])
def test_without_a_share_a_run_takes_what_is_free(monkeypatch, text, all_the_same):
    monkeypatch.setenv(VARIABLE, text)
    assert gpu_share() is None
    assert overfills() is all_the_same


@pytest.mark.parametrize("text", ["24GB", "nan", "inf", "0", "-1", "1e9"])
def test_what_is_no_share_is_refused(monkeypatch, text):
    monkeypatch.setenv(VARIABLE, text)
    with pytest.raises(RequestError, match="which is no number of GiB"):
        gpu_share()

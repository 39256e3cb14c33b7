"""Where built models are kept."""

import pytest
import uncollapse
from uncollapse.core.errors import RequestError
from uncollapse.plugins.training.prepare import prepare_model


def test_a_cache_that_cannot_be_written_is_a_wrong_request(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("UNCOLLAPSE_CACHE", str(tmp_path / "file"))
    with pytest.raises(RequestError, match=r"cannot keep models in .*file/models: ") as found:
        prepare_model(uncollapse.compose("tiny-sokoban"))
    assert found.value.where == "UNCOLLAPSE_CACHE"

"""Where built models are kept."""

import pytest
import uncollapse
from uncollapse.core.errors import RequestError
from uncollapse.plugins.training.networks.prepare import prepare_model


def test_a_cache_that_cannot_be_written_is_a_wrong_request(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("UNCOLLAPSE_CACHE", str(tmp_path / "file"))
    with pytest.raises(RequestError, match=r"cannot keep models in .*file/models: ") as found:
        prepare_model(uncollapse.compose("tiny-sokoban"))
    assert found.value.where == "UNCOLLAPSE_CACHE"


def test_a_model_is_built_once_and_that_is_said(monkeypatch, tmp_path, capsys):
    experiment = uncollapse.compose("tiny-sokoban")
    builder = type(experiment.model.build.component)
    monkeypatch.setenv("UNCOLLAPSE_CACHE", str(tmp_path))
    monkeypatch.setattr(builder, "build", lambda self, directory, environment: (directory / "config.json").touch())
    paths = {prepare_model(experiment) for _ in range(2)}
    assert len(paths) == 1
    said = f"building the start model {experiment.model.build.name} in {paths.pop()} (once; it is kept there)\n"
    assert capsys.readouterr().err == said

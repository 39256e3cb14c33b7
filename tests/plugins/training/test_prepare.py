"""Where built models are kept."""

import attrs
import pytest
import uncollapse
from safetensors import SafetensorError
from uncollapse.core.compose.named import Named
from uncollapse.core.errors import RequestError, RunError
from uncollapse.plugins.dialogue.think_answer import ThinkAnswer
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
    monkeypatch.setattr(builder, "build", lambda self, directory, *given: (directory / "config.json").touch())
    paths = {prepare_model(experiment) for _ in range(2)}
    assert len(paths) == 1
    said = f"building the start model {experiment.model.build.name} in {paths.pop()} (once; it is kept there)\n"
    assert capsys.readouterr().err == said


@attrs.frozen
class Loud(ThinkAnswer):
    sign: str = "!"


def test_each_dialogue_has_a_model_of_its_own_which_is_built_with_it(monkeypatch, tmp_path):
    experiment, given = uncollapse.compose("tiny-sokoban"), []

    def build(self, directory, environment, dialogue):
        given.append(dialogue.component)
        (directory / "config.json").touch()

    monkeypatch.setenv("UNCOLLAPSE_CACHE", str(tmp_path))
    monkeypatch.setattr(type(experiment.model.build.component), "build", build)
    spoken = [ThinkAnswer(), Loud(), Loud("?")]
    named = [Named("dialogue", "any", {}, dialogue) for dialogue in spoken]
    assert len({prepare_model(attrs.evolve(experiment, dialogue=each)) for each in named}) == 3
    assert given == spoken


def test_a_builder_that_breaks_is_named(monkeypatch, tmp_path):
    experiment = uncollapse.compose("tiny-sokoban")
    monkeypatch.setenv("UNCOLLAPSE_CACHE", str(tmp_path))
    monkeypatch.setattr(type(experiment.model.build.component), "build", lambda self, directory, environment: None)
    with pytest.raises(RunError, match=r"model_builder 'cloned_qwen2' of .* failed in build: TypeError"):
        prepare_model(experiment)


def full_disk(self, directory, *given):
    (directory / "part").touch()
    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


def test_a_full_disk_is_told_and_nothing_half_made_is_left(monkeypatch, tmp_path):
    experiment = uncollapse.compose("tiny-sokoban")
    monkeypatch.setenv("UNCOLLAPSE_CACHE", str(tmp_path))
    monkeypatch.setattr(type(experiment.model.build.component), "build", full_disk)
    with pytest.raises(RequestError, match=r"cannot keep models in .*: .*No space left") as found:
        prepare_model(experiment)
    assert found.value.where == "UNCOLLAPSE_CACHE"
    assert [path.suffix for path in (tmp_path / "models").iterdir()] == [".lock"]

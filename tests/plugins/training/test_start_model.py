"""A checkpoint rests on a model that it does not hold: the base of an adapter, the reference of a KL term."""

import shutil

import pytest
from transformers import AutoModelForCausalLM
from uncollapse.core.errors import RequestError
from uncollapse.core.runs.directory import RunDirectory
from uncollapse.plugins.training.evaluate import evaluate
from uncollapse.plugins.training.train import train
from uncollapse.plugins.training.weights.export import export


@pytest.fixture
def interrupted(bandit, tmp_path):
    """Trains one step of two, with settings of the model, of the trainer and of others, on a copy of the model."""

    def begin(model, **others):
        folder = tmp_path / "model"
        shutil.copytree(bandit["model"]["path"], folder)
        own = {"model": {**bandit["model"], "path": str(folder), **model}, "advantage": "grpo"}
        trainer = {**bandit["trainer"], "steps": 2, "save_every": 1}
        experiment = {**bandit, **own, "trainer": trainer, "validation": {"every": 0}, **others}
        train(experiment, tmp_path / "run")
        run = RunDirectory.open(tmp_path / "run")
        shutil.rmtree(run.latest())
        run.set_status("interrupted")  # as if the last step had not been done
        return experiment, run, folder

    return begin


def change(folder):
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.model.layers[1].mlp.up_proj.weight.data[3, 5] += 0.01
    model.save_pretrained(folder)


@pytest.mark.parametrize(
    ("model", "others"), [({"lora": {"rank": 2}}, {}), ({"dtype": "bfloat16"}, {"kl": {"coef": 0.1}})]
)
def test_a_run_does_not_go_on_from_another_start_model(interrupted, model, others):
    stage = {"trainer": {"steps": 2, "save_every": 1, "mini_batch": 4, "micro_batch": 2, "zero_stage": 1, "keep": 0}}
    experiment, run, folder = interrupted(model, **others, **stage)
    change(folder)
    with pytest.raises(RequestError, match=r"model is another one than when the run began: .*up_proj.* differ"):
        train(experiment, run.path, resume=True)
    assert run.latest().name == "step_1"


def test_an_adapter_is_not_merged_into_another_model(interrupted):
    _, run, folder = interrupted({"lora": {"rank": 2}})
    change(folder)
    for use in (export, evaluate):
        with pytest.raises(RequestError, match="model is another one than when the run began"):
            use(run.path)
    assert not list((run.path / "export").glob("*"))


def test_the_same_model_in_other_files_and_a_start_model_that_nothing_rests_on_are_taken(interrupted):
    experiment, run, folder = interrupted({"lora": {"rank": 2}})
    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(folder, max_shard_size="20KB")
    (folder / "model.safetensors").unlink()
    assert train(experiment, run.path, resume=True).status == "success"
    shutil.rmtree(folder)
    shutil.rmtree(run.path)
    experiment, run, folder = interrupted({})
    change(folder)
    assert train(experiment, run.path, resume=True).status == "success"

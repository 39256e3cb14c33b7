"""Which head computes: names, what each refuses, and how a policy and the probe choose."""

import sys

import pytest
import torch
import uncollapse
from heads_help import need, oracle
from uncollapse.core.components import TokenHead, TokenScores, TrainEngine
from uncollapse.core.compose.problems import CompositionError
from uncollapse.core.errors import RequestError
from uncollapse.plugins.probe.estimation.passes import Passes, trained
from uncollapse.plugins.training.assemble import assemble
from uncollapse.plugins.training.deepspeed_backend import DeepSpeed
from uncollapse.plugins.training.heads import auto_head
from uncollapse.plugins.training.heads.torch_head import Torch
from uncollapse.plugins.training.heads.triton_head import Triton
from uncollapse.plugins.training.networks.models import Policy
from uncollapse.plugins.training.processes.ranks import Ranks

CPU, GPU = torch.device("cpu"), torch.device("cuda")
ALONE = Ranks(0, 1, CPU)


@pytest.fixture
def absent(monkeypatch):
    """Makes a library look as if it were not installed."""

    def hide(name):
        for module in ("auto_head", "triton_head", "trl_head"):
            path = f"uncollapse.plugins.training.heads.{module}"
            monkeypatch.setattr(sys.modules[path], "find_spec", lambda asked: None if asked == name else object())

    __import__("uncollapse.plugins.training.heads.trl_head")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    return hide


class Recording(TokenHead):
    """Torch's head, and what it was asked for."""

    def __init__(self):
        self.calls = []

    def on(self, device):
        return self

    def __call__(self, hidden, weight, targets, **options):
        self.calls.append((len(targets), options))
        return Torch()(hidden, weight, targets, **options)


def test_the_names_and_what_each_component_is():
    registry = uncollapse.registry()
    assert registry.names("token_head") == ["auto", "torch", "triton", "trl"]
    assert registry.create("token_head", "triton", columns=4096) == Triton(columns=4096)
    scores = registry.create("token_head", "torch")(torch.eye(2), torch.eye(2), torch.tensor([0, 1]), entropy="none")
    assert isinstance(scores, TokenScores) and scores.entropies is None and scores.second_moments is None
    assert scores.logprobs.tolist() == pytest.approx([-0.313262] * 2, abs=1e-6)


def test_auto_is_triton_on_a_gpu_and_torch_elsewhere(monkeypatch, absent):
    monkeypatch.setattr(auto_head, "find_spec", lambda name: object())
    assert auto_head.Auto().on(CPU) == Torch()
    assert auto_head.Auto().on(GPU) == Triton()
    absent("triton")
    assert auto_head.Auto().on(GPU) == Torch()


def test_auto_computes_like_the_reference():
    hidden, weight, targets = torch.randn(3, 4), torch.randn(5, 4), torch.tensor([0, 4, 2])
    found = auto_head.Auto()(hidden, weight, targets, second_moment="value", collision_prob="value")
    for name, expected in oracle(hidden, weight, targets).items():
        torch.testing.assert_close(getattr(found, name).double(), expected, atol=1e-5, rtol=1e-5)


def test_triton_leaves_collision_probabilities_to_the_reference(monkeypatch):
    monkeypatch.setattr(Triton, "on", lambda self, device: self)
    hidden, weight, targets = torch.randn(3, 4), torch.randn(5, 4), torch.tensor([0, 4, 2])
    options = {"second_moment": "value", "collision_prob": "value", "temperature": 0.7, "softcap": 2.0}
    found = Triton()(hidden, weight, targets, **options)
    for name, expected in oracle(hidden, weight, targets, temperature=0.7, softcap=2.0).items():
        torch.testing.assert_close(getattr(found, name).double(), expected, atol=1e-5, rtol=1e-5)


def test_triton_is_refused_without_a_gpu_or_without_triton(absent):
    absent("nothing")
    with pytest.raises(RequestError, match="triton needs a GPU, and the model is on cpu") as error:
        Triton()(torch.eye(2), torch.eye(2), torch.tensor([0, 1]))
    assert error.value.exit_code == 2 and error.value.where == "model.head" and "auto" in error.value.fix
    assert Triton().on(GPU) == Triton()
    absent("triton")
    with pytest.raises(RequestError, match="needs Triton, which is not installed"):
        Triton().on(GPU)


@pytest.mark.parametrize("name", ["triton", "trl"])
def test_a_missing_library_is_a_problem_of_the_experiment(bandit, absent, name):
    absent(name)
    with pytest.raises(CompositionError, match=rf"model\.head: {name}: needs .*not installed"):
        uncollapse.compose({**bandit, "model": {**bandit["model"], "head": name}})
    absent("nothing")
    uncollapse.compose({**bandit, "model": {**bandit["model"], "head": name}})


class Kept(TrainEngine):
    """A model that nothing trains."""

    def __init__(self, module):
        self.module = module

    def close(self):
        pass

    score = update = weights = optimizer_state = load_optimizer_state = close


def test_the_experiment_chooses_the_head_of_policy_and_reference(bandit, monkeypatch):
    def start(self, module, optimizer, **settings):
        return Kept(module)

    monkeypatch.setattr(DeepSpeed, "start", start)
    changes = {"model": {**bandit["model"], "head": "torch(chunk_elements=77)"}, "kl": {"coef": 0.1}, "critic": None}
    experiment = uncollapse.compose({**bandit, **changes, "advantage": "grpo"})
    parts = assemble(experiment, ALONE)
    assert parts.policy.module.head == parts.reference._policy.head == Torch(chunk_elements=77)
    assert assemble(uncollapse.compose(bandit), ALONE).policy.module.head == Torch()


def test_a_gpu_head_is_refused_before_a_model_is_loaded(bandit, absent):
    absent("nothing")
    experiment = uncollapse.compose(
        {**bandit, "model": {"path": "/no/such/model", "dtype": "float32", "head": "triton"}}
    )
    with pytest.raises(RequestError, match="triton needs a GPU"):
        assemble(experiment, ALONE)
    with pytest.raises(RequestError, match="no such directory"):  # evaluation only samples, and needs no head
        assemble(experiment, ALONE, training=False)


def test_only_positions_that_train_reach_the_head(model, batch):
    head = Recording()
    scores = Policy(model, 0.7, head)(batch, entropy="gradient")
    expected = {"temperature": 0.7, "softcap": None, "entropy": "gradient", "second_moment": "none"}
    assert head.calls == [(int(batch.mask.sum()), expected)]
    plain = Policy(model, 0.7)(batch, entropy="gradient")
    assert all(torch.equal(scores[name], plain[name]) for name in ("logprobs", "entropies"))


def test_the_probe_differentiates_the_reference_head_whatever_trains(model, batch):
    head = Recording()
    policy = Policy(model, 1.0, head)
    passes = Passes(policy, batch, 4, ALONE)
    along = {name: torch.ones_like(parameter) for name, parameter in trained(policy).items()}
    found = passes.forward_mode(along)
    passes.loss_gradient(lambda scores, part: scores["entropies"])
    assert policy.head is head and not head.calls
    expected = Passes(Policy(model, 1.0), batch, 4, ALONE).forward_mode(along)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert float(found["entropies_rate"].abs().max()) > 0


def test_a_policy_trains_alike_with_triton(model, batch):
    """Tied embeddings: the gradient of the head's weight and that of the embedding add up."""
    need("triton")
    gradients = []
    for head in (Torch(), Triton(rows=9, columns=16)):
        device = "cuda" if torch.cuda.is_available() else "cpu"
        policy = Policy(model.to(device), 0.8, head)
        policy.zero_grad()
        scores = policy(batch.to(torch.device(device)), entropy="gradient")
        (scores["logprobs"].sum() - 2 * scores["entropies"].square().sum()).backward()
        gradients.append({name: parameter.grad.clone() for name, parameter in policy.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-3, rtol=1e-3)

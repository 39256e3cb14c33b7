"""The plan of a run's memory against what torch, DeepSpeed and transformers really hold, and against hand values."""

import gc
import re

import attrs
import pytest
import torch
import uncollapse
from click.testing import CliRunner
from transformers import (
    AutoModelForCausalLM,
    DeepseekV3Config,
    DynamicCache,
    FalconH1Config,
    Gemma3TextConfig,
    Gemma4TextConfig,
    GPT2Config,
    MambaConfig,
    MistralConfig,
    MixtralConfig,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2MoeConfig,
    Qwen3MoeConfig,
)
from uncollapse.cli.main import main
from uncollapse.core.components import (
    CollapseDetector,
    DetectorLoad,
    DetectorMemory,
    EngineMemory,
    RolloutEngine,
    SamplingLoad,
)
from uncollapse.core.compose.experiment import Lora, Model, Trainer
from uncollapse.core.errors import RunError
from uncollapse.estimators.aggregation import TokenMean
from uncollapse.estimators.policy_loss.clipped import Ppo
from uncollapse.plugins.collapse.mutual_information import MutualInformation
from uncollapse.plugins.rollout.engine_vllm.engine import VllmEngine
from uncollapse.plugins.training.deepspeed_backend import DeepSpeed
from uncollapse.plugins.training.memory.fitting import Change, Request, smaller_engine
from uncollapse.plugins.training.memory.model_shape import Shape, critic_shape, policy_shape
from uncollapse.plugins.training.memory.planner import CONTEXT, Trained, plan
from uncollapse.plugins.training.memory.rows import (
    activations,
    head_scoring,
    head_training,
    kv_row,
    layer_saved,
    layer_working,
)
from uncollapse.plugins.training.networks import attention
from uncollapse.plugins.training.networks.models import Policy, load_critic, load_policy
from uncollapse.plugins.training.networks.token_head import token_logprobs
from uncollapse.plugins.training.processes.ranks import start_ranks
from uncollapse.plugins.training.step.batch import Batch
from uncollapse.plugins.training.step.losses import PolicyObjective

GIB = 2**30
BUCKET = 1000
QWEN_3B = Qwen2Config(
    hidden_size=2048,
    intermediate_size=11008,
    num_hidden_layers=36,
    num_attention_heads=16,
    num_key_value_heads=2,
    vocab_size=151936,
    tie_word_embeddings=True,
)


def config(**changes):
    shape = {
        "hidden_size": 256,
        "intermediate_size": 768,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 1000,
        "tie_word_embeddings": True,
    }
    return Qwen2Config(**shape | changes)


@pytest.fixture(autouse=True)
def on_cuda(monkeypatch):
    """The plan is one for CUDA, where fp32 attention wants the keys and values of each head."""
    monkeypatch.setattr(attention, "_wants_each_head", lambda query: query.dtype == torch.float32)


def model(dtype, **changes):
    own = Qwen2ForCausalLM(config(**changes)).to(getattr(torch, dtype))
    if dtype == "float32":
        assert attention.use_own_attention(own)
    return own


def batch(rows, width, vocabulary=1000):
    mask = torch.ones(rows, width, dtype=torch.bool)
    mask[:, 0] = False
    tokens, noise = torch.randint(0, vocabulary, (rows, width)), torch.randn(rows, width)
    lengths = torch.full((rows,), width)
    return Batch(tokens, mask, lengths, weights=TokenMean().weights(mask, 1), old_logprobs=noise, advantages=noise)


def peak(function):
    """The most that the CPU allocator holds at once while ``function`` runs, in bytes, beyond what it held before.

    The profiler loses an event now and then (one measurement in thirty); a lost release only adds.
    """
    return min(_peak_once(function) for _ in range(3))


def _peak_once(function):
    cpu = torch.profiler.ProfilerActivity.CPU
    gc.collect()  # what earlier tests left must not be counted as given back here
    gc.disable()
    try:
        with torch.profiler.profile(activities=[cpu], profile_memory=True, acc_events=True) as profile:
            function()
    finally:
        gc.enable()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = torch.tensor([event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())])
    return int(held.cumsum(0).max())


# --- counts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [True, False])
def test_counts_are_those_of_the_real_models(tmp_path, tied):
    real = model("float32", tie_word_embeddings=tied)
    real.save_pretrained(tmp_path)
    whole = sum(parameter.numel() for parameter in real.parameters())
    found = policy_shape(config(tie_word_embeddings=tied))
    assert (found.parameters, found.trained) == (whole, whole)
    assert attrs.astuple(found)[2:] == (3, 256, 4, 2, 64, 768, 1000, 0, 0, "")

    lora = Lora(rank=4)
    adapted = load_policy(Model(dtype="float32", lora=lora), tmp_path, 1.0)
    found = policy_shape(config(tie_word_embeddings=tied), lora)
    assert found.parameters == sum(p.numel() for p in adapted.parameters())
    assert found.trained == sum(p.numel() for p in adapted.parameters() if p.requires_grad) < whole / 10

    critic = load_critic(Model(dtype="float32"), tmp_path)
    assert critic_shape(config(tie_word_embeddings=tied)).trained == sum(p.numel() for p in critic.parameters())


def test_sizes_of_other_architectures():
    mixture = Qwen2MoeConfig(
        hidden_size=64, num_attention_heads=4, num_key_value_heads=2, num_hidden_layers=2, vocab_size=100
    )
    mixture.moe_intermediate_size, mixture.num_experts_per_tok, mixture.num_experts = 32, 2, 4
    mixture.shared_expert_intermediate_size = 48
    assert policy_shape(mixture).intermediate == 2 * 32 + 48
    old = policy_shape(GPT2Config(n_embd=64, n_layer=2, n_head=4, vocab_size=100))
    assert (old.hidden, old.layers, old.heads, old.kv_heads, old.head_dim, old.intermediate) == (64, 2, 4, 4, 16, 256)


TINY = {
    "vocab_size": 100,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
}
WINDOW = 8
SHAPES = {
    # configuration, MLP width of a token, sliding layers
    "Qwen2": (Qwen2Config(**TINY), 96, 0),
    "Qwen2, tied": (Qwen2Config(**TINY, tie_word_embeddings=True), 96, 0),
    "Qwen2, half sliding": (
        Qwen2Config(**TINY, use_sliding_window=True, sliding_window=WINDOW, max_window_layers=2),
        96,
        2,
    ),
    "Qwen2, window not used": (Qwen2Config(**TINY, use_sliding_window=False, sliding_window=WINDOW), 96, 0),
    "Gemma 3": (Gemma3TextConfig(**TINY, head_dim=32, sliding_window=WINDOW, sliding_window_pattern=2), 96, 2),
    "Mistral": (MistralConfig(**TINY, sliding_window=WINDOW), 96, 4),
    "Mixtral": (MixtralConfig(**TINY, num_local_experts=4, num_experts_per_tok=2), 2 * 96, 0),
    "Qwen3 MoE": (
        Qwen3MoeConfig(**TINY, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24, head_dim=32),
        48,
        0,
    ),
}


@pytest.mark.parametrize("name", SHAPES)
def test_parameters_and_cache_of_every_kind_of_attention_are_those_of_the_real_model(name):
    config, intermediate, sliding = SHAPES[name]
    real, rows, width = AutoModelForCausalLM.from_config(config), 3, 17
    shape = policy_shape(config)
    assert shape.unclear == ""
    assert shape.parameters == shape.trained == sum(parameter.numel() for parameter in real.parameters())
    assert (shape.intermediate, shape.sliding) == (intermediate, sliding)

    cache = DynamicCache(config=config)
    with torch.no_grad():
        for ids in torch.zeros(rows, width, dtype=torch.long).split((width - 1, 1), dim=1):
            real(input_ids=ids, past_key_values=cache, use_cache=True)
    held = [layer.keys.numel() + layer.values.numel() for layer in cache.layers]
    per_token = 2 * 2 * shape.head_dim * rows
    assert sum(held) == per_token * ((4 - sliding) * width + sliding * (WINDOW - 1))
    # transformers drops one token of the window before the next one comes
    assert rows * kv_row(shape, width, 4) == 4 * (sum(held) + per_token * sliding)
    assert kv_row(shape, 5, 4) == 4 * 4 * per_token // rows * 5


def free_of_attention():
    return MambaConfig(hidden_size=64, num_hidden_layers=2, vocab_size=100)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (free_of_attention(), "linear_attention|no attention"),
        (FalconH1Config(**TINY, mamba_d_ssm=64, mamba_n_heads=4, mamba_d_head=16), "hybrid"),
        (DeepseekV3Config(**TINY, n_routed_experts=4, moe_intermediate_size=16), "latent attention"),
        (
            Gemma4TextConfig(
                **TINY | {"head_dim": 16},
                global_head_dim=32,
                hidden_size_per_layer_input=8,
                vocab_size_per_layer_input=50,
                num_kv_shared_layers=0,
            ),
            "differ in head_dim|heads of several sizes",
        ),
    ],
    ids=["Mamba", "Falcon H1", "DeepSeek V3", "Gemma 4"],
)
def test_what_is_not_understood_is_said_and_not_counted(tmp_path, config, words):
    shape = policy_shape(config)
    assert re.search(words, shape.unclear)
    made = plan(shape, None, experiment(tmp_path, "advantage=grpo"))
    assert made.unclear == shape.unclear
    names = {name for phase in made.phases for name in phase.items}
    assert not names & {"activations", "KV cache"}
    assert {"policy weights", "optimizer", "gradients"} <= names


def test_doctor_says_what_it_does_not_count(tmp_path):
    free_of_attention().save_pretrained(tmp_path)
    path = tmp_path / "free.yaml"
    path.write_text(f"{{model: {{path: {tmp_path}}}, environment: bandit, advantage: grpo}}")
    found = CliRunner().invoke(main, ["doctor", "-e", str(path), "--gpu-memory", "80"])
    assert found.exit_code == 0, found.output
    assert found.output.count("activations and KV cache are not counted, the totals are lower bounds: layers of") == 1
    assert "fits at least without what is not counted: " in found.output
    assert "\nKV cache" not in found.output


def test_the_key_value_cache_is_that_of_transformers():
    real, rows, width = model("bfloat16"), 3, 17
    cache = DynamicCache(config=real.config)
    real(input_ids=torch.zeros(rows, width, dtype=torch.long), past_key_values=cache, use_cache=True)
    held = sum(t.numel() * t.element_size() for layer in cache.layers for t in (layer.keys, layer.values))
    assert kv_row(policy_shape(config()), width, 2) * rows == held


# --- DeepSpeed ------------------------------------------------------------------------------------------------------


@pytest.fixture
def engine():
    def start(stage, dtype, checkpointing=False):
        own = model(dtype)
        if checkpointing:
            own.gradient_checkpointing_enable({"use_reentrant": False})
        backend = DeepSpeed(config={"zero_optimization": {"stage": stage, "reduce_bucket_size": BUCKET}})
        started = backend.start(Policy(own, 1.0), Trainer(), zero_stage=stage, dtype=dtype, ranks=start_ranks())
        for group in started.adamw.param_groups:
            group["foreach"] = True  # what torch chooses on a GPU
        return started

    return start


CASES = [(0, "float32"), (1, "float32"), (1, "bfloat16"), (2, "float32"), (2, "bfloat16"), (3, "bfloat16")]


@pytest.mark.parametrize(("stage", "dtype"), CASES)
def test_deepspeed_holds_and_takes_what_the_plan_says(engine, stage, dtype):
    started, rows, b = engine(stage, dtype), [batch(1, 8), batch(1, 8)], 4 if dtype == "float32" else 2
    planned = Trained(policy_shape(config()), stage=stage, ranks=1, b=b, bucket=BUCKET)
    started.update(rows, PolicyObjective(Ppo()))
    held = {id(t): t for state in started.adamw.state.values() for t in state.values() if t.numel() > 1}
    if stage:  # the fp32 master weights are what AdamW was given to move
        held |= {id(p): p for p in _moved(started)}
    assert sum(t.numel() * t.element_size() for t in held.values()) == pytest.approx(planned.optimizer(), rel=1e-4)
    if stage < 3:
        assert sum(p.numel() * p.element_size() for p in started.module.parameters()) == planned.weights()

    measured = peak(lambda: started.update(rows, PolicyObjective(Ppo())))
    needed = max(planned.step(), planned.gradients())
    # gradients of the tied embedding (a tenth of this model) come and go; the plan counts them with the token head
    assert needed <= measured <= 1.25 * needed


def _moved(started):
    inner = started.engine.optimizer
    return inner.fp32_partitioned_groups_flat if started.stage == 3 else inner.single_partition_of_fp32_groups


def test_the_bucket_of_zero_1_and_2_stands_through_the_backward_pass(engine):
    started = engine(2, "bfloat16")
    started.engine.optimizer.reduce_bucket_size = 20_000_000
    measured = peak(lambda: started.update([batch(1, 8)], PolicyObjective(Ppo())))
    planned = Trained(policy_shape(config()), stage=2, ranks=1, b=2, bucket=20_000_000, accumulates=False)
    assert measured == pytest.approx(planned.gradients(), rel=0.05)


# --- activations ----------------------------------------------------------------------------------------------------


def saved_bytes(decoder, tokens):
    """What autograd keeps for the backward pass, parameters left out."""
    kept, own = {}, {parameter.untyped_storage().data_ptr() for parameter in decoder.parameters()}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        decoder(input_ids=tokens, use_cache=False)
    return sum(t.untyped_storage().nbytes() for pointer, t in kept.items() if pointer not in own)


@pytest.mark.parametrize(("dtype", "b"), [("float32", 4), ("bfloat16", 2)])
def test_a_layer_saves_what_the_plan_says_to_the_byte(dtype, b):
    tokens = torch.zeros(2, 64, dtype=torch.long)
    three, two = (saved_bytes(model(dtype, num_hidden_layers=n).model, tokens) for n in (3, 2))
    assert three - two == layer_saved(policy_shape(config()), b) * tokens.numel()


@pytest.mark.parametrize(("dtype", "b"), [("float32", 4), ("bfloat16", 2)])
def test_a_pass_without_gradients_takes_one_layer(dtype, b):
    decoder, tokens = model(dtype).model.eval(), torch.zeros(2, 128, dtype=torch.long)
    with torch.no_grad():
        measured = peak(lambda: decoder(input_ids=tokens, use_cache=False))
    assert measured == pytest.approx(layer_working(policy_shape(config()), b) * tokens.numel(), rel=0.1)


@pytest.mark.parametrize("checkpointing", [True, False])
@pytest.mark.parametrize("layers", [2, 5])
def test_activations_of_a_training_pass(checkpointing, layers):
    own = model("bfloat16", num_hidden_layers=layers, vocab_size=50).train()
    if checkpointing:
        own.gradient_checkpointing_enable({"use_reentrant": False})
    tokens = torch.zeros(8, 128, dtype=torch.long)

    def both():
        own.model(input_ids=tokens, use_cache=False).last_hidden_state.sum().backward()

    both()  # the gradients are there from here on
    measured = peak(both)
    planned = activations(policy_shape(own.config), tokens.numel(), 2, checkpointing)
    assert planned == pytest.approx(measured, rel=0.05)


@pytest.mark.parametrize(("dtype", "b"), [("float32", 4), ("bfloat16", 2)])
@pytest.mark.parametrize("chunk", [2**25, 150_000])
def test_the_token_head(monkeypatch, dtype, b, chunk):
    shape, kind = policy_shape(config()), getattr(torch, dtype)
    monkeypatch.setattr("uncollapse.plugins.training.memory.rows.CHUNK_ELEMENTS", chunk)
    hidden = torch.randn(900, 256, dtype=kind, requires_grad=True)
    weight = torch.randn(1000, 256, dtype=kind, requires_grad=True)
    targets = torch.randint(0, 1000, (900,))

    def head(entropy="gradient"):
        return token_logprobs(hidden, weight, targets, entropy=entropy, chunk_elements=chunk)

    with torch.no_grad():
        assert peak(head) == pytest.approx(head_scoring(shape, 900, b) - 900 * 256 * b, rel=0.05)

    def train():
        sum(part.sum() for part in head()).backward()

    train()
    assert peak(train) == pytest.approx(head_training(shape, 900, b, trains=True), rel=0.2)


# --- the plan -------------------------------------------------------------------------------------------------------

SMALL = Shape(
    parameters=1000, trained=1000, layers=2, hidden=8, heads=2, kv_heads=1, head_dim=4, intermediate=16, vocabulary=32
)


@pytest.mark.parametrize(
    ("stage", "ranks", "weights", "optimizer", "gradients", "step"),
    [
        # bytes: weights 2 (fp32: 4), master and moments 12 (8), gradients 2 (4), in the step 8
        (0, 4, 4000, 8000, 4000, 8000),
        (1, 4, 2000, 3000, 2000 + 20, 2000),
        (2, 4, 2000, 3000, 500 + 500 + 20, 2000),
        (3, 4, 500, 3000, 0, 2000),
        (2, 1, 2000, 12000, 4000 + 20, 8000),
    ],
)
def test_zero_by_hand(stage, ranks, weights, optimizer, gradients, step):
    trained = Trained(SMALL, stage=stage, ranks=ranks, b=2 if stage else 4, bucket=10)
    assert (trained.weights(), trained.optimizer(), trained.gradients(), trained.step()) == (
        weights,
        optimizer,
        gradients,
        step,
    )
    assert trained.standing() == (500 + 20 if stage == 3 else 0)
    assert trained.gathered() == (2000 if stage == 3 else 0)
    off = attrs.evolve(trained, offload="optimizer")
    assert (off.optimizer(), off.step(), off.standing()) == (0, 0, 20 if stage == 3 else 0)
    assert off.host() == optimizer + 4 * 1000 // (ranks if stage else 1)
    everything = attrs.evolve(trained, offload="all")
    assert (everything.weights(), everything.host()) == (0, off.host() + weights)


def experiment(tmp_path, *overrides):
    config().save_pretrained(tmp_path)
    base = {
        "model": {"path": str(tmp_path)},
        "environment": "bandit",
        "rollout": {"groups": 4, "group_size": 4, "max_context": 100},
        "trainer": {"mini_batch": 8, "micro_batch": 2, "score_batch": 4},
        "validation": {"every": 0},
    }
    return uncollapse.compose(base, overrides)


def test_a_plan_by_hand(tmp_path):
    made = plan(SMALL, SMALL, experiment(tmp_path, "kl.coef=0.1"), ranks=2)
    names = ["loading", "rollout", "scoring", "critic backward", "critic step", "policy backward", "policy step"]
    assert [phase.name for phase in made.phases] == names
    phases = {phase.name: phase.items for phase in made.phases}
    held = {"policy weights": 2000, "critic weights": 2000, "reference weights": 2000, "optimizer": 2 * 6000}
    held["processes"] = CONTEXT
    assert phases["loading"] == {key: value for key, value in held.items() if key != "optimizer"}
    rows = 8 * 100  # of 16 episodes on 2 GPUs
    assert phases["rollout"] == {
        **held,
        "KV cache": rows * 2 * 2 * 1 * 4 * 2,
        "activations": rows * 2 * (3 * 16 + 4 * 8) + 24 * 8 * 32,
    }
    assert phases["policy step"] == {**held, "gradients": 8 * 500}
    assert phases["policy backward"]["gradients"] == 2 * 500 * 2 + 2 * 500_000_000
    assert phases["policy backward"]["activations"] == 200 * (2 * layer_saved(SMALL, 2) + 80 + 64)
    assert made.phases[-1].total == sum(held.values()) + 4000
    assert made.phases[-1].least == made.phases[-1].total - CONTEXT
    assert made.phases[1].least == sum(held.values()) - CONTEXT
    assert (made.host, made.beside) == (0, CONTEXT)


def test_what_is_not_needed_is_not_planned(tmp_path):
    lora = attrs.evolve(SMALL, trained=10)
    made = plan(lora, None, experiment(tmp_path, "kl.coef=0.1", "advantage=grpo", "model.lora={rank: 1}"))
    assert {name for phase in made.phases for name in phase.items}.isdisjoint({"reference weights", "critic weights"})
    assert made.phases[-1].items == {"policy weights": 2000, "optimizer": 120, "gradients": 80, "processes": CONTEXT}


@pytest.mark.parametrize(
    ("overrides", "weights", "host"),
    [
        (["kl.controller=refresh(2, 1)"], 2000, 0),
        (["kl.controller=refresh(2, 0.5)"], 2000, 4 * 1000),
        (["kl.controller=refresh(2, 1, of=refresh(3, 0.5))"], 2000, 4 * 1000),
        (["kl.controller=refresh(2, 0.5)", "model.dtype=float32"], 4000, 0),
        (["kl.controller=refresh(2, 1)", "model.lora={rank: 1}"], 2 * 10, 0),
    ],
)
def test_a_reference_that_moves_is_planned_with_what_it_keeps(tmp_path, overrides, weights, host):
    shape = attrs.evolve(SMALL, trained=10) if len(overrides) > 1 and "lora" in overrides[1] else SMALL
    made = plan(shape, None, experiment(tmp_path, "kl.coef=0.1", "advantage=grpo", *overrides))
    assert {phase.items["reference weights"] for phase in made.phases} == {weights}
    assert made.host == host


def test_zero_3_samples_from_a_copy(tmp_path):
    made = plan(SMALL, None, experiment(tmp_path, "advantage=grpo", "trainer.zero_stage=3"), ranks=4)
    phases = {phase.name: phase.items for phase in made.phases}
    assert {phase.items["engine"] for phase in made.phases} == {2000}
    assert phases["rollout"]["policy weights"] == 500
    assert phases["policy backward"]["gathered"] == 2000


def with_engine(tmp_path, engine):
    settings = experiment(tmp_path, "advantage=grpo")
    named = attrs.evolve(settings.rollout.engine, component=engine)
    return attrs.evolve(settings, rollout=attrs.evolve(settings.rollout, engine=named))


PASSES = 16_384 * 2 * (3 * 16 + 4 * 8) + 256 * 24 * 32
"""The most tokens that vLLM reads at once, and a draw for each of its 256 conversations."""
ROW = 32 * 100
GPU = 10_000_000


@pytest.mark.parametrize(
    ("engine", "rollout", "elsewhere", "short"),
    [
        (VllmEngine(0.5), GPU // 2, 0, 0),
        (VllmEngine(0.5, sleep=False), GPU // 2, GPU // 2, 0),
        (VllmEngine(0.01), 2000 + PASSES + ROW, 0, 2000 + PASSES + ROW),  # no room for a row: what one takes
        (VllmEngine(0.01, tensor_parallel=2), 1000 + PASSES + ROW // 2, 0, 1000 + PASSES + ROW // 2),
        (VllmEngine(kv_cache_gib=1.0, sleep=False), 2000 + PASSES + GIB, 2000 + PASSES + GIB, 0),
        (VllmEngine(gpus=(1,)), 0, 0, 0),
    ],
)
def test_an_engine_with_a_share_of_the_gpu(tmp_path, engine, rollout, elsewhere, short):
    settings = with_engine(tmp_path, engine)
    made = plan(SMALL, None, settings, memory=GPU)
    phases = {phase.name: phase for phase in made.phases}
    assert (made.shortage.need if made.shortage else 0) == short
    if engine.kv_cache_gib is None and not engine.gpus:  # of a GPU that is not known, the least
        of_one = 2000 // engine.tensor_parallel + PASSES + ROW // engine.tensor_parallel
        assert plan(SMALL, None, settings).phases[1].items["engine"] == of_one
    assert phases["rollout"].items.get("engine", 0) == rollout
    assert "KV cache" not in phases["rollout"].items
    assert phases["policy step"].items.get("engine", 0) == elsewhere
    beside_trainer = 0 if engine.gpus else 0.75 * GIB + 1.5 * GIB  # its context, and graphs that sleep does not free
    assert {phase.items["processes"] for phase in made.phases} == {CONTEXT + beside_trainer}
    assert made.beside == CONTEXT + beside_trainer + elsewhere


def test_an_engine_in_a_share_of_the_gpu_has_a_cache_of_a_known_size():
    load = SamplingLoad(weights=5 * GIB, row=GIB, row_pass=0, rows=9, gpu=40 * GIB, token_pass=GIB >> 14, draw=GIB >> 8)
    small = VllmEngine(0.3).within(load, 100 * GIB)  # 12 GiB, of which 5 are weights and 2 are passes
    assert (small.kv_cache_gib, small.gpu_memory_utilization) == (5.0, pytest.approx(0.12))
    assert attrs.evolve(small, kv_cache_gib=None, gpu_memory_utilization=0.3) == VllmEngine(0.3)
    chosen = VllmEngine(0.3, kv_cache_gib=2.0, sleep=False).within(load, 100 * GIB)
    assert (chosen.kv_cache_gib, chosen.gpu_memory_utilization) == (2.0, pytest.approx(0.09))
    # alone on the GPU: vLLM sees itself what is free, but asks for no more than what a cache of a known size needs
    alone = attrs.evolve(load, gpu=100 * GIB)
    assert VllmEngine(0.3).within(alone, 100 * GIB) == VllmEngine(0.3)
    assert VllmEngine(0.3, kv_cache_gib=2.0).within(alone, 100 * GIB).gpu_memory_utilization == pytest.approx(0.09)
    elsewhere = VllmEngine(0.3, gpus=(3,))
    assert elsewhere.within(load, 100 * GIB) == elsewhere


@pytest.mark.parametrize("folds", [2, 4])
def test_the_forecast_is_planned_with_its_copies_of_what_trains(tmp_path, folds):
    detectors = f"collapse=[empty_filter,entropy_forecast(folds={folds})]"
    made = plan(SMALL, None, experiment(tmp_path, "advantage=grpo", detectors), memory=GPU)
    phases = {phase.name: phase.items for phase in made.phases}
    copy = 4 * 1000
    gradient = copy * 2 + activations(SMALL, 200, 2, False) + head_training(SMALL, 200, 2, True)
    assert gradient > (2 + folds) * copy
    assert phases["detectors"]["detectors"] == (6 + 4 * folds) * copy + gradient
    wide = attrs.evolve(SMALL, trained=10**9)
    made = plan(wide, None, experiment(tmp_path, "advantage=grpo", detectors), memory=GPU)
    most = {phase.name: phase.items for phase in made.phases}["detectors"]["detectors"]
    assert most == (8 + 5 * folds) * 4 * 10**9
    assert phases["policy step"]["detectors"] == phases["policy backward"]["detectors"] == folds * copy
    assert "detectors" not in phases["scoring"]
    budget = ("trainer.token_budget=700", detectors)
    packed = plan(SMALL, None, experiment(tmp_path, "advantage=grpo", *budget), memory=GPU)
    gradient = copy * 2 + activations(SMALL, 700, 2, False) + head_training(SMALL, 700, 2, True)
    found = {phase.name: phase.items for phase in packed.phases}["detectors"]["detectors"]
    assert found == (6 + 4 * folds) * copy + gradient


def test_mutual_information_is_planned_with_the_tokens_that_the_budget_holds():
    load = DetectorLoad(trained=1, tokens=100, token_pass=7, gradient_pass=0)
    assert MutualInformation(micro_batch=5).memory(load).peak == 5 * 100 * 7
    assert MutualInformation(micro_batch=5).memory(attrs.evolve(load, packed=900)).peak == 900 * 7


@attrs.frozen
class Watching(CollapseDetector):
    """A detector of somebody else's."""

    most: int = 100

    def start(self, context):
        raise NotImplementedError

    def memory(self, load):
        return DetectorMemory(peak=self.most, kept=10)


def test_detectors_measure_one_after_the_other_and_keep_what_they_keep(tmp_path):
    settings = experiment(tmp_path, "advantage=grpo", "collapse=[empty_filter]")
    named = [attrs.evolve(settings.collapse[0], component=Watching(most)) for most in (100, 300)]
    phases = {phase.name: phase.items for phase in plan(SMALL, None, attrs.evolve(settings, collapse=named)).phases}
    assert (phases["detectors"]["detectors"], phases["policy step"]["detectors"]) == (310, 20)
    silent = type("Silent", (Watching,), {"memory": lambda self, load: None})
    named = [attrs.evolve(settings.collapse[0], component=silent())]
    with pytest.raises(RunError, match=r"'empty_filter'.* failed in memory"):
        plan(SMALL, None, attrs.evolve(settings, collapse=named))


@attrs.frozen
class Foreign(RolloutEngine):
    """An engine of somebody else's: its parameters are called as others', and mean something else."""

    batch: int = 1
    gpu_memory_utilization: float = 0.9
    kv_cache_gib: float = 40.0

    def start(self, model, tokenizer, *, max_context=None):
        raise NotImplementedError


class Copying(Foreign):
    own_weights = True


class Telling(Foreign):
    def memory(self, load):
        assert (load.weights, load.row, load.rows, load.ranks, load.gpu) == (2000, 3200, 16, 1, 100_000)
        return EngineMemory(whole=True, loading=1, resting=2, working=3, cache=4, passes=5)

    def smaller(self):
        yield {"batch": 7, "gpu_memory_utilization": 0.5}


def test_an_engine_of_somebody_else_is_planned_as_it_says(tmp_path):
    def held(engine):
        made = plan(SMALL, None, with_engine(tmp_path, engine), memory=100_000)
        keys = ("engine", "KV cache", "activations")
        return [[phase.items.get(key, 0) for key in keys] for phase in (*made.phases[:2], made.phases[-1])]

    passes = 16 * (100 * 2 * (3 * 16 + 4 * 8) + 24 * 32)
    assert held(Foreign()) == [[0, 0, 0], [0, 16 * 3200, passes], [0, 0, 0]]
    assert held(Copying()) == [[2000, 0, 0], [5200, 0, 0], [5200, 0, 0]]
    assert held(Telling()) == [[1, 0, 0], [3, 4, 5], [2, 0, 0]]
    assert list(smaller_engine(Request(with_engine(tmp_path, Foreign())))) == []
    change = Change(("rollout.engine.batch=7", "rollout.engine.gpu_memory_utilization=0.5"))
    assert list(smaller_engine(Request(with_engine(tmp_path, Telling())))) == [change]


def test_a_mistake_in_what_an_engine_tells_of_its_memory_names_the_engine(tmp_path):
    class Mistaken(Foreign):
        def memory(self, load):
            return 1 / 0

    with pytest.raises(RunError, match=r"rollout_engine 'hf'.*failed in memory: ZeroDivisionError"):
        plan(SMALL, None, with_engine(tmp_path, Mistaken()))


def test_an_optimizer_in_the_memory_of_the_machine(tmp_path):
    made = plan(SMALL, SMALL, experiment(tmp_path, "trainer.offload=optimizer"), ranks=2)
    phases = {phase.name: phase.items for phase in made.phases}
    held = {"policy weights": 2000, "critic weights": 2000, "processes": CONTEXT}
    assert phases["policy step"] == phases["critic step"] == held
    assert phases["policy backward"]["gradients"] == 2 * 500_000_000
    assert made.host == 2 * (12 + 4) * 500
    made = plan(SMALL, None, experiment(tmp_path, "advantage=grpo", "trainer.zero_stage=3", "trainer.offload=all"))
    assert made.phases[-1].items == {"engine": 2000, "ZeRO buffers": 2 * 500_000_000, "processes": CONTEXT}
    assert made.phases[-2].items["gathered"] == 2000
    assert made.host == (2 + 12 + 4) * 1000


def test_packed_micro_batches_hold_the_tokens_of_their_budget(tmp_path):
    def held(budget):
        made = plan(SMALL, None, experiment(tmp_path, "advantage=grpo", f"trainer.token_budget={budget}"))
        return [phase.items["activations"] for phase in made.phases if phase.name in ("scoring", "policy backward")]

    scoring, training = held(0)  # four and two rows of 100 tokens
    assert held(300) == [scoring * 6 / 4, training * 3 / 2]


def test_the_plan_of_a_run_that_was_seen(tmp_path):
    """Qwen2.5-3B's shape, ZeRO 2 on one GPU, bfloat16, 4 x 1024 tokens, checkpointing: 65 GiB at its peak."""
    shape = policy_shape(QWEN_3B)
    assert shape.parameters == pytest.approx(3.09e9, rel=2e-3)
    changes = ("advantage=grpo", "model.gradient_checkpointing=true", "rollout.max_context=1024")
    rows = ("trainer.micro_batch=4", "rollout.engine=hf(batch=4)")
    fullest = plan(shape, None, experiment(tmp_path, *changes, *rows)).fullest
    assert fullest.name == "policy step"
    assert (fullest.total - CONTEXT) / GIB == pytest.approx(63.2, abs=0.1)
    assert fullest.total / GIB == pytest.approx(65, rel=0.2)

"""A policy of one prompt token and up to four sampled ones, in float64, all of whose sequences can be written down.

The probabilities of the next token are sixths, in an order that the prefix decides; their derivatives are those of a
small recurrent network. So the probability of every sequence is a multiple of 6^-4, and a sample exists in which each
sequence stands exactly as often as it should: means over it are expectations, and what the code makes of plain means
must be exact.
"""

from __future__ import annotations

import attrs
import torch
from torch import Tensor, nn
from torch.func import functional_call
from uncollapse.core.components import Rollouts
from uncollapse.estimators.advantage.outcome import DrGrpo
from uncollapse.estimators.policy_loss.clipped import Ppo
from uncollapse.plugins.probe.checkpoint.adam_state import AdamSettings, AdamState, Coverage
from uncollapse.plugins.probe.estimation.passes import trained
from uncollapse.plugins.probe.estimation.update import make_update
from uncollapse.plugins.training.processes.ranks import Ranks
from uncollapse.plugins.training.step.losses import PolicyObjective

END = 0
WORDS = 3
"""Tokens that can be sampled: the end and two more; the ids after them are prompts."""
LENGTH = 4
PROMPTS = 2
SIXTHS = torch.tensor([[4.0, 1, 1], [3, 2, 1], [2, 2, 2]], dtype=torch.float64)
ONE = Ranks(0, 1, torch.device("cpu"))


class ExactPolicy(nn.Module):
    """Scores rows as :class:`Policy` does. The embedding is used twice, going in and coming out."""

    def __init__(self, seed: int = 0, temperature: float = 1.0, size: int = 3, spread: float = 0.7) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)

        def draw(*shape: int) -> nn.Parameter:
            return nn.Parameter(spread * torch.randn(*shape, generator=generator, dtype=torch.float64))

        self.embedding = draw(WORDS + PROMPTS, size)
        self.recurrent = draw(size, size)
        self.bias = draw(WORDS)
        self.temperature = temperature
        self.origin = {name: parameter.detach().clone() for name, parameter in self.named_parameters()}

    def network(self, tokens: Tensor, embedding: Tensor, recurrent: Tensor, bias: Tensor) -> Tensor:
        """[B, T, V]: what the prefix up to and including each token says of the next one."""
        state = embedding.new_zeros(len(tokens), embedding.shape[1])
        states = []
        for column in tokens.T:
            state = torch.tanh(state @ recurrent + embedding[column])
            states.append(state)
        return torch.stack(states, 1) @ embedding[:WORDS].T + bias

    def logits(self, tokens: Tensor) -> Tensor:
        """[B, T, V] at the temperature: of the token after each one."""
        code, anchors = torch.zeros(len(tokens), dtype=torch.long), []
        for column in tokens.T:
            code = (5 * code + column + 1) % 97
            turned = (torch.arange(WORDS)[None] + code[:, None]) % WORDS
            anchors.append((SIXTHS[code // WORDS % len(SIXTHS)].gather(1, turned) / 6).log())
        own = {name: getattr(self, name) for name in self.origin}
        moved = self.network(tokens, **own) - self.network(tokens, **self.origin)
        return torch.stack(anchors, 1) + moved / self.temperature

    def forward(self, batch, entropy: str = "value") -> dict[str, Tensor]:
        predicts = batch.mask[:, 1:]
        logprobs_N_V = self.logits(batch.tokens)[:, :-1][predicts].log_softmax(-1)
        logprobs_N = logprobs_N_V.gather(-1, batch.tokens[:, 1:][predicts][:, None])[:, 0]
        scores = {"logprobs": spread(logprobs_N, batch.mask)}
        if entropy == "none":
            return scores
        with torch.set_grad_enabled(entropy == "gradient" and torch.is_grad_enabled()):
            entropies_N = -(logprobs_N_V.exp() * logprobs_N_V).sum(-1)
        return {**scores, "entropies": spread(entropies_N, batch.mask)}


def spread(values_N: Tensor, mask: Tensor) -> Tensor:
    return torch.zeros(mask.shape, dtype=values_N.dtype).masked_scatter(mask, values_N)


# --- enumeration ----------------------------------------------------------------------------------------------------


def sequences() -> list[tuple[int, ...]]:
    """All 31 that one prompt can have."""
    done, open_ = [], [()]
    for _ in range(LENGTH):
        longer = [(*prefix, token) for prefix in open_ for token in range(WORDS)]
        done += [sequence for sequence in longer if sequence[-1] == END]
        open_ = [sequence for sequence in longer if sequence[-1] != END]
    return done + open_


SEQUENCES = sequences()


class Exact(nn.Module):
    """Expectations over all sequences of all prompts, from probabilities that are multiplied up token by token."""

    def __init__(self, policy: ExactPolicy) -> None:
        super().__init__()
        self.policy = policy

    def tables(self) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probs and sums of token entropies [P, 31], lengths [31]."""
        logps, entropies = [], []
        for prompt in range(PROMPTS):
            for sequence in SEQUENCES:
                row = torch.tensor([[WORDS + prompt, *sequence]])
                distributions = self.policy.logits(row)[0].softmax(-1)
                steps = [(distributions[t], token) for t, token in enumerate(sequence)]
                logps.append(torch.stack([p[token].log() for p, token in steps]).sum())
                entropies.append(torch.stack([-(p * p.log()).sum() for p, _ in steps]).sum())
        shape = PROMPTS, len(SEQUENCES)
        lengths = torch.tensor([len(sequence) for sequence in SEQUENCES], dtype=torch.float64)
        return torch.stack(logps).reshape(shape), torch.stack(entropies).reshape(shape), lengths

    def forward(self, unit: str, mode: str = "rb") -> Tensor:
        """The entropy: from the definition -sum p log p of whole sequences, where it does not ask for tokens."""
        logp, H, T = self.tables()
        p = logp.exp()
        match unit:
            case "per_sequence":
                return -(p * logp).sum() / PROMPTS
            case "per_token_ratio":
                return -(p * logp).sum() / (p * T).sum()
        return (p * (H if mode == "rb" else -logp) / T).sum() / PROMPTS


def entropy(policy: ExactPolicy, unit: str, mode: str = "rb", step=None, eta: float = 0.0) -> float:
    """The exact entropy at theta + eta * step."""
    moved = {f"policy.{name}": p + eta * step[name] for name, p in trained(policy).items()} if step else {}
    with torch.no_grad():
        return float(functional_call(Exact(policy), moved, (unit, mode)))


def entropy_gradient(policy: ExactPolicy, unit: str, mode: str = "rb") -> dict[str, Tensor]:
    value = Exact(policy)(unit, mode)
    return dict(zip(trained(policy), torch.autograd.grad(value, list(trained(policy).values())), strict=True))


# --- samples --------------------------------------------------------------------------------------------------------


def rollouts_of(rows, groups=None) -> Rollouts:
    """Rows of (prompt, sampled tokens), each an episode of its own; by default one group for each row."""
    groups = torch.arange(len(rows)) if groups is None else torch.tensor(groups)
    chosen = [(prompt, SEQUENCES.index(sequence)) for prompt, sequence in rows]
    return _rollouts(*torch.tensor(chosen).T, groups)


def reward(sequence: tuple[int, ...]) -> float:
    """Depends on all tokens, without symmetry."""
    return float(sum((1 + index) * token for index, token in enumerate(sequence)) % 4)


TOKENS = torch.tensor([[*sequence, *[0] * (LENGTH - len(sequence))] for sequence in SEQUENCES])
LENGTHS = torch.tensor([len(sequence) for sequence in SEQUENCES])
REWARDS = torch.tensor([reward(sequence) for sequence in SEQUENCES])


def _rollouts(prompts: Tensor, which: Tensor, groups: Tensor) -> Rollouts:
    tokens = torch.cat([WORDS + prompts[:, None], TOKENS[which]], 1)
    columns = torch.arange(1 + LENGTH)[None]
    mask = (columns > 0) & (columns <= LENGTHS[which, None])
    return Rollouts(
        tokens=tokens,
        mask=mask,
        turns=torch.where(mask, 0, -1),
        logprobs=torch.zeros(tokens.shape),
        rewards=torch.where(columns == LENGTHS[which, None], REWARDS[which, None], 0.0),
        episodes=torch.arange(len(tokens)),
        groups=groups,
        raw_rewards_E=REWARDS[which],
        group_ids_P=groups.unique(),
        lengths=1 + LENGTHS[which],
    )


def enumeration(policy: ExactPolicy) -> Rollouts:
    """2592 rows with exactly the frequencies of the policy; a group for each prompt."""
    logp, _, _ = Exact(policy).tables()
    counts = (logp.exp() * 6**LENGTH).detach()
    assert torch.allclose(counts, counts.round(), rtol=0, atol=1e-9)
    rows = [
        (prompt, sequence)
        for prompt in range(PROMPTS)
        for sequence, count in zip(SEQUENCES, counts[prompt].round().long().tolist(), strict=True)
        for _ in range(count)
    ]
    assert len(rows) == PROMPTS * 6**LENGTH
    return rollouts_of(rows, [prompt for prompt, _ in rows])


def sample(policy: ExactPolicy, prompts: int, responses: int, generator: torch.Generator) -> Rollouts:
    """Independent prompts, each drawn uniformly and with independent responses."""
    p = _probabilities(policy)
    drawn = torch.randint(PROMPTS, (prompts,), generator=generator)
    which = torch.multinomial(p[drawn], responses, replacement=True, generator=generator)
    groups = torch.arange(prompts).repeat_interleave(responses)
    return _rollouts(drawn[groups], which.flatten(), groups)


def _probabilities(policy: ExactPolicy) -> Tensor:
    if not hasattr(policy, "probabilities"):
        with torch.no_grad():
            policy.probabilities = Exact(policy).tables()[0].exp()
    return policy.probabilities


# --- updates --------------------------------------------------------------------------------------------------------


def update_of(rollouts: Rollouts, objective: PolicyObjective | None = None, **options):
    return make_update(rollouts, advantage=DrGrpo(), objective=objective or PolicyObjective(Ppo()), **options)


def direction_of(policy: nn.Module, seed: int = 5, size: float = 1.0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: size * torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p)
        for name, p in trained(policy).items()
    }


def adam_of(policy: nn.Module, step: float = 7, seed: int = 3, settings: AdamSettings | None = None) -> AdamState:
    """A state as after some steps, with moments of the size of the gradients here."""
    generator = torch.Generator().manual_seed(seed)

    def moments(scale: float) -> dict[str, Tensor]:
        return {
            name: scale * torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p)
            for name, p in trained(policy).items()
        }

    names = list(trained(policy))
    settings = settings or AdamSettings((0.9, 0.99), 1e-8, 0.01)
    return AdamState(
        step=dict.fromkeys(names, step),
        exp_avg=moments(0.02),
        exp_avg_sq={name: moment.square() + 1e-4 for name, moment in moments(0.05).items()},
        max_exp_avg_sq=None,
        settings=dict.fromkeys(names, settings),
        base_lr=None,
        coverage=Coverage(len(names), len(names), len(names), "names"),
    )


@attrs.frozen(eq=False)
class Fixed:
    """A step whose direction is given."""

    direction: dict[str, Tensor]

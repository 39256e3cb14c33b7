"""A policy small enough to enumerate: every sequence, its probability, and all terms of the probe, exactly."""

import attrs
import pytest
import torch
from torch import Tensor
from uncollapse.estimators.variance.terms import Terms

STOP = 2
SEQUENCES = [[2], [0, 2], [1, 2]]
SEQUENCES += [[x, y, 2] for x in (0, 1) for y in (0, 1)]
SEQUENCES += [[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)]
PREFIXES = [(), (0,), (1,), (0, 0), (0, 1), (1, 0), (1, 1)]


@attrs.frozen(eq=False)
class Toy:
    """P prompts, 15 sequences of up to three tokens each, one logit per prompt, prefix and token; a direction v."""

    theta: Tensor
    v: Tensor

    @classmethod
    def make(cls, seed=0, prompts=4, size=1.0):
        generator = torch.Generator().manual_seed(seed)
        shape = (prompts, len(PREFIXES), 3)
        theta, v = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
        return cls(theta, v * size)

    @property
    def mask(self):
        return torch.tensor([[float(t < len(s)) for t in range(3)] for s in SEQUENCES], dtype=torch.float64)

    def tokens(self, theta):
        """Log-probs and entropies [P, 15, 3], zero after the end."""
        logps = theta.log_softmax(-1)
        entropies = -(logps.exp() * logps).sum(-1)
        prefix = torch.tensor(
            [[PREFIXES.index(tuple(s[:t])) if t < len(s) else 0 for t in range(3)] for s in SEQUENCES]
        )
        token = torch.tensor([[s[t] if t < len(s) else 0 for t in range(3)] for s in SEQUENCES])
        return logps[:, prefix, token] * self.mask, entropies[:, prefix] * self.mask

    def entropy(self, theta, unit):
        """The exact entropy, over prompts drawn uniformly."""
        logps, entropies = self.tokens(theta)
        p, H, T = logps.sum(-1).exp(), entropies.sum(-1), self.mask.sum(-1)
        match unit:
            case "per_sequence":
                return (p * H).sum() / len(theta)
            case "per_token_ratio":
                return (p * H).sum() / (p * T).sum()
        return (p * H / T).sum() / len(theta)

    def slope(self, unit):
        """The exact derivative of the entropy along v."""
        return float(torch.func.jvp(lambda theta: self.entropy(theta, unit), (self.theta,), (self.v,))[1])

    def change(self, eta, unit):
        return float(self.entropy(self.theta + eta * self.v, unit) - self.entropy(self.theta, unit))

    def table(self, eta, baseline=0.0):
        """Each term [P, 15], and the probabilities."""
        (logps, H_t), (j, jH_t) = torch.func.jvp(self.tokens, (self.theta,), (self.v,))
        new_logps, new_H = self.tokens(self.theta + eta * self.v)
        T = self.mask.sum(-1).expand(len(self.theta), -1)
        after = H_t.flip(-1).cumsum(-1).flip(-1) - H_t
        steps = torch.arange(1.0, 4, dtype=torch.float64)
        return logps.sum(-1).exp(), {
            "H": H_t.sum(-1),
            "T": T,
            "jH": jH_t.sum(-1),
            "S1": j.sum(-1),
            "Hj": ((after - baseline * H_t) * j).sum(-1),
            "Tj": ((T[..., None] - steps) * j).sum(-1),
            "w": (new_logps - logps).sum(-1).exp(),
            "h1": new_H.sum(-1),
            "z": torch.stack([j.sum(-1), j[..., 0]], -1),
        }

    def sample(self, eta, prompts, group_size, generator, **options):
        """Terms of ``prompts`` prompts, drawn with replacement, with ``group_size`` sequences each."""
        p, table = self.table(eta)
        drawn = torch.randint(len(p), (prompts,), generator=generator)
        which = torch.multinomial(p[drawn], group_size, replacement=True, generator=generator).flatten()
        rows = drawn.repeat_interleave(group_size)
        prompt = torch.arange(prompts).repeat_interleave(group_size)
        return Terms(eta=eta, prompt=prompt, **{name: x[rows, which] for name, x in table.items()}, **options)


@pytest.fixture(scope="session")
def toy():
    return Toy.make()

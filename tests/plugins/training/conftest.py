import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM
from uncollapse.plugins.training.step.batch import Batch


def tiny_model(dtype=torch.float32, seed=0):
    torch.manual_seed(seed)
    config = Qwen2Config(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=64,
        vocab_size=61,
        tie_word_embeddings=True,
        max_position_embeddings=128,
        initializer_range=0.1,
    )
    return Qwen2ForCausalLM(config).to(dtype).eval()


def random_batch(rows=7, width=19, vocabulary=61, seed=1):
    """Ragged rows with everything that the losses need; row 2 has nothing that trains."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(4, width + 1, (rows,), generator=generator)
    lengths[0] = width
    real = torch.arange(width)[None] < lengths[:, None]
    mask = real & (torch.rand(rows, width, generator=generator) > 0.4)
    mask[:, 0] = False
    mask[2] = False

    def noise():
        return torch.where(mask, torch.randn(rows, width, generator=generator), 0.0)

    return Batch(
        tokens=torch.where(real, torch.randint(0, vocabulary, (rows, width), generator=generator), 0),
        mask=mask,
        lengths=lengths,
        old_logprobs=-4 + 0.3 * noise(),
        ref_logprobs=-4 + 0.3 * noise(),
        advantages=noise(),
        returns=noise(),
        old_values=noise(),
    )


@pytest.fixture
def model():
    return tiny_model()


@pytest.fixture
def batch():
    return random_batch()


@pytest.fixture(scope="session")
def batches():
    """Makes a batch from a seed, for property tests."""
    return random_batch


@pytest.fixture(scope="session")
def models():
    """Makes a tiny model from a dtype and a seed."""
    return tiny_model

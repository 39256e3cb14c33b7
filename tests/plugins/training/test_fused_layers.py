import pytest
import torch
import uncollapse
from uncollapse.core.errors import RequestError
from uncollapse.plugins.training import assemble
from uncollapse.plugins.training.networks import fused_layers

GPU = torch.cuda.is_available()


@pytest.mark.skipif(GPU, reason="there is a GPU")
def test_without_a_gpu_it_is_refused_before_a_model_is_built(bandit, tmp_path, monkeypatch):
    monkeypatch.setattr(assemble, "prepare_model", lambda experiment: pytest.fail("a model is built"))
    with pytest.raises(RequestError, match="need a GPU"):
        uncollapse.train(uncollapse.compose(bandit, ["model.liger=true"]), tmp_path / "run")


def test_what_is_missing_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(fused_layers, "find_spec", lambda name: None)
    with pytest.raises(RequestError, match="liger-kernel is not installed") as caught:
        fused_layers.require()
    assert "pip install liger-kernel" in str(caught.value)


@pytest.mark.skipif(not GPU, reason="Liger's kernels need a GPU")
def test_fused_layers_compute_the_same(models):
    pytest.importorskip("liger_kernel")
    own, fused = models().cuda(), models().cuda()
    fused_layers.fuse(fused)
    tokens = torch.randint(0, 61, (3, 17), device="cuda")
    outputs = [model(tokens).logits for model in (own, fused)]
    assert torch.allclose(*outputs, atol=1e-4)
    for output in outputs:
        output.square().sum().backward()
    for (name, expected), found in zip(own.named_parameters(), fused.parameters(), strict=True):
        assert torch.allclose(found.grad, expected.grad, rtol=1e-3, atol=1e-3), name
    assert "Liger" in repr(fused)
    assert "Liger" not in repr(models()), "Liger's layers went into a model that was made afterwards"
    fused.config.model_type = "unheard-of"
    with pytest.raises(RequestError, match="no fused layers for unheard-of models"):
        fused_layers.fuse(fused)

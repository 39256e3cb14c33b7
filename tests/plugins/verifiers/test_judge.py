"""The verifier ``judge``: a server in a process of its own, well and badly behaved, and a model that is loaded here."""

import json
import pickle
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import uncollapse
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM
from uncollapse.core.compose.inner import named_of
from uncollapse.core.compose.problems import CompositionError
from uncollapse.core.errors import EpisodeLostError, RequestError, RunError
from uncollapse.plugins.models import loaded as judge_model
from uncollapse.plugins.rollout.borders import CheckedEnvironment
from uncollapse.plugins.verifiers.judge import PROMPT, Judge, read_verdict
from uncollapse.testing import check

KEY = "sk-secret-0123456789"


@pytest.fixture(scope="module")
def server():
    script = Path(__file__).with_name("judge_process.py")
    process = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
    process.kill()
    process.wait()


@pytest.fixture
def judge(server, tmp_path):
    """Makes a judge with an empty cache."""

    def make(model="good", **given):
        return Judge(model, **{"url": server, "cache": str(tmp_path / "verdicts"), "timeout": 5.0, **given})

    return make


def seen(server, model):
    with urllib.request.urlopen(server) as response:
        return [one for one in json.load(response)["seen"] if one["model"] == model]


# --- verdicts ---


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("yes", 1.0),
        ("No.", 0.0),
        ("0.25", 0.25),
        (".5", 0.5),
        ("1", 1.0),
        ("1.0", 1.0),
        ("Score: 0.7", 0.7),
        ("It is right.\n\n**Verdict: yes**\n", 1.0),
        ("<think>no</think>\nfinal score = 0", 0.0),
        ("-1", None),
        ("-0.5", None),
        ("1.5", None),
        ("50%", None),
        ("1/2", None),
        ("7", None),
        ("yes and no", None),
        ("yes\nbut not quite", None),
        ("Not yes", None),
        ("nan", None),
        ("٠", None),
        ("", None),
        ("\n \n", None),
    ],
)
def test_the_last_line_of_a_reply_is_the_verdict(reply, verdict):
    assert read_verdict(reply) == verdict


# --- a server ---


def test_a_server_is_asked_for_a_completion_of_the_prompt(judge, server):
    one = judge("as_asked", max_tokens=7)
    assert one.grade("How is it?", "fair {golds}", ("fair", "so so")) == 0.75
    assert one.verify("good", ("fine",)) == 1.0
    first, second = seen(server, "as_asked")
    expected = PROMPT.replace("{question}", "How is it?").replace("{golds}", "- fair\n- so so")
    # what an answer says is put in as it is, places of the prompt included
    assert first == {
        "model": "as_asked",
        "temperature": 0,
        "max_tokens": 7,
        "said": expected.replace("{answer}", "fair {golds}"),
        "path": "/v1/chat/completions",
        "key": None,
    }
    assert "Question:\n\n" in second["said"]


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ("down", "the server answers with code 500"),
        ("locked", "the server answers with code 401"),
        ("moved", "the server answers with code 307"),
        ("hangs_up", "the server cannot be reached, or hangs up (ConnectionError)"),
        ("words", "the server's answer is no chat completion"),
        ("nothing", "the server's answer is no chat completion"),
        ("bytes", "the server's answer is no chat completion"),
        ("number", "the server's answer is no chat completion"),
        ("empty_choices", "the server's answer is no chat completion"),
        ("no_message", "the server's answer is no chat completion"),
        ("deep", "the server's answer is no chat completion"),
        ("list_of_parts", "the server's answer holds no text"),
        ("null", "the server's answer holds no text"),
        ("refuses", "the model refuses to answer"),
        ("chats", "it says 'Yes and no. It depends.', whose last line is no verdict"),
        ("floods", "the server's answer is no chat completion"),
    ],
)
def test_what_is_no_verdict_is_missing_and_never_wrong(judge, model, told):
    one = judge(model, tries=1, timeout=20.0)
    assert one.verify("42", ("42",)) is None
    with pytest.raises(EpisodeLostError) as caught:
        one.grade("6 x 7?", "42", ("42",))
    assert caught.value.what == f"the judge {model} has given no verdict: {told}"


@pytest.mark.parametrize("model", ["hangs", "drips"])
def test_a_server_that_is_silent_or_slow_is_left_after_the_timeout(judge, model):
    started = time.monotonic()
    with pytest.raises(EpisodeLostError, match="the server has not answered in time"):
        judge(model, timeout=0.5).grade("?", "42", ("42",))
    assert time.monotonic() - started < 5


def test_an_answer_may_come_in_packed_chunks(judge):
    assert judge("in_chunks").verify("42", ("42",)) == 1.0


def test_nobody_at_the_address_is_missing(judge):
    assert judge(url="http://127.0.0.1:9/v1", tries=1).verify("42", ("42",)) is None


def test_the_laws_of_verifiers_hold(server, tmp_path):
    assert check("verifier", f"judge(lawful, url='{server}', cache='{tmp_path}')") == []


def test_a_server_that_fails_is_asked_again_and_one_that_refuses_is_not(judge, server):
    assert judge("flaky").verify("fair", ("fair",)) == 0.75
    assert len(seen(server, "flaky")) == 2
    assert judge("down", tries=2).verify("twice", ()) is None
    assert sum("twice" in one["said"] for one in seen(server, "down")) == 2
    assert judge("locked").verify("once", ()) is None
    assert sum("once" in one["said"] for one in seen(server, "locked")) == 1


def test_answers_are_judged_side_by_side_and_the_same_one_once(judge, server):
    one = judge("slow")
    answers = [f"answer {number % 8}" for number in range(32)]
    with ThreadPoolExecutor(32) as threads:
        verdicts = list(threads.map(lambda answer: one.grade("?", answer, ("fine",)), answers))
    assert verdicts == [1.0] * 32
    assert len(seen(server, "slow")) == 8
    with urllib.request.urlopen(server) as response:
        assert json.load(response)["most"] >= 4


# --- the cache ---


def test_a_verdict_is_kept_by_content_and_a_missing_one_is_not(judge, server, tmp_path):
    one = judge("kept")
    assert [one.grade("q", "a", ("g",)) for _ in range(3)] == [1.0] * 3
    assert pickle.loads(pickle.dumps(one)).grade("q", "a", ("g",)) == 1.0
    assert len(seen(server, "kept")) == 1
    for other in (judge("kept", max_tokens=8), judge("kept", prompt="Is it? {answer}")):
        other.grade("q", "a", ("g",))
    one.grade("q", "a", ("g", "h"))
    one.grade("r", "a", ("g",))
    assert len(seen(server, "kept")) == 5
    assert [judge("chats").verify("42", ()) for _ in range(2)] == [None, None]
    assert sum(one["said"].count("\n42\n") for one in seen(server, "chats")) >= 2
    files = list((tmp_path / "verdicts").glob("*/*.json"))
    assert len(files) == 5
    assert all(json.loads(file.read_text()) == {"reply": "I think so.\n**Score: 1**"} for file in files)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[]", b'{"reply": 7}', b'{"reply": "maybe"}'])
def test_a_damaged_file_is_asked_for_again(judge, server, tmp_path, content):
    model = f"damaged_{content.hex()}"
    judge(model).verify("a", ())
    (file,) = (tmp_path / "verdicts").glob("*/*.json")
    file.write_bytes(content)
    assert judge(model).verify("a", ()) == 1.0
    assert len(seen(server, model)) == 2
    assert json.loads(file.read_text())["reply"].endswith("1**")


def test_the_cache_is_in_the_directory_of_what_is_kept(judge, tmp_path, monkeypatch):
    monkeypatch.setenv("UNCOLLAPSE_CACHE", str(tmp_path))
    assert judge("kept_there", cache=None).verify("a", ()) == 1.0
    assert len(list((tmp_path / "judge").glob("*/*.json"))) == 1


# --- keys ---


def test_the_key_is_sent_and_stands_nowhere_else(judge, server, tmp_path, monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", KEY)
    one = judge("keyed", key_variable="JUDGE_KEY")
    assert one.verify("42", ("42",)) == 1.0
    assert [request["key"] for request in seen(server, "keyed")] == [f"Bearer {KEY}"]
    assert KEY not in repr(one)
    assert not any(KEY in file.read_text() for file in tmp_path.rglob("*") if file.is_file())
    with pytest.raises(EpisodeLostError) as caught:
        judge("down", key_variable="JUDGE_KEY", tries=1).grade("?", "a", ())
    assert KEY not in str(caught.value)


def test_a_key_for_the_host_in_netrc_is_not_sent(judge, server, tmp_path, monkeypatch):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert judge("no_key").verify("42", ()) == 1.0
    assert [request["key"] for request in seen(server, "no_key")] == [None]


@pytest.mark.parametrize("key", ["", "  ", "two words", f"{KEY}\nX-Other: 1", "clé"])
def test_a_key_that_cannot_be_sent_is_refused_and_not_told(judge, monkeypatch, key):
    monkeypatch.setenv("JUDGE_KEY", key)
    with pytest.raises(RequestError) as caught:
        judge(key_variable="JUDGE_KEY").verify("42", ())
    assert "JUDGE_KEY" in str(caught.value)
    assert not key.strip() or key not in str(caught.value)


# --- an experiment ---


@pytest.fixture
def experiment(bandit, server, tmp_path):
    (tmp_path / "train.jsonl").write_text('{"question": "How is it?", "answer": "fair"}\n')
    verifier = {"name": "judge", "model": "composed", "url": server, "cache": str(tmp_path / "verdicts")}
    environment = {"name": "dataset", "path": str(tmp_path / "train.jsonl"), "verifier": verifier}
    return {**bandit, "environment": environment, "validation": {"every": 0, "before_train": False}}


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("url=localhost:8000", "must be an address such as http://localhost:8000/v1"),
        ("url=ftp://host/v1", "must be an address"),
        ("url=http://", "must be an address"),
        ("url=http://host:port", "must be an address"),
        ("url='http://me:password@host/v1'", "must hold no key"),
        ("url='http://host/v1?key=1'", "must hold no key"),
        ("key_variable=sk-0123", "must be the name of an environment variable"),
        ("key_variable=NO_SUCH_VARIABLE", "the environment variable NO_SUCH_VARIABLE"),
        ("prompt='Is it right?'", "must hold {answer}"),
        ("prompt='{answer} {solution}'", "holds {solution}, and only"),
        ("timeout=0", "timeout"),
        ("tries=0", "tries"),
        ("max_tokens=0", "max_tokens"),
        ("concurrency=0", "concurrency"),
        ("device=cpu", "device is for a model that is loaded here"),
        ("url=null", None),
    ],
)
def test_parameters_that_mean_nothing_are_refused(experiment, override, told):
    overrides = [f"environment.verifier.{override}"]
    if told is None:
        overrides += ["environment.verifier.model=/no/such/folder"]
        told = "there is no directory /no/such/folder of a model"
    with pytest.raises(CompositionError) as caught:
        uncollapse.compose(experiment, overrides)
    assert told in " ".join(str(caught.value).split())


def test_the_data_set_shows_the_question_and_loses_the_episode_without_a_verdict(experiment, server):
    environment = CheckedEnvironment(uncollapse.compose(experiment).environment)
    assert environment.concurrency == 32
    step = environment.make(0).step("fair enough")
    assert (step.reward, step.success, step.observation) == (0.75, False, "Partly right.")
    assert "How is it?" in seen(server, "composed")[-1]["said"]
    broken = uncollapse.compose(experiment, ["environment.verifier.model=words"]).environment
    with pytest.raises(EpisodeLostError, match="the judge words has given no verdict"):
        CheckedEnvironment(broken).make(0).step("fair enough")


@pytest.mark.slow
def test_a_run_trains_on_verdicts_and_ends_where_there_are_none(experiment, tmp_path):
    trainer = {**experiment["trainer"], "steps": 1}
    experiment = {**experiment, "dialogue": "plain", "trainer": trainer}
    experiment["environment"]["verifier"]["prompt"] = "fair {answer}"
    uncollapse.train(experiment, tmp_path / "run")
    *_, record = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    assert (record["train/reward"], record["train/success"]) == (0.75, 0.0)
    experiment["environment"]["verifier"]["model"] = "words"
    with pytest.raises(RunError) as caught:
        uncollapse.train(experiment, tmp_path / "lost")
    assert caught.value.what.startswith("4 of 4 groups were lost, more than rollout.max_lost, 0.1, allows: ")
    assert "the judge words has given no verdict: the server's answer is no chat completion" in caught.value.what


# --- a model that is loaded here ---

WORDS = ("<pad>", "<eos>", "yes", "no", "0.5", "Q", "A", "is", "it", "42", "43", "right", "wrong", "?", "maybe")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny random model whose words are such that it often gives a verdict."""
    path = tmp_path_factory.mktemp("judge")
    words = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<eos>").save_pretrained(path)
    torch.manual_seed(5)
    config = Qwen2Config(
        vocab_size=len(WORDS),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=24,
        initializer_range=1.0,
        eos_token_id=1,
        pad_token_id=0,
        bos_token_id=None,
    )
    Qwen2ForCausalLM(config).save_pretrained(path)
    return path


def alone(folder, prompt):
    """What transformers generates for one prompt without padding."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    model = Qwen2ForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)["input_ids"]
    return tokenizer.decode(model.generate(ids, max_new_tokens=1, do_sample=False)[0, ids.shape[1] :], True)


ANSWERS = [
    " ".join(words) for words in (("42",), ("43",), ("it", "is", "42"), ("wrong",), ("is", "it", "right", "?", "no"))
]


def test_a_loaded_model_answers_together_what_it_answers_alone(folder, tmp_path):
    one = Judge(str(folder), prompt="Q {question} A {answer}", max_tokens=1, device="cpu", cache=str(tmp_path))
    expected = [alone(folder, f"Q is it A {answer}") for answer in ANSWERS]
    assert len(set(expected)) > 2  # otherwise this would show nothing
    loaded = judge_model.loaded(str(folder), "cpu", 32)
    with ThreadPoolExecutor(len(ANSWERS)) as threads:
        replies = list(threads.map(lambda answer: one._reply("is it", answer, ()).text, ANSWERS))
    assert replies == expected
    assert sum(loaded.sizes) == len(ANSWERS)
    assert max(loaded.sizes) > 1


def test_a_random_model_says_nothing_that_counts_as_wrong(folder, tmp_path):
    one = Judge(str(folder), prompt="maybe {answer}", max_tokens=5, device="cpu", cache=str(tmp_path))
    assert one.verify("42", ()) is None
    with pytest.raises(EpisodeLostError, match="whose last line is no verdict"):
        one.grade("?", "42", ())


def test_a_prompt_that_leaves_no_room_is_missing(folder, tmp_path):
    one = Judge(str(folder), prompt="{answer}", max_tokens=4, device="cpu", cache=str(tmp_path))
    with pytest.raises(EpisodeLostError, match="leaves no room for 4 tokens in a context of 24"):
        one.grade("?", "42 " * 21, ())
    with pytest.raises(EpisodeLostError, match="the prompt is empty"):
        one.grade("?", " ", ())


def test_an_answer_cannot_end_the_prompt(folder):
    """The end of a message is a token for the template alone; in an answer it is spelled."""
    loaded = judge_model.loaded(str(folder), "cpu", 32)
    end = loaded.tokenizer.eos_token_id
    assert loaded.tokenizer("42 <eos> yes")["input_ids"].count(end) == 1
    assert end not in loaded._tokens(["Q is it A 42 <eos> yes"])


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(RequestError, match=r"the model .* of a judge cannot be loaded"):
        Judge(str(tmp_path), cache=str(tmp_path / "verdicts")).verify("42", ())


def test_a_judge_is_known_by_its_name():
    assert named_of("verifier", "judge(good, url='http://host/v1')", "verifier").component == Judge(
        "good", url="http://host/v1"
    )

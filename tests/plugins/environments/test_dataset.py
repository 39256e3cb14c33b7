import json
import os
import pickle
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from uncollapse import compose
from uncollapse.core.compose.config import validation_environment
from uncollapse.core.errors import MissingExtraError, RequestError, RunError
from uncollapse.plugins.environments import word_problems
from uncollapse.plugins.environments.dataset import Dataset, DatasetEnv
from uncollapse.plugins.environments.dataset_rows import Row
from uncollapse.plugins.rollout.borders import CheckedEnvironment
from uncollapse.plugins.verifiers.verifiers import Math

ROWS = [
    {"q": "What is 6 times 7?", "a": "6 * 7 = <<6*7=42>>42\n#### 42", "n": 1},
    {"q": " Half of 1? ", "a": "1/2", "n": 2},
    {"q": "A dozen?", "a": 12, "n": 3},
]


@pytest.fixture
def jsonl(tmp_path):
    path = tmp_path / "sums.jsonl"
    path.write_text("".join(json.dumps({**row, "a": str(row["a"])}) + "\n" for row in ROWS))
    return path


# --- rows -----------------------------------------------------------------------------------------------------------


def rows(path, **parameters):
    dataset = Dataset(str(path), question="q", answer="a", **parameters)
    return [dataset.row(index) for index in range(dataset.tasks)]


EXPECTED = [Row("What is 6 times 7?", "42"), Row("Half of 1?", "1/2"), Row("A dozen?", "12")]


def test_jsonl(jsonl):
    assert rows(jsonl) == EXPECTED


def test_json_and_parquet(tmp_path):
    import datasets

    table = datasets.Dataset.from_list([{**row, "a": str(row["a"])} for row in ROWS])
    table.to_parquet(tmp_path / "sums.parquet")
    (tmp_path / "sums.json").write_text(json.dumps(table.to_list()))
    assert rows(tmp_path / "sums.parquet") == EXPECTED
    assert rows(tmp_path / "sums.json") == EXPECTED


def test_numbers_as_answers(tmp_path):
    (tmp_path / "sums.jsonl").write_text('{"q": "A dozen?", "a": 12}\n{"q": "None?", "a": 0}\n')
    assert rows(tmp_path / "sums.jsonl") == [Row("A dozen?", "12"), Row("None?", "0")]


def test_a_folder_has_a_file_for_each_split(tmp_path):
    word_problems.write(tmp_path)
    for split, size in (("train", 400), ("test", 100)):
        read, generated = Dataset(str(tmp_path), split=split), Dataset("arithmetic", split=split)
        assert read.tasks == size
        assert read.digest == generated.digest
        assert read.row(17) == generated.row(17)
    assert Dataset("arithmetic").digest != Dataset("arithmetic", split="test").digest


def test_a_hub_data_set_is_asked_for_by_name_subset_and_split(monkeypatch):
    import datasets

    asked = {}

    def load_dataset(**arguments):
        asked.update(arguments)
        return datasets.Dataset.from_list([{"question": "?", "answer": "so #### 1,000", "more": b"x"}])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr("uncollapse.core.compose.hub.refusal", lambda name, kind: "")
    dataset = Dataset("somebody/sums-of-this-test", subset="main", split="test")
    assert dataset.row(0) == Row("?", "1,000")
    assert asked == {"path": "somebody/sums-of-this-test", "name": "main", "split": "test"}


@pytest.mark.parametrize(
    ("parameters", "message", "fix"),
    [
        (
            {"split": "test"},
            "a single file is the split train: it has no split 'test'",
            "test.jsonl beside train.jsonl",
        ),
        ({"question": "qq"}, "no column 'qq'", "did you mean 'q'?"),
        ({"answer": "z"}, "no column 'z'", "choose one of: a, n, q"),
        ({"subset": "main"}, "it has no subsets", "leave subset out"),
    ],
)
def test_wrong_requests(jsonl, parameters, message, fix):
    with pytest.raises(RequestError, match=message) as caught:
        _ = Dataset(str(jsonl), **{"question": "q", "answer": "a", **parameters}).tasks
    assert fix in caught.value.fix
    assert str(jsonl) in caught.value.where


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "the file is empty"),
        ("\n\n", "the data set has no rows"),
        ("[]", "line 1 is no object"),
        ("{broken", "line 1 is no JSON"),
        ('{"q": "?", "a": "1"}\n{"q": "?", "a": null}\n', r"row 1 \(line 2\), column 'a': it is null"),
        ('{"q": "?", "a": "so ####  "}\n', r"row 0 \(line 1\), column 'a': it is empty"),
        ('{"q": " ", "a": "1"}\n', r"row 0 \(line 1\), column 'q': it is empty"),
    ],
)
def test_files_that_are_no_data_sets(tmp_path, content, message):
    path = tmp_path / "broken.jsonl"
    path.write_text(content)
    with pytest.raises(RequestError, match=message):
        rows(path)


def test_paths_that_are_not_there(tmp_path):
    with pytest.raises(RequestError, match="no such file or folder"):
        _ = Dataset("nowhere.jsonl").tasks
    with pytest.raises(RequestError, match="no such file or folder"):
        _ = Dataset(str(tmp_path / "nowhere")).tasks
    (tmp_path / "sums.csv").write_text("question,answer\n1+1,2\n")
    with pytest.raises(RequestError, match=r"files '\.csv' cannot be read"):
        _ = Dataset(str(tmp_path / "sums.csv")).tasks
    with pytest.raises(RequestError, match="no split 'tests'") as caught:
        _ = Dataset("arithmetic", split="tests").tasks
    assert caught.value.fix == "did you mean 'test'?"
    word_problems.write(tmp_path)
    with pytest.raises(RequestError, match="there is no split 'other'"):
        _ = Dataset(str(tmp_path), split="other").tasks


def test_without_a_connection_the_message_says_what_to_do():
    script = """
from uncollapse.core.errors import RequestError
from uncollapse.plugins.environments.dataset import Dataset
try:
    Dataset("openai/gsm8k", subset="main").make(0)
except RequestError as error:
    print(error)
"""
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": "/nowhere"}
    shown = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=True).stdout
    assert "the data set cannot be loaded" in shown
    assert "where: dataset openai/gsm8k, subset main, split train" in shown
    assert "or give a local file" in shown


def test_the_library_is_only_missed_when_it_is_used(jsonl, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert Dataset("arithmetic").make(0).initial_observation()
    assert rows(jsonl) == EXPECTED
    with pytest.raises(MissingExtraError, match="datasets is not installed"):
        _ = Dataset(str(jsonl.parent)).tasks


# --- the environment ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "reward", "valid", "text"),
    [
        ("42", 1.0, 1.0, "Correct."),
        ("The result is $42.00", 1.0, 1.0, "Correct."),
        ("43", 0.0, 1.0, "Wrong."),
        ("I do not know", 0.0, 0.0, "The answer cannot be read."),
        ("", 0.0, 0.0, "The answer cannot be read."),
    ],
)
def test_rewards(answer, reward, valid, text):
    step = DatasetEnv(Row("What is 6 times 7?", "42"), Math()).step(answer)
    assert (step.reward, step.success, step.done, step.observation) == (reward, reward == 1.0, True, text)
    assert step.metrics == {"share_of_played_actions_accepted": valid}


def test_one_answer_ends_the_episode():
    env = Dataset("arithmetic").make(0)
    env.step("0")
    with pytest.raises(RunError, match="the episode is over"):
        env.step("1")


def test_seeds_are_rows_again_and_again():
    dataset = Dataset("arithmetic")
    assert dataset.make(3).key == dataset.make(403).key == dataset.make(3, member=7).key == dataset.row(3).question
    assert dataset.make(3).initial_observation() == dataset.row(3).question
    assert dataset.make(4).key != dataset.make(3).key
    assert len({dataset.make(seed).key for seed in range(400)}) == 400


def test_exact_verifier():
    dataset = Dataset("arithmetic", verifier="exact")
    answer = dataset.row(0).answer
    assert dataset.make(0).step(f" {answer}. ").reward == 1.0
    assert dataset.make(0).step(f"{answer}.0").reward == 0.0
    assert dataset.instruction != Dataset("arithmetic").instruction
    with pytest.raises(ValueError, match="verifier"):
        Dataset("arithmetic", verifier="other")


def test_picklable_without_its_rows(tmp_path):
    word_problems.write(tmp_path)
    dataset = Dataset(str(tmp_path))
    dataset.make(0)
    assert len(pickle.dumps(dataset)) < 1000
    copy = pickle.loads(pickle.dumps(dataset))
    assert copy == dataset
    env = pickle.loads(pickle.dumps(copy.make(5)))
    assert env.step(dataset.row(5).answer).success


def test_a_file_that_changes_is_read_anew_by_the_next_experiment_and_by_no_run_that_has_begun(tmp_path):
    file = tmp_path / "train.jsonl"
    for path in (file, tmp_path):
        file.write_text('{"question": "1 + 1", "answer": 2}')
        first = Dataset(str(path))
        assert first.row(0).question == "1 + 1"
        file.write_text('{"question": "1 + 2", "answer": 3}')
        assert first.row(0).question == "1 + 1"
        assert Dataset(str(path)).row(0).question == "1 + 2"


@pytest.mark.parametrize("question", ["Which?\nA) red\nB) blue\nC) green", "Which? \n(A) red\n(B) blue"])
def test_an_index_is_no_right_answer_where_options_have_letters(tmp_path, question):
    file = tmp_path / "train.jsonl"
    file.write_text(json.dumps({"question": question, "answer": 1}))
    with pytest.raises(RequestError, match=r"row 0 .*right answer is 1, and the question lists its options by letters"):
        Dataset(str(file), verifier="choice").make(0)
    assert Dataset(str(file), verifier="exact").make(0).step("1").success
    numbered = question.replace("A)", "0)").replace("B)", "1)").replace("C)", "2)")
    file.write_text(json.dumps({"question": numbered, "answer": 1}) + " ")
    assert Dataset(str(file), verifier="choice").make(0).step("1").success


def test_composition_needs_neither_torch_nor_the_data():
    script = """
import sys
from uncollapse import compose
experiment = compose({
    "environment": {"name": "dataset", "path": "not/there"}, "model": {"path": "somewhere"},
    "validation": {"environment": {"split": "test"}},
})
assert experiment.environment.component.path == "not/there"
print([name for name in ("torch", "datasets", "math_verify") if name in sys.modules])
"""
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert "datasets" not in shown
    assert "math_verify" not in shown


def test_validation_by_the_test_split():
    experiment = compose(
        {
            "environment": "dataset(path=arithmetic)",
            "model": {"path": "somewhere"},
            "validation": {"environment": {"split": "test"}},
        }
    )
    assert experiment.environment.component == Dataset("arithmetic")
    assert validation_environment(experiment) == Dataset("arithmetic", split="test")


# --- arithmetic -----------------------------------------------------------------------------------------------------


def calculation(row):
    return row["answer"].partition(" = ")[0]


def test_the_generated_splits_share_no_calculation():
    splits = word_problems.generate()
    train, test = ({calculation(row) for row in splits[split]} for split in ("train", "test"))
    assert (len(splits["train"]), len(splits["test"])) == (400, 100)
    assert not train & test
    assert min(len(train), len(test)) > 40
    questions = [row["question"] for split in splits.values() for row in split]
    assert len(set(questions)) == 500


def test_every_generated_answer_is_right():
    for row in [row for split in word_problems.generate().values() for row in split]:
        text, result = row["answer"].split("\n#### ")
        numbers = [word for word in row["question"].split() if word.isdigit()]
        assert numbers == [word for word in calculation(row).split() if word.isdigit()]
        assert eval(calculation(row)) == int(result) >= 0
        assert text == f"{calculation(row)} = {result}"
        assert ("*" in calculation(row)) == ("boxes" in row["question"])
        assert ("-" in calculation(row)) == ("away" in row["question"])


@given(seed=st.integers(0, 10**6))
def test_every_generated_problem_is_solved_by_its_answer(seed):
    dataset = Dataset("arithmetic", split="test")
    assert dataset.make(seed).step(dataset.row(seed).answer).success


def test_the_generated_rows_do_not_depend_on_the_process():
    script = "from uncollapse.plugins.environments.dataset import Dataset; print(Dataset('arithmetic').digest)"
    digests = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("0", "12345")
    }
    assert digests == {Dataset("arithmetic").digest}


# --- several verifiers ---


@pytest.fixture
def several(bandit, tmp_path):
    (tmp_path / "train.jsonl").write_text('{"question": "6 x 7?", "answer": "42"}\n')
    environment = {"name": "dataset", "path": str(tmp_path / "train.jsonl"), "beside": ["contains", "exact"]}
    reward = {"weights": {"contains": 0.5, "exact": 0.25}}
    return {**bandit, "environment": environment, "reward": reward, "validation": {"environment": None}}


@pytest.mark.parametrize(
    ("answer", "rewards", "reward", "success"),
    [
        ("42", {"math": 1.0, "contains": 1.0, "exact": 1.0}, 1.75, True),
        ("84/2", {"math": 1.0, "contains": 0.0, "exact": 0.0}, 1.0, True),
        ("42 or 43", {"math": 0.0, "contains": 1.0, "exact": 0.0}, 0.5, False),
        ("43", {"math": 0.0, "contains": 0.0, "exact": 0.0}, 0.0, False),
    ],
)
def test_verifiers_beside_give_rewards_of_their_own_and_one_decides(several, answer, rewards, reward, success):
    experiment = compose(several, ["advantage=gdpo"])
    environment = CheckedEnvironment(experiment.environment, weights=experiment.reward.weights)
    step = environment.make(0).step(answer)
    assert (step.rewards, step.reward, step.success) == (rewards, reward, success)


def test_without_verifiers_beside_there_is_one_reward(several):
    del several["environment"]["beside"]
    step = compose({**several, "reward": {}}).environment.component.make(0).step("42")
    assert (step.reward, step.rewards) == (1.0, {})


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("environment.beside=[math]", "reward_names holds 'math' twice"),
        ("environment.beside=[maths]", "maths"),
        ("environment.beside=[choice]", "choice"),
        ("reward.weights.judge=1", "has no reward 'judge'"),
    ],
)
def test_verifiers_that_cannot_stand_beside_are_refused(several, override, told):
    with pytest.raises(RequestError, match=told):
        compose(several, [override]).environment.component.row(0)

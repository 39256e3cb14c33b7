"""A value of a file arrives as the file says, or is refused with row and column."""

import datetime
import json
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from uncollapse.core.errors import RequestError
from uncollapse.plugins.environments.dataset import Dataset

pyarrow = pytest.importorskip("pyarrow")


@pytest.fixture
def read(tmp_path):
    """Questions and right answers of a file with this content."""

    def read(content, name="sums.jsonl", **parameters):
        path = tmp_path / name
        if path.exists():  # a process reads a file once
            path = tmp_path / f"{len(list(tmp_path.iterdir()))}-{name}"
        if isinstance(content, pyarrow.Table):
            from pyarrow import parquet

            parquet.write_table(content, path)
        else:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        dataset = Dataset(str(path), **parameters)
        loaded = [dataset.row(index) for index in range(dataset.tasks)]
        return [(row.question, *row.answers) for row in loaded]

    return read


def lines(*answers):
    """A row for each answer, given as JSON."""
    return "".join(f'{{"question": "q{index}", "answer": {answer}}}\n' for index, answer in enumerate(answers))


def answers(rows):
    return [answer for _, *right in rows for answer in right]


# --- JSON -----------------------------------------------------------------------------------------------------------


LITERALS = ["3", "2.5", "9007199254740993", "1" * 5000, "1.0", "-0", "0.10", "1e3", "1E-7", "12345.6789e+300"]


def test_numbers_and_dates_keep_every_character(read):
    assert answers(read(lines(*LITERALS, '"1969-07-20"', "true", "false"))) == [
        *LITERALS,
        "1969-07-20",
        "true",
        "false",
    ]
    table = [{"question": "q", "answer": "@"}]
    for literal in LITERALS:
        text = json.dumps(table).replace('"@"', literal)
        assert answers(read(text, "sums.json")) == [literal]


@given(value=st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False)))
def test_any_number_of_json_is_the_text_of_the_file(tmp_path_factory, value):
    path = tmp_path_factory.mktemp("numbers") / "one.jsonl"
    path.write_text(lines(json.dumps(value)))
    assert Dataset(str(path)).row(0).answers == (json.dumps(value),)


def test_what_stands_around_the_rows_does_not_matter(read):
    content = (
        b"\xef\xbb\xbf" + lines("1").encode().replace(b"\n", b"\r\n") + b"\r\n  \n" + lines('"\\ud83d\\ude00"').encode()
    )
    assert answers(read(content)) == ["1", "😀"]
    assert read('{"question": "a\u2028b\\u0041", "answer": 1}')[0] == ("a\u2028bA", "1")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('[{"question": "q", "answer": 3}, {"question": "r", "answer": 2.5}]', [("q", "3"), ("r", "2.5")]),
        ('{"version": 1, "tags": ["x"], "data": [{"question": "q", "answer": 3}]}', [("q", "3")]),
        ('{"question": ["q", "r"], "answer": [3, [2.5, "two"]], "id": [1, 2]}', [("q", "3"), ("r", "2.5", "two")]),
        ('{"question": "q", "answer": 3}', [("q", "3")]),
        (lines("1", "2"), [("q0", "1"), ("q1", "2")]),
    ],
)
def test_the_layouts_of_a_json_file(read, content, expected):
    assert read(content, "sums.json") == expected


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("null", "it is null"),
        ("NaN", "it is nan, which is no number"),
        ("-Infinity", "it is -inf, which is no number"),
        ('""', "it is empty"),
        ('" #### "', "it is empty"),
        ('{"text": "a", "n": 1}', "it is a record with the fields text, n"),
        ("[]", "it is an empty list"),
        ("[1, null]", "it is null"),
        ("[[1], [2]]", "it is a list"),
        ('["a", {"b": 1}]', "it is a record with the fields b"),
        ('"\\ud800"', "it holds half of a surrogate pair, which is no character"),
    ],
)
def test_what_has_no_text_is_refused_with_row_and_column(read, answer, reason):
    with pytest.raises(RequestError) as caught:
        read(lines("1", "2", answer))
    assert caught.value.what == f"row 2 (line 3), column 'answer': {reason}"
    with pytest.raises(RequestError) as caught:
        read(f'[{{"question": "q", "answer": 1}}, {{"question": "q", "answer": {answer}}}]', "sums.json")
    assert caught.value.what == f"row 1, column 'answer': {reason}"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (lines("1") * 16 + "{broken\n", "line 17 is no JSON"),
        (lines("1") + '{"question": "q"', "line 2 is no JSON"),
        (lines("1") + "[1]\n", "line 2 is no object"),
        (lines("1", '2, "answer": 3'), "line 2: the key 'answer' is there twice"),
        (lines("1") + '{"question": "q"}\n', r"row 1 \(line 2\): there is no column 'answer'"),
        (lines("1").encode() + b'\n{"question": "\xff", "answer": 1}\n', r"line 3 is not UTF-8 \(byte 14\)"),
        (lines("1").encode("utf-16"), r"line 1 is not UTF-8 \(byte 0\)"),
        (lines("[" * 100_000), "line 1 is nested too deeply"),
    ],
)
def test_the_line_that_is_wrong_is_named(read, content, reason):
    with pytest.raises(RequestError, match=reason):
        read(content)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('[{"question": "q",\n "answer": 1},]', r"the file is no JSON: .*\(line 2, column 15\)"),
        ("[1]", "row 0 is no object"),
        ("[]", "no rows"),
        ("5", "the file holds no list of rows"),
        ('{"rows": {}}', "the file holds no list of rows"),
        ('{"question": ["a", "b"], "answer": [1]}', "the columns are not of one length: question 2, answer 1"),
        ('{"train": [{"question": 1}], "test": [{"question": 2}]}', "several lists of rows: train, test"),
    ],
)
def test_json_files_that_are_no_data_sets(read, content, reason):
    with pytest.raises(RequestError, match=reason):
        read(content, "sums.json")


# --- parquet --------------------------------------------------------------------------------------------------------


def table(values, kind=None):
    column = values if isinstance(values, pyarrow.Array) else pyarrow.array(values, kind)
    return pyarrow.table({"question": ["q"] * len(column), "answer": column, "left out": [b"x"] * len(column)})


NOON = datetime.datetime(1969, 7, 20, 12, 0, 1)


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        ([2**53 + 1, -(2**63)], pyarrow.int64(), ["9007199254740993", "-9223372036854775808"]),
        ([2**64 - 1], pyarrow.uint64(), ["18446744073709551615"]),
        ([3.0, 2.5, 0.1, 1e20], pyarrow.float64(), ["3.0", "2.5", "0.1", "1e+20"]),
        ([3.0, 0.1], pyarrow.float32(), ["3.0", "0.1"]),
        ([0.1], pyarrow.float16(), ["0.1"]),
        ([True, False], None, ["true", "false"]),
        ([Decimal("12.50"), Decimal("0.00")], pyarrow.decimal128(10, 2), ["12.50", "0.00"]),
        ([Decimal("0.0000001")], pyarrow.decimal128(10, 7), ["0.0000001"]),
        (["a", "b", "a"], pyarrow.large_string(), ["a", "b", "a"]),
        (pyarrow.array(["a", "b", "a"]).dictionary_encode(), None, ["a", "b", "a"]),
        (pyarrow.array([3, 3]).dictionary_encode(), None, ["3", "3"]),
        ([datetime.date(1969, 7, 20)], pyarrow.date32(), ["1969-07-20"]),
        ([datetime.date(1969, 7, 20)], pyarrow.date64(), ["1969-07-20"]),
        ([NOON], pyarrow.timestamp("us"), ["1969-07-20 12:00:01"]),
        ([NOON.replace(microsecond=500)], pyarrow.timestamp("us"), ["1969-07-20 12:00:01.000500"]),
        ([1], pyarrow.timestamp("ns", tz="UTC"), ["1970-01-01 00:00:00.000000001Z"]),
        ([datetime.time(12, 30)], pyarrow.time32("s"), ["12:30:00"]),
        ([["a", "b"], ["c"]], None, ["a", "b", "c"]),
        ([[datetime.date(1969, 7, 20)]], None, ["1969-07-20"]),
    ],
)
def test_types_of_parquet(read, values, kind, expected):
    assert answers(read(table(values, kind), "sums.parquet")) == expected


@pytest.mark.parametrize(
    ("values", "kind", "reason"),
    [
        (["a", None], None, "row 1, column 'answer': it is null"),
        ([None, None], None, "row 0, column 'answer': it is null"),
        ([1.0, float("nan")], None, "row 1, column 'answer': it is nan"),
        ([b"a"], None, "row 0, column 'answer': it is binary"),
        ([[[1]]], None, "row 0, column 'answer': it is a list"),
        ([[]], pyarrow.list_(pyarrow.int64()), "row 0, column 'answer': it is an empty list"),
        ([{"text": "a"}], None, "row 0, column 'answer': it is a record with the fields text"),
        ([datetime.timedelta(1)], None, "column 'answer' is of the type duration"),
        ([[("k", 1)]], pyarrow.map_(pyarrow.string(), pyarrow.int64()), "column 'answer' is of the type map"),
    ],
)
def test_types_of_parquet_without_text(read, values, kind, reason):
    with pytest.raises(RequestError, match=reason):
        read(table(values, kind), "sums.parquet")


def test_parquet_files_that_are_no_data_sets(read):
    with pytest.raises(RequestError, match="cannot be loaded"):
        read(b"PAR1 and nothing else", "sums.parquet")
    twice = pyarrow.table([["q"], ["a"], ["b"]], names=["question", "answer", "answer"])
    with pytest.raises(RequestError, match="two columns 'answer'"):
        read(twice, "sums.parquet")
    with pytest.raises(RequestError, match="no column 'answers'") as caught:
        read(table(["a"]), "sums.parquet", answer="answers")
    assert caught.value.fix.endswith("did you mean 'answer'?")


# --- chat messages, records, several right answers --------------------------------------------------------------------


def chat(*messages):
    return [{"role": role, "content": content} for role, content in messages]


CONVERSATION = chat(("system", "Be brief."), ("user", "1 + 1?"), ("assistant", "2"), ("user", "And 2 + 2?"))


@pytest.mark.parametrize(
    ("question", "text"),
    [
        (chat(("user", "1 + 1?")), "1 + 1?"),
        ({"role": "user", "content": "1 + 1?"}, "1 + 1?"),
        (chat(("system", "Be brief."), ("user", "1 + 1?")), "1 + 1?"),
        (CONVERSATION, "And 2 + 2?"),
        ([{"from": "human", "value": "1 + 1?"}], "1 + 1?"),
        (chat(("user", [{"type": "text", "text": "1 + "}, {"type": "text", "text": "1?"}])), "1 + 1?"),
    ],
)
def test_chat_messages_are_a_question(read, question, text):
    row = {"question": question, "answer": chat(("assistant", "so #### 2"))}
    assert read(json.dumps(row)) == [(text, "2")]
    if isinstance(question, list) and isinstance(question[0].get("content"), str):
        assert read(pyarrow.Table.from_pylist([row]), "sums.parquet") == [(text, "2")]


@pytest.mark.parametrize(
    ("question", "reason"),
    [
        (CONVERSATION[2:], "its chat messages do not begin with one of the user"),
        (CONVERSATION[:3], "its chat messages do not end with one of the user"),
        (chat(("system", "Be brief.")), "its chat messages do not end with one of the user"),
        (chat(("tool", "2"), ("user", "?")), "it holds a message of the role 'tool'"),
        (chat(("user", [{"type": "image"}])), "it holds a message with something else than text"),
        (
            chat(("user", [{"type": "image", "image": "x.png", "text": "a cat"}])),
            "it holds a message with something else than text",
        ),
        (
            [
                {"role": "user", "content": "?"},
                {"role": "assistant", "content": "2", "tool_calls": [{"id": 1}]},
                {"role": "user", "content": "?"},
            ],
            "it holds a message that calls tools",
        ),
        ([{"role": ["user"], "content": "?"}], "it holds a message of the role ['user']"),
        (chat(("user", None)), "it is null"),
        ([], "it is a list"),
        (["a", "b"], "it is a list"),
    ],
)
def test_conversations_that_are_no_question(read, question, reason):
    with pytest.raises(RequestError) as caught:
        read(json.dumps({"question": question, "answer": 2}))
    assert caught.value.what == f"row 0 (line 1), column 'question': {reason}"


def test_what_a_file_says_before_the_question_stays_apart(tmp_path):
    file = tmp_path / "chats.jsonl"
    again = chat(("user", "1 + 1?"), ("user", "Well?"), ("assistant", "2"), ("system", "Now."), ("user", "And 2 + 2?"))
    rows = [
        {"question": asked, "answer": 4, "own": own}
        for asked, own in ((CONVERSATION, "Add."), (again, None), ("?", None))
    ]
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    dataset = Dataset(str(file), system="own")
    envs = [dataset.make(number) for number in range(3)]
    assert [env.system_text for env in envs] == ["Add.\n\nBe brief.", "Now.", ""]
    assert [env.earlier_turns for env in envs] == [(("1 + 1?", "2"),), (("1 + 1?\n\nWell?", "2"),), ()]
    assert [env.initial_observation() for env in envs] == ["And 2 + 2?", "And 2 + 2?", "?"]
    assert dataset.row(0).characters == len("Add.\n\nBe brief.1 + 1?2And 2 + 2?")
    assert [Dataset(str(file), system="own", longest=longest).tasks for longest in (1, 28, 99)] == [1, 2, 3]
    assert len({Dataset(str(file), system=own).digest for own in ("own", None)}) == 2


def test_a_field_of_a_record_is_a_column(read):
    row = {"prompt": chat(("user", "?")), "reward_model": {"style": "rule", "ground_truth": ["42", 43]}}
    parameters = {"question": "prompt", "answer": "reward_model.ground_truth"}
    assert read(json.dumps(row), **parameters) == [("?", "42", "43")]
    stored = pyarrow.Table.from_pylist([{**row, "reward_model": {"style": "rule", "ground_truth": ["42", "43"]}}])
    assert read(stored, "sums.parquet", **parameters) == [("?", "42", "43")]
    with pytest.raises(RequestError) as caught:
        read(json.dumps(row), question="prompt", answer="reward_model")
    assert caught.value.fix == "name the field that is meant, such as reward_model.style"


def test_any_of_several_right_answers_is_right(read, tmp_path):
    read(lines('["Paris", "the capital of France", 75]'))
    dataset = Dataset(str(tmp_path / "sums.jsonl"))
    rewards = {text: dataset.make(0).step(text).reward for text in ("paris", "75.0", "The capital of France.", "Rome")}
    assert rewards == {"paris": 1.0, "75.0": 1.0, "The capital of France.": 1.0, "Rome": 0.0}


def test_rows_with_long_questions_can_be_left_out(read, tmp_path):
    content = '{"question": "short", "answer": 1}\n{"question": "much too long", "answer": 2}\n'
    assert read(content, longest=5) == [("short", "1")]
    path = str(tmp_path / "sums.jsonl")
    assert Dataset(path).digest != Dataset(path, longest=5).digest == Dataset(path, longest=12).digest
    with pytest.raises(RequestError, match="no rows of at most 4 characters"):
        read(content, longest=4)


def test_the_digest_is_of_the_content(read, tmp_path):
    read(lines("1", "2"), "one.jsonl")
    read('[{"answer": 1, "question": "q0"}, {"answer": 2, "question": "q1"}]', "two.json")
    read(lines("1", "2.0"), "three.jsonl")
    one, two, three = (Dataset(str(tmp_path / name)).digest for name in ("one.jsonl", "two.json", "three.jsonl"))
    assert one == two != three


def test_a_folder_of_several_files(tmp_path):
    (tmp_path / "train-00000-of-00002.jsonl").write_text(lines("3", "2.5"))
    (tmp_path / "train-00001-of-00002.jsonl").write_text(lines('"1969-07-20"', "9007199254740993"))
    (tmp_path / "test.jsonl").write_text(lines("1"))
    dataset = Dataset(str(tmp_path))
    assert [dataset.row(index).answer for index in range(dataset.tasks)] == [
        "3",
        "2.5",
        "1969-07-20",
        "9007199254740993",
    ]
    assert Dataset(str(tmp_path), split="test").row(0).answer == "1"
    (tmp_path / "validation.jsonl").write_text(lines("1", "null"))
    with pytest.raises(RequestError, match=r"row 1 \(line 2\), column 'answer': it is null"):
        _ = Dataset(str(tmp_path), split="validation").tasks

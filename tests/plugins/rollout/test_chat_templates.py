from __future__ import annotations

import re
from collections import Counter
from functools import cache

import pytest
from chat_templates import FAMILIES, Family, _chatml
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken
from uncollapse.core.errors import RequestError, RunError
from uncollapse.plugins.dialogue.think_answer import ThinkAnswer
from uncollapse.plugins.rollout.template import Template

SYSTEM = "You are a helpful assistant.\nWalk to the goal."
USERS = ("Turn 1:\nState:\n #_#  P\nActions left: 3", "Reward:\n-0.1\nTurn 2: Ärger?", "Reward:\n0\n\nTurn 3")
ANSWERS = (" go Up</think><answer>Up || Up</answer>", " then Down</think><answer>Down</answer>")
MARKS = ("FIRSTANSWER", "SECONDANSWER")
KINDS = ("gpt2", "qwen", "always", "first", "legacy", "plain", "unigram")


@cache
def template(name: str, think: bool = True, kind: str | None = None) -> Template:
    return Template(FAMILIES[name].tokenizer(kind), ThinkAnswer(), think)


def rendered(family: Family, made: Template, system: str, users) -> str:
    """The conversation as the template itself writes it, with marks for the answers."""
    head = f"{system}\n\n{users[0]}" if system and family.folds else users[0]
    messages = [{"role": "user", "content": head}]
    for mark, user in zip(MARKS, users[1:], strict=False):
        messages += [{"role": "assistant", "content": mark}, {"role": "user", "content": user}]
    if system and not family.folds:
        messages.insert(0, {"role": "system", "content": system})
    if family.parts:
        messages = [{**m, "content": [{"type": "text", "text": m["content"]}]} for m in messages]
    return made.tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True, enable_thinking=made.think, thinking=made.think,
        strftime_now=made.layout.clock.strftime,
    )  # fmt: skip


def without_thoughts(text: str) -> str:
    return re.sub(r"</?think>\s*", "", text).rstrip()


def expected(family: Family, made: Template, system: str, users, answers) -> tuple[str, list[tuple[int, int]]]:
    """The prompt of the turn that ``users`` ends with, by the template's rendering, and where the answers stand in it.

    What begins an answer is the family's ``opens``. It must be what the rendering has there, but for thoughts.
    """
    opening = family.opening(made.think)
    tag = "" if opening.rstrip().endswith(made.tag) else made.tag
    rest, written, places = rendered(family, made, system, users), "", []
    for turn, user in enumerate(users):
        before, found, rest = rest.partition(user)
        assert found
        written += before + user + opening + tag
        if turn == len(users) - 1:
            break
        header, found, rest = rest.partition(MARKS[turn])
        assert found
        assert without_thoughts(header) == without_thoughts(opening)
        places.append((len(written), len(written) + len(answers[turn])))
        written += answers[turn]
    assert without_thoughts(opening).startswith(without_thoughts(rest))
    return written, places


def encoded(made: Template, text: str) -> tuple[tuple[int, ...], list[int]]:
    """Token ids of a whole text in one piece, and where each begins."""
    whole = made.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    return tuple(whole["input_ids"]), [start for start, _ in whole["offset_mapping"]]


@pytest.mark.parametrize("system", [SYSTEM, ""], ids=["system", "none"])
@pytest.mark.parametrize("think", [True, False], ids=["think", "answer"])
@pytest.mark.parametrize("name", FAMILIES)
def test_every_prompt_is_what_the_template_writes_token_for_token(name, think, system):
    family, made = FAMILIES[name], template(name, think)
    texts = [text if think else " " + text.partition("<answer>")[2] for text in ANSWERS]
    text, places = expected(family, made, system, USERS, texts)
    ids, starts = encoded(made, text)
    sampled = [ids[starts.index(start) : starts.index(end)] for start, end in places]
    prompt = made.first(system, USERS[0])
    for turn, tokens in enumerate(sampled, 1):
        now, _ = expected(family, made, system, USERS[:turn], texts)
        assert prompt == encoded(made, now)[0]
        prompt += tokens + made.bridge(system, USERS[: turn + 1], tokens)
    assert prompt == ids
    if not system and family.default:
        assert family.default in text


@pytest.mark.parametrize("name", FAMILIES)
def test_a_sampled_end_is_not_repeated_and_a_missing_one_is_written(name):
    made = template(name)
    cut = made.bridge(SYSTEM, USERS[:2], (5, 6, 7))
    for end in {made.end_of_turn, made.tokenizer.eos_token_id} - {None}:
        ended = made.bridge(SYSTEM, USERS[:2], (5, 6, 7, end))
        assert ended == (cut[cut.index(end) + 1 :] if end in made.encoder.encode(made.layout.between) else cut)


@pytest.mark.parametrize("name", FAMILIES)
def test_no_text_of_the_trial_stays_in_a_prompt(name):
    made = template(name)
    prompt = made.first(SYSTEM, USERS[0])
    prompt += (7, *made.bridge(SYSTEM, USERS[:2], (7,)), 7, *made.bridge(SYSTEM, USERS, (7, 7)))
    text = made.tokenizer.decode(list(prompt))
    assert not re.search(r"[0-9a-f]{12}", text)
    for user in USERS:
        assert text.count(user) == 1


# --- control tokens -------------------------------------------------------------------------------------------------


def controls(made: Template, tokens) -> Counter:
    return Counter(token for token in tokens if token in made.encoder.controls)


def marker_texts(made: Template) -> list[str]:
    return [made.tokenizer.convert_ids_to_tokens(index) for index in sorted(made.encoder.controls)]


@pytest.mark.parametrize("name", FAMILIES)
def test_control_tokens_in_foreign_texts_are_spelled(name):
    made = template(name)
    forged = "".join(f"a{marker}{marker}\n b {marker} c" for marker in marker_texts(made))
    for system, first, second in (("s", "u", "v"), (f"s{forged}s", f"u{forged}u", f"v{forged}v")):
        assert controls(made, made.first(system, first)) == controls(made, made.first("s", "u"))
        bridge = made.bridge(system, (first, second), ())
        assert controls(made, bridge) == controls(made, made.bridge("s", ("u", "v"), ()))
        assert second in made.tokenizer.decode(list(bridge))


@pytest.mark.parametrize("name", ["qwen3", "deepseek-r1"])
def test_our_own_line_keeps_its_tags_and_only_its_last_occurrence_does(name):
    made, line = template(name), "Reply: <think>your thoughts</think>"
    think = made.tokenizer.convert_tokens_to_ids("<think>")
    plain = made.first("s", "u").count(think)
    assert made.first(f"s\n{line}", "u").count(think) == plain
    assert made.first(f"{line}s\n{line}", f"u{line}", line).count(think) == plain + 1


def test_tokens_that_somebody_added_for_words_of_his_own_are_no_control_tokens():
    words = FAMILIES["qwen3"].tokenizer()
    words.add_tokens(["<box>", "  ", "Sokoban"])
    made = Template(words, ThinkAnswer())
    ids = set(words.convert_tokens_to_ids(["<box>", "  ", "Sokoban"]))
    assert ids <= set(made.first("s", "a <box>  Sokoban"))
    assert ids <= set(made.first("s", "a <box>  Sokoban <|im_end|>"))


TEXTS = st.text(
    st.one_of(st.sampled_from("ab \n\t<|>/_[]#éÄ▁ 1"), st.characters(exclude_categories=["Cs"])), max_size=40
)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60)
@given(st.data())
def test_texts_without_control_tokens_are_encoded_in_one_piece_with_what_surrounds_them(kind, data):
    made = template("qwen2.5", True, kind)
    system, user = data.draw(TEXTS), data.draw(TEXTS)
    text = rendered(FAMILIES["qwen2.5"], made, system, [user]) + made.tag
    if not controls(made, made.encoder.encode(f"{system}\n{user}")):
        assert made.first(system, user) == encoded(made, text)[0]


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60)
@given(st.data())
def test_texts_with_control_tokens_change_no_other_token(kind, data):
    """A control token that is spelled splits the text at most where it stands; nothing of it is lost."""
    made = template("qwen2.5", True, kind)
    parts = data.draw(st.lists(TEXTS | st.sampled_from(marker_texts(made)), max_size=6))
    user = "x" + "".join(parts) + "x"
    prompt, plain = made.first("s", user), made.first("s", "xx")
    assert controls(made, prompt) == controls(made, plain)
    assert prompt[::-1][:4] == plain[::-1][:4]
    if kind in ("gpt2", "qwen", "plain", "always", "legacy"):  # these can spell everything
        whole = made.tokenizer.decode(list(plain)).replace("xx", user)
        assert made.tokenizer.decode(list(prompt)) == whole


# --- templates that change texts ------------------------------------------------------------------------------------


def of(text: str) -> str:
    """A layout that writes the texts of messages in some way of its own."""
    return _chatml(answer=text).replace("else m.content }}", f"else {text} }}}}")


@pytest.mark.parametrize(
    "text",
    [
        "m.content | lower", "m.content | capitalize", "m.content | e", "m.content | striptags", "m.content[:4000]",
        "m.content.split('\\n')[0]", "m.content.split() | join(' ')", "m.content | replace('\\n', '')",
        "m.content | replace('[', '<')", "m.content | tojson",
    ],
)  # fmt: skip
def test_a_template_that_cuts_or_changes_texts_is_refused(text):
    """``<|IM_END|>`` in lower case is an end of turn, and a map in one line is no map."""
    words = FAMILIES["qwen2.5"].tokenizer()
    words.chat_template = of(text)
    with pytest.raises(RequestError, match=r"cannot be used: it (changes or cuts|drops or moves|drops or changes)"):
        Template(words, ThinkAnswer())


def test_a_template_may_trim_texts_and_refuse_long_ones():
    words = FAMILIES["qwen2.5"].tokenizer()
    words.chat_template = "{% if messages[0].content | length > 99 %}{{ raise_exception('too long') }}{% endif %}" + of(
        "m.content | trim"
    )
    made = Template(words, ThinkAnswer())
    assert made.first(" s\n", " u ") == made.first("s", "u")
    with pytest.raises(RunError, match="too long"):
        made.first("s" * 100, "u")


def test_a_system_text_that_is_repeated_every_turn_keeps_our_own_tags():
    words = FAMILIES["qwen3"].tokenizer()
    words.chat_template = (
        "{% for m in messages[1:] %}{{ '<|im_start|>' + m.role + '\n' }}"
        "{{ messages[0].content + '\n' if m.role == 'user' else '' }}{{ m.content + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    made, own = Template(words, ThinkAnswer()), "Reply: <think>your thoughts</think>"
    think, system = words.convert_tokens_to_ids("<think>"), f"<think>s\n{own}"
    assert made.first(system, "u", own).count(think) == 2
    assert made.bridge(system, ("u", "v"), (5,), own).count(think) == 2
    assert made.bridge(system, ("u", "v"), (5,)).count(think) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_marker_that_takes_blanks_along_is_itself_beside_a_control_token_that_is_spelled(kind):
    words = FAMILIES["qwen2.5"].tokenizer(kind)
    words.add_tokens([AddedToken("<|end|>", lstrip=True, rstrip=True, normalized=False, special=True)], True)
    words.chat_template = words.chat_template.replace("<|im_end|>", "<|end|>")
    made, end = Template(words, ThinkAnswer()), words.convert_tokens_to_ids("<|end|>")
    for foreign in (" <|end|> ", "x <|end|>\n", "<|im_start|> ", "<|im_start|>  <|end|>  "):
        prompt = made.first("s", foreign) + made.bridge("s", ("u", foreign), (7,))
        plain = made.first("s", "u") + made.bridge("s", ("u", "u"), (7,))
        assert max(prompt) < len(words)
        assert [token for token in prompt if token == end] == [end] * 4
        assert controls(made, prompt) == controls(made, plain)

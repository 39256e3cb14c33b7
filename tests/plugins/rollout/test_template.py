from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rollout_worlds import CHATML, LLAMA3, NO_SYSTEM, THINKING, says, tiny_model, tokenizer
from uncollapse import compose
from uncollapse.core.components import Completion
from uncollapse.core.errors import RequestError, RunError
from uncollapse.plugins.dialogue.think_answer import ThinkAnswer
from uncollapse.plugins.rollout.template import Template, end_ids
from uncollapse.plugins.training.assemble import assemble
from uncollapse.plugins.training.processes.ranks import Ranks

FAMILIES = {"chatml": CHATML, "llama3": LLAMA3, "no_system": NO_SYSTEM}
TEMPLATES = {name: Template(tokenizer(text), ThinkAnswer()) for name, text in FAMILIES.items()}


def decoded(template: Template, tokens) -> str:
    return template.tokenizer.decode(list(tokens), clean_up_tokenization_spaces=False)


def test_the_first_prompt_ends_with_the_generation_prompt_and_the_tag():
    assert decoded(TEMPLATES["chatml"], TEMPLATES["chatml"].first("S", "U")) == (
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\n<think>"
    )
    assert decoded(TEMPLATES["llama3"], TEMPLATES["llama3"].first("S", "U")) == (
        "<|begin|><|start_header_id|>system<|end_header_id|>\n\nS<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n"
        "U<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n<think>"
    )


def test_system_text_is_folded_where_there_is_no_system_role():
    text = decoded(TEMPLATES["no_system"], TEMPLATES["no_system"].first("S", "U"))
    assert text == "<|begin|><|im_start|>user\nS\n\nU<|im_end|>\n<|im_start|>model\n<think>"


def test_a_template_that_silently_drops_the_system_message_gets_it_folded():
    drops = CHATML.replace("for m in messages", "for m in messages if m['role'] != 'system'")
    template = Template(tokenizer(drops), ThinkAnswer())
    assert "S\n\nU<|im_end|>" in decoded(template, template.first("S", "U"))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_conversation_is_what_the_template_writes(family):
    """With text that survives its own tokens, prompt + sampled + bridge + sampled reads as the template's rendering."""
    template = TEMPLATES[family]
    first, second = "a</think><answer>Up</answer>", "b</think><answer>Down</answer>"
    one, two = says(template, first).tokens, says(template, second).tokens
    tokens = (*template.first("S", "U"), *one, *template.bridge("S", ["U", "V"], one), *two)
    head = [{"role": "user", "content": "S\n\nU"}] if family == "no_system" else [
        {"role": "system", "content": "S"}, {"role": "user", "content": "U"}
    ]  # fmt: skip
    messages = [
        *head,
        {"role": "assistant", "content": "<think>" + first},
        {"role": "user", "content": "V"},
        {"role": "assistant", "content": "<think>" + second},
    ]
    rendered = template.tokenizer.apply_chat_template(messages, tokenize=False)
    assert decoded(template, tokens) == rendered.removesuffix("\n")


@pytest.mark.parametrize("family", FAMILIES)
def test_the_bridge_closes_a_turn_that_did_not_close_itself(family):
    template = TEMPLATES[family]
    closed, cut = says(template, "x").tokens, says(template, "x", end="length").tokens
    assert (template.end_of_turn, *template.bridge("S", ["U", "V"], closed)) == template.bridge("S", ["U", "V"], cut)


def test_answers_may_be_forced_instead_of_thoughts():
    template = Template(tokenizer(), ThinkAnswer(), think=False)
    assert decoded(template, template.first("S", "U")).endswith("assistant\n<answer>")


def test_a_generation_prompt_that_already_opens_the_thought_is_left_alone():
    template = Template(tokenizer(THINKING), ThinkAnswer())
    assert decoded(template, template.first("S", "U")).endswith("assistant\n<think>\n")
    assert decoded(template, template.bridge("S", ["U", "V"], ())).count("<think>") == 1


def test_decoding_gives_back_the_tag_and_drops_the_end():
    template = TEMPLATES["chatml"]
    assert template.decode(says(template, "a b")) == "<think>a b"
    assert template.decode(says(template, "a b", end="length")) == "<think>a b"


@given(st.lists(st.integers(0, 255), max_size=12))
def test_any_sampled_bytes_can_be_decoded(tokens):
    template = TEMPLATES["chatml"]
    assert template.decode(Completion(tuple(tokens), (0.0,) * len(tokens), "length")).startswith("<think>")


def test_no_template_is_a_wrong_request():
    with pytest.raises(RequestError, match="no chat template"):
        Template(tokenizer(None), ThinkAnswer())


def test_a_template_that_drops_answers_is_a_wrong_request():
    drops = CHATML.replace("for m in messages", "for m in messages if m['role'] != 'assistant'")
    with pytest.raises(RequestError, match="several turns"):
        Template(tokenizer(drops), ThinkAnswer())


REFUSED = {
    "a syntax error": ("{% for m in messages %}{{ m.content }", "TemplateSyntaxError"),
    "a tag that is not known": ("{% nonsense %}" + CHATML, "TemplateSyntaxError: Encountered unknown tag 'nonsense'"),
    "a function that does not exist": (CHATML + "{{ nothing() }}", "UndefinedError: 'nothing' is undefined"),
    "a field that messages lack": (CHATML.replace("m['content']", "m['content'].text.value"), "UndefinedError"),
    "an error of Python": (CHATML + "{{ 1 / 0 }}", "ZeroDivisionError"),
    "an error of its own": (CHATML + "{{ raise_exception('not me') }}", "not me"),
    "a user's text is left out": (CHATML.replace("in messages", "in messages if m['role'] != 'user'"), "several turns"),
    "only the last turns": (CHATML.replace("in messages", "in messages[-1:]"), "several turns"),
    "earlier turns are marked": (
        CHATML.replace("{{ m['content'] }}", "{{ m['content'] }}{{ '' if messages | length < 5 else ' (old)' }}"),
        "writes the earlier turns of a conversation anew",
    ),
    "a new answer begins otherwise": (
        CHATML.replace("<|im_start|>assistant\n", "<|im_start|>model\n"),
        "begins a new answer by 'model\\n' and writes an earlier one after 'assistant\\n'",
    ),
    "a new answer begins with a line more": (
        CHATML.replace("<|im_start|>assistant\n", "<|im_start|>assistant\n\n"),
        "begins a new answer by '\\n' and writes an earlier one after ''",
    ),
    "named templates without a default": ({"tool_use": CHATML}, "multiple chat templates with no default"),
}


@pytest.mark.parametrize(("text", "reason"), REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("think", [True, False])
def test_a_template_that_cannot_be_used_is_a_wrong_request_with_its_reason(text, reason, think):
    words = tokenizer(text)
    words.name_or_path = "models/mine"
    with pytest.raises(RequestError) as refused:
        Template(words, ThinkAnswer(), think)
    assert reason in refused.value.what
    assert "models/mine" in refused.value.where
    assert refused.value.fix
    assert words.eos_token_id in end_ids(tiny_model(len(words)), words)


def test_a_run_refuses_its_template_before_it_loads_a_model(bandit, tmp_path):
    words = tokenizer(CHATML + "{{ nothing() }}")
    words.save_pretrained(tmp_path)
    tiny_model(len(words)).config.save_pretrained(tmp_path)  # and no weights
    experiment = compose({**bandit, "model": {**bandit["model"], "path": str(tmp_path)}})
    with pytest.raises(RequestError, match="'nothing' is undefined") as refused:
        assemble(experiment, Ranks(0, 1, torch.device("cpu")))
    assert refused.value.where == str(tmp_path)
    assert refused.value.exit_code == 2


def test_a_template_that_always_opens_a_thought_cannot_do_without():
    opened = CHATML.replace(
        "<|im_start|>{{ m['role'] }}\n", "<|im_start|>{{ m['role'] }}\n{{ '<think>\n' if m.role == 'assistant' }}"
    )
    opened = opened.replace("<|im_start|>assistant\n", "<|im_start|>assistant\n<think>\n")
    assert decoded(
        Template(tokenizer(opened), ThinkAnswer()), Template(tokenizer(opened), ThinkAnswer()).first("S", "U")
    ).endswith("assistant\n<think>\n")
    with pytest.raises(RequestError, match="opens a thought in every answer") as refused:
        Template(tokenizer(opened), ThinkAnswer(), think=False)
    assert "rollout.think: true" in refused.value.fix


def test_a_template_that_always_closes_the_thought_cannot_think():
    closed = CHATML.replace("<|im_start|>assistant\n", "<|im_start|>assistant\n<think>\n\n</think>\n\n")
    template = Template(tokenizer(closed), ThinkAnswer(), think=False)
    assert decoded(template, template.first("S", "U")).endswith("assistant\n<think>\n\n</think>\n\n<answer>")
    with pytest.raises(RequestError, match="closes the thought before an answer begins") as refused:
        Template(tokenizer(closed), ThinkAnswer())
    assert "rollout.think: false" in refused.value.fix


def test_a_template_of_plain_texts_is_not_given_lists_whose_code_it_would_write():
    picky = CHATML + "{% if messages[0].content is string %}{{ raise_exception('no texts') }}{% endif %}"
    with pytest.raises(RequestError, match="no texts"):
        Template(tokenizer(picky), ThinkAnswer())


def test_of_several_named_templates_the_default_is_used():
    template = Template(tokenizer({"tool_use": LLAMA3, "default": CHATML}), ThinkAnswer())
    assert template.first("S", "U") == TEMPLATES["chatml"].first("S", "U")


def test_a_date_is_that_of_the_start_and_prompts_grow_over_midnight():
    dated = "{{ strftime_now('%Y-%m-%d %H:%M:%S.%f') }}" + CHATML
    template = Template(tokenizer(dated), ThinkAnswer())
    today = template.layout.clock.strftime("%Y-%m-%d %H:%M:%S.%f")
    assert decoded(template, template.first("S", "U")).startswith(today + "<|im_start|>")
    assert decoded(template, template.first("S", "V")).startswith(today + "<|im_start|>")
    assert template.bridge("S", ["U", "V"], ()) == TEMPLATES["chatml"].bridge("S", ["U", "V"], ())


def test_an_answer_that_a_template_cannot_write_ends_the_run_with_its_reason():
    fussy = CHATML + "{% if 'bad' in messages[-1].content %}{{ raise_exception('too bad') }}{% endif %}"
    template = Template(tokenizer(fussy), ThinkAnswer())
    with pytest.raises(RunError, match=r"fails on turn 2 of a conversation.*too bad"):
        template.bridge("S", ["U", "bad"], ())


def test_every_token_that_may_end_a_response():
    fast = tokenizer()
    model = tiny_model(len(fast))
    model.generation_config.eos_token_id = [3, 4]
    end, turn = fast.convert_tokens_to_ids(["<|endoftext|>", "<|im_end|>"])
    assert end_ids(model, fast) == sorted({3, 4, end, turn})
    model.generation_config.eos_token_id = None
    assert end_ids(model, tokenizer(None)) == [end]

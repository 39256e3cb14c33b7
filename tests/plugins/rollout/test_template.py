from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rollout_worlds import CHATML, LLAMA3, NO_SYSTEM, THINKING, says, tiny_model, tokenizer
from uncollapse.core.components import Completion
from uncollapse.core.errors import RequestError
from uncollapse.plugins.rollout.template import Template, end_ids

FAMILIES = {"chatml": CHATML, "llama3": LLAMA3, "no_system": NO_SYSTEM}
TEMPLATES = {name: Template(tokenizer(text)) for name, text in FAMILIES.items()}


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
    template = Template(tokenizer(drops))
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
    template = Template(tokenizer(), think=False)
    assert decoded(template, template.first("S", "U")).endswith("assistant\n<answer>")


def test_a_generation_prompt_that_already_opens_the_thought_is_left_alone():
    template = Template(tokenizer(THINKING))
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
        Template(tokenizer(None))


def test_a_template_that_drops_answers_is_a_wrong_request():
    drops = CHATML.replace("for m in messages", "for m in messages if m['role'] != 'assistant'")
    with pytest.raises(RequestError, match="several turns"):
        Template(tokenizer(drops))


def test_every_token_that_may_end_a_response():
    fast = tokenizer()
    model = tiny_model(len(fast))
    model.generation_config.eos_token_id = [3, 4]
    end, turn = fast.convert_tokens_to_ids(["<|endoftext|>", "<|im_end|>"])
    assert end_ids(model, fast) == sorted({3, 4, end, turn})
    model.generation_config.eos_token_id = None
    assert end_ids(model, tokenizer(None)) == [end]

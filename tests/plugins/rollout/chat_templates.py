"""The layouts of public model families, written anew and short."""
# ruff: noqa: E501 - a template is easier to read where it is not broken

from __future__ import annotations

import attrs
from family_tokenizers import trained
from tokenizers import AddedToken, Tokenizer
from transformers import PreTrainedTokenizerFast


@attrs.frozen
class Family:
    """A chat template, the markers that its tokenizer knows, and how prompts have to end."""

    template: str
    markers: str
    """Control tokens, parted by blanks; those after ``/`` are not marked as special."""
    opens: str
    """What stands between a user's text and the answer, without the forced tag."""
    plain: str | None = None
    """The same with ``think`` off; like ``opens`` unless given."""
    kind: str = "qwen"
    bos: str = "<s>"
    eos: str = "</s>"
    folds: bool = False
    """Whether the system text has to stand in the first user message."""
    parts: bool = False
    default: str = ""
    """What stands in a prompt that has no system text."""

    def tokenizer(self, kind: str | None = None) -> PreTrainedTokenizerFast:
        special, _, others = self.markers.partition(" / ")
        words = PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer.from_str(trained(kind or self.kind)),
            bos_token=self.bos, eos_token=self.eos, additional_special_tokens=special.split(),
        )  # fmt: skip
        words.add_tokens([AddedToken(word, normalized=False) for word in others.split()])
        words.chat_template = self.template
        return words

    def opening(self, think: bool) -> str:
        return self.opens if think or self.plain is None else self.plain


def _chatml(default: str = "", generation: str = "<|im_start|>assistant\n", answer: str = "m.content") -> str:
    head = (
        "{% if messages[0].role != 'system' %}<|im_start|>system\n" + default + "<|im_end|>\n{% endif %}"
        if default
        else ""
    )
    return (
        head + "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
        "{{ " + answer + " if m.role == 'assistant' else m.content }}{{ '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '" + generation + "' }}" + "{% endif %}"
    )


_LAST = "m.content.split('</think>')[-1].lstrip('\n')"
_ALTERNATE = (
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate user/assistant/user/assistant') }}{% endif %}"
)
_SYSTEM_FIRST = (
    "{% if messages[0].role == 'system' %}{% set system = messages[0].content %}{% set rest = messages[1:] %}"
    "{% else %}{% set system = '' %}{% set rest = messages %}{% endif %}"
)
_IM = "<|endoftext|> <|im_start|> <|im_end|>"
_AFTER_IM = "<|im_end|>\n<|im_start|>assistant\n"
_SHUT = "<think>\n\n</think>\n\n"
_QWEN_IDS = {"bos": "<|endoftext|>", "eos": "<|im_end|>"}

FAMILIES = {
    "qwen2.5": Family(
        _chatml("You are a default helper."), _IM + " / <tool_call>", _AFTER_IM,
        default="<|im_start|>system\nYou are a default helper.<|im_end|>\n", **_QWEN_IDS,
    ),
    "qwen3": Family(
        _chatml(answer=_LAST) + "{% if add_generation_prompt and enable_thinking is defined and enable_thinking is false"
        " %}{{ '" + _SHUT + "' }}{% endif %}",
        _IM + " / <think> </think> <tool_call>", _AFTER_IM, _AFTER_IM + _SHUT, **_QWEN_IDS,
    ),
    "qwen3.5": Family(
        _chatml(answer="(" + _LAST + ") | trim").removesuffix("{% endif %}")
        + "{{ '" + _SHUT + "' if enable_thinking is defined and not enable_thinking else '<think>\n' }}{% endif %}",
        _IM + " / <think> </think>", _AFTER_IM + "<think>\n", _AFTER_IM + _SHUT, **_QWEN_IDS,
    ),
    "qwq": Family(
        _chatml("Think first.", "<|im_start|>assistant\n<think>\n", _LAST), _IM + " / <think> </think>",
        _AFTER_IM + "<think>\n", _AFTER_IM, default="<|im_start|>system\nThink first.<|im_end|>\n", **_QWEN_IDS,
    ),
    "smollm2": Family(
        _chatml("You are SmolLM, small."), _IM, _AFTER_IM, kind="gpt2",
        default="<|im_start|>system\nYou are SmolLM, small.<|im_end|>\n", bos="<|im_start|>", eos="<|im_end|>",
    ),
    "smollm3": Family(
        _SYSTEM_FIRST + "{% set mode = '/no_think' if enable_thinking is defined and not enable_thinking else '/think' %}"
        "<|im_start|>system\n## Metadata\n\nToday Date: {{ strftime_now('%d %B %Y') }}\nReasoning Mode: {{ mode }}\n\n"
        "## Custom Instructions\n\n{{ system or 'You are SmolLM.' }}<|im_end|>\n"
        "{% for m in rest %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' and mode == '/no_think' %}"
        "{{ '" + _SHUT + "' }}{% endif %}{{ m.content + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% if mode == '/no_think' %}{{ '" + _SHUT
        + "' }}{% endif %}{% endif %}",
        _IM + " / <think> </think>", _AFTER_IM, _AFTER_IM + _SHUT, **_QWEN_IDS,
    ),
    "yi": Family(_chatml(), _IM, _AFTER_IM, kind="plain", bos="<s>", eos="<|im_end|>"),
    "internlm2": Family("{{ bos_token }}" + _chatml(), _IM, _AFTER_IM, kind="legacy", eos="<|im_end|>"),
    "llama2": Family(
        _SYSTEM_FIRST + "{% for m in rest %}" + _ALTERNATE + "{% if loop.index0 == 0 and system %}"
        "{% set text = '<<SYS>>\n' + system + '\n<</SYS>>\n\n' + m.content %}{% else %}{% set text = m.content %}"
        "{% endif %}{% if m.role == 'user' %}{{ bos_token + '[INST] ' + text.strip() + ' [/INST]' }}"
        "{% else %}{{ ' ' + text.strip() + ' ' + eos_token }}{% endif %}{% endfor %}",
        "", " [/INST] ", kind="legacy",
    ),
    "llama3": Family(
        "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' }}"
        "{{ m.content | trim }}<|eot_id|>{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}",
        "<|begin_of_text|> <|start_header_id|> <|end_header_id|> <|eot_id|>",
        "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n", bos="<|begin_of_text|>", eos="<|eot_id|>",
    ),
    "llama3.1": Family(
        _SYSTEM_FIRST + "{{ bos_token }}{% set date = date_string or strftime_now('%d %b %Y') %}"
        "{{ '<|start_header_id|>system<|end_header_id|>\n\nToday Date: ' + date + '\n\n' + system | trim }}<|eot_id|>"
        "{% for m in rest %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + m.content | trim }}<|eot_id|>"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}",
        "<|begin_of_text|> <|start_header_id|> <|end_header_id|> <|eot_id|>",
        "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n", bos="<|begin_of_text|>", eos="<|eot_id|>",
    ),
    "mistral-v0.1": Family(
        "{{ bos_token }}{% for m in messages %}" + _ALTERNATE + "{% if m.role == 'user' %}"
        "{{ '[INST] ' + m.content + ' [/INST]' }}{% else %}{{ m.content + eos_token }}{% endif %}{% endfor %}",
        "", " [/INST]", kind="legacy", folds=True,
    ),
    "mistral-v0.3": Family(
        _SYSTEM_FIRST + "{{ bos_token }}{% for m in rest %}" + _ALTERNATE + "{% if m.role == 'user' %}"
        "{% if loop.last and system %}{{ '[INST] ' + system + '\n\n' + m.content + '[/INST]' }}"
        "{% else %}{{ '[INST] ' + m.content + '[/INST]' }}{% endif %}"
        "{% else %}{{ ' ' + m.content | trim + eos_token }}{% endif %}{% endfor %}",
        "[INST] [/INST]", "[/INST] ", kind="always", folds=True,
    ),
    "mistral-nemo": Family(
        _SYSTEM_FIRST + "{{ bos_token }}{% for m in rest %}{% if m.role == 'user' %}"
        "[INST]{% if loop.last and system %}{{ system + '\n\n' }}{% endif %}{{ m.content }}[/INST]"
        "{% else %}{{ m.content | trim + eos_token }}{% endif %}{% endfor %}",
        "<s> </s> [INST] [/INST]", "[/INST]", folds=True,
    ),
    "mistral-small": Family(
        _SYSTEM_FIRST + "{{ bos_token }}[SYSTEM_PROMPT]{{ system or 'Today is ' + strftime_now('%Y-%m-%d') }}"
        "[/SYSTEM_PROMPT]{% for m in rest %}{% if m.role == 'user' %}[INST]{{ m.content }}[/INST]"
        "{% else %}{{ m.content + eos_token }}{% endif %}{% endfor %}",
        "<s> </s> [INST] [/INST] [SYSTEM_PROMPT] [/SYSTEM_PROMPT]", "[/INST]",
    ),
    "gemma": Family(
        "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
        "{% for m in messages %}" + _ALTERNATE + "{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) }}"
        "{{ '\n' + m.content | trim + '<end_of_turn>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}",
        "<bos> <eos> <start_of_turn> <end_of_turn>", "<end_of_turn>\n<start_of_turn>model\n",
        kind="plain", bos="<bos>", eos="<eos>", folds=True,
    ),
    "gemma3": Family(
        _SYSTEM_FIRST + "{{ bos_token }}{% for m in rest %}" + _ALTERNATE
        + "{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' }}"
        "{% if loop.first and system %}{{ system + '\n\n' }}{% endif %}"
        "{% if m.content is string %}{{ m.content | trim }}{% else %}{{ m.content[0].text | trim }}{% endif %}"
        "{{ '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}",
        "<bos> <eos> <start_of_turn> <end_of_turn>", "<end_of_turn>\n<start_of_turn>model\n",
        kind="plain", bos="<bos>", eos="<eos>",
    ),
    "phi3": Family(
        "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}",
        "<|endoftext|> <|system|> <|user|> <|assistant|> <|end|>", "<|end|>\n<|assistant|>\n",
        kind="always", eos="<|endoftext|>",
    ),
    "phi4": Family(
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '<|im_sep|>' + m.content + '<|im_end|>' }}{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant<|im_sep|>{% endif %}",
        _IM + " <|im_sep|>", "<|im_end|><|im_start|>assistant<|im_sep|>", **_QWEN_IDS,
    ),
    "phi4-mini": Family(
        "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content + '<|end|>' }}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% else %}{{ eos_token }}{% endif %}",
        "<|endoftext|> <|system|> <|user|> <|assistant|> <|end|>", "<|end|><|assistant|>", eos="<|endoftext|>",
    ),
    "deepseek-v2": Family(
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ 'User: ' + m.content + '\n\n' }}"
        "{% elif m.role == 'assistant' %}{{ 'Assistant: ' + m.content + eos_token }}"
        "{% else %}{{ m.content + '\n\n' }}{% endif %}{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}",
        "<｜begin▁of▁sentence｜> <｜end▁of▁sentence｜>", "\n\nAssistant: ",
        bos="<｜begin▁of▁sentence｜>", eos="<｜end▁of▁sentence｜>",
    ),
    "deepseek-r1": Family(
        _SYSTEM_FIRST + "{{ bos_token + system }}{% for m in rest %}{% if m.role == 'user' %}{{ '<｜User｜>' + m.content }}"
        "{% else %}{{ '<｜Assistant｜>' + m.content.split('</think>')[-1] + '<｜end▁of▁sentence｜>' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<｜Assistant｜><think>\n' }}{% endif %}",
        "<｜begin▁of▁sentence｜> <｜end▁of▁sentence｜> / <｜User｜> <｜Assistant｜> <think> </think>",
        "<｜Assistant｜><think>\n", "<｜Assistant｜>", bos="<｜begin▁of▁sentence｜>", eos="<｜end▁of▁sentence｜>",
    ),
    "deepseek-v3.1": Family(
        _SYSTEM_FIRST + "{{ bos_token + system }}{% for m in rest %}{% if m.role == 'user' %}{{ '<｜User｜>' + m.content }}"
        "{% else %}{{ '<｜Assistant｜></think>' + m.content.split('</think>')[-1] + '<｜end▁of▁sentence｜>' }}{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}<｜Assistant｜>{{ '<think>' if thinking else '</think>' }}{% endif %}",
        "<｜begin▁of▁sentence｜> <｜end▁of▁sentence｜> / <｜User｜> <｜Assistant｜> <think> </think>",
        "<｜Assistant｜><think>", "<｜Assistant｜></think>", bos="<｜begin▁of▁sentence｜>", eos="<｜end▁of▁sentence｜>",
    ),
    "gpt-oss": Family(
        _SYSTEM_FIRST + "<|start|>system<|message|>You are a large model.\nCurrent date: {{ strftime_now('%Y-%m-%d') }}\n\n"
        "Reasoning: {{ reasoning_effort or 'medium' }}<|end|>"
        "{% if system %}{{ '<|start|>developer<|message|># Instructions\n\n' + system + '\n\n<|end|>' }}{% endif %}"
        "{% for m in rest %}{% if m.role == 'user' %}{{ '<|start|>user<|message|>' + m.content + '<|end|>' }}{% else %}"
        "{% if m.thinking %}{{ '<|start|>assistant<|channel|>analysis<|message|>' + m.thinking + '<|end|>' }}{% endif %}"
        "{{ '<|start|>assistant<|channel|>final<|message|>' + m.content }}"
        "{{ '<|return|>' if loop.last and not add_generation_prompt else '<|end|>' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|start|>assistant{% endif %}",
        "<|startoftext|> <|return|> <|start|> <|end|> <|message|> <|channel|>",
        "<|end|><|start|>assistant<|channel|>final<|message|>", bos="<|startoftext|>", eos="<|return|>",
    ),
    "command-r": Family(
        _SYSTEM_FIRST + "{{ bos_token }}{% if system %}<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>{{ system }}"
        "<|END_OF_TURN_TOKEN|>{% endif %}{% for m in rest %}" + _ALTERNATE + "<|START_OF_TURN_TOKEN|>"
        "{{ '<|USER_TOKEN|>' if m.role == 'user' else '<|CHATBOT_TOKEN|>' }}{{ m.content.strip() }}<|END_OF_TURN_TOKEN|>"
        "{% endfor %}{% if add_generation_prompt %}<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>{% endif %}",
        "<BOS_TOKEN> <|START_OF_TURN_TOKEN|> <|END_OF_TURN_TOKEN|> <|SYSTEM_TOKEN|> <|USER_TOKEN|> <|CHATBOT_TOKEN|>",
        "<|END_OF_TURN_TOKEN|><|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>", bos="<BOS_TOKEN>", eos="<|END_OF_TURN_TOKEN|>",
    ),
    "cohere2": Family(
        _SYSTEM_FIRST + "{{ bos_token }}<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|># System Preamble{{ '\n' + system }}"
        "<|END_OF_TURN_TOKEN|>{% for m in rest %}<|START_OF_TURN_TOKEN|>"
        "{% if m.role == 'user' %}<|USER_TOKEN|>{{ m.content }}<|END_OF_TURN_TOKEN|>{% else %}"
        "<|CHATBOT_TOKEN|><|START_RESPONSE|>{{ m.content }}<|END_RESPONSE|><|END_OF_TURN_TOKEN|>{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>{% endif %}",
        "<BOS_TOKEN> <|START_OF_TURN_TOKEN|> <|END_OF_TURN_TOKEN|> <|SYSTEM_TOKEN|> <|USER_TOKEN|> <|CHATBOT_TOKEN|>"
        " / <|START_RESPONSE|> <|END_RESPONSE|>",
        "<|END_OF_TURN_TOKEN|><|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|><|START_RESPONSE|>",
        bos="<BOS_TOKEN>", eos="<|END_OF_TURN_TOKEN|>",
    ),
    "glm4": Family(
        "[gMASK]<sop>{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content }}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}",
        "<|endoftext|> [gMASK] <sop> <|system|> <|user|> <|assistant|>", "<|assistant|>\n",
        bos="<|endoftext|>", eos="<|endoftext|>",
    ),
    "glm4.5": Family(
        "[gMASK]<sop>{% for m in messages %}{{ '<|' + m.role + '|>\n' }}{% if m.role == 'assistant' %}"
        "{{ '<think></think>\n' + m.content.split('</think>')[-1].strip() }}{% else %}{{ m.content }}"
        "{% if m.role == 'user' and enable_thinking is defined and not enable_thinking %}/nothink{% endif %}{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}<|assistant|>"
        "{{ '\n<think></think>' if enable_thinking is defined and not enable_thinking else '' }}{% endif %}",
        "<|endoftext|> [gMASK] <sop> <|system|> <|user|> <|assistant|> / <think> </think>",
        "<|assistant|>\n", "/nothink<|assistant|>\n<think></think>\n", bos="<|endoftext|>", eos="<|endoftext|>",
    ),
    "granite3": Family(
        "{% if messages[0].role != 'system' %}{{ '<|start_of_role|>system<|end_of_role|>You are Granite.<|end_of_text|>\n' }}"
        "{% endif %}{% for m in messages %}"
        "{{ '<|start_of_role|>' + m.role + '<|end_of_role|>' + m.content + '<|end_of_text|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}<|start_of_role|>assistant<|end_of_role|>{% endif %}",
        "<|end_of_text|> <|start_of_role|> <|end_of_role|>",
        "<|end_of_text|>\n<|start_of_role|>assistant<|end_of_role|>", kind="gpt2",
        bos="<|end_of_text|>", eos="<|end_of_text|>",
        default="<|start_of_role|>system<|end_of_role|>You are Granite.<|end_of_text|>\n",
    ),
    "granite3.2": Family(
        _SYSTEM_FIRST + "<|start_of_role|>system<|end_of_role|>{{ system or 'You are Granite.' }}"
        "{% if thinking %}{{ ' Write your thoughts down first.' }}{% endif %}{{ '<|end_of_text|>\n' }}{% for m in rest %}"
        "{{ '<|start_of_role|>' + m.role + '<|end_of_role|>' + m.content + '<|end_of_text|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}<|start_of_role|>assistant<|end_of_role|>{% endif %}",
        "<|end_of_text|> <|start_of_role|> <|end_of_role|>",
        "<|end_of_text|>\n<|start_of_role|>assistant<|end_of_role|>", kind="gpt2",
        bos="<|end_of_text|>", eos="<|end_of_text|>",
    ),
    "zephyr": Family(
        "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + eos_token + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}",
        "", "</s>\n<|assistant|>\n", kind="legacy",
    ),
    "vicuna": Family(
        _SYSTEM_FIRST + "{{ system or 'A chat between a user and an assistant.' }}{% for m in rest %}"
        "{% if m.role == 'user' %}{{ ' USER: ' + m.content }}{% else %}{{ ' ASSISTANT: ' + m.content + eos_token }}"
        "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ ' ASSISTANT:' }}{% endif %}",
        "", " ASSISTANT: ", kind="first", default="A chat between a user and an assistant. USER:",
    ),
    "falcon3": Family(
        "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content }}{% if m.role == 'assistant' %}{{ eos_token }}"
        "{% endif %}{{ '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}",
        "<|endoftext|> / <|system|> <|user|> <|assistant|>", "\n<|assistant|>\n",
        bos="<|endoftext|>", eos="<|endoftext|>",
    ),
    "olmo2": Family(
        "{{ bos_token }}{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content }}"
        "{% if m.role == 'assistant' %}{{ eos_token if loop.last else eos_token + '\n' }}{% else %}{{ '\n' }}{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}",
        "<|endoftext|>", "\n<|assistant|>\n", kind="gpt2", bos="<|endoftext|>", eos="<|endoftext|>",
    ),
    "openchat": Family(
        "{{ bos_token }}{% for m in messages %}"
        "{{ 'GPT4 Correct ' + m.role.title() + ': ' + m.content + '<|end_of_turn|>' }}{% endfor %}"
        "{% if add_generation_prompt %}GPT4 Correct Assistant:{% endif %}",
        "<|end_of_turn|>", "<|end_of_turn|>GPT4 Correct Assistant: ", kind="legacy", eos="<|end_of_turn|>",
    ),
    "solar": Family(
        "{% for m in messages %}{{ '### ' + m.role.title() + ':\n' + m.content + '\n\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '### Assistant:\n' }}{% endif %}",
        "", "\n\n### Assistant:\n", kind="unigram",
    ),
    "exaone": Family(
        "{% if messages[0].role != 'system' %}{{ '[|system|][|endofturn|]\n' }}{% endif %}"
        "{% for m in messages %}{{ '[|' + m.role + '|]' + m.content }}{{ '\n' if m.role == 'user' else '[|endofturn|]\n' }}"
        "{% endfor %}{% if add_generation_prompt %}[|assistant|]{% endif %}",
        "[BOS] [|endofturn|] [|system|] [|user|] [|assistant|]", "\n[|assistant|]", bos="[BOS]", eos="[|endofturn|]",
        default="[|system|][|endofturn|]\n",
    ),
    "kimi": Family(
        "{% for m in messages %}{{ '<|im_' + m.role + '|>' + m.role + '<|im_middle|>' + m.content + '<|im_end|>' }}"
        "{% endfor %}{% if add_generation_prompt %}<|im_assistant|>assistant<|im_middle|>{% endif %}",
        "[BOS] <|im_end|> <|im_system|> <|im_user|> <|im_assistant|> <|im_middle|>",
        "<|im_end|><|im_assistant|>assistant<|im_middle|>", bos="[BOS]", eos="<|im_end|>",
    ),
    "llava": Family(
        "{% for m in messages %}{% if m.role != 'system' %}{{ m.role.upper() + ': ' }}{% endif %}"
        "{% for part in m.content if part.type == 'image' %}{{ '<image>\n' }}{% endfor %}"
        "{% for part in m.content %}{% if part['type'] == 'text' %}{{ part['text'] + ' ' }}{% endif %}{% endfor %}"
        "{{ m.content[0]['text'][:0] }}"
        "{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}",
        "<image>", " ASSISTANT: ", kind="legacy", parts=True,
    ),
}  # fmt: skip

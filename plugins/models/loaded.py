"""A model that is loaded here, to judge or to play an opponent, answers what many threads ask in batches."""

from __future__ import annotations

import functools
import os
import queue
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import attrs
import torch

from ...core.control_tokens import TextEncoder
from ...core.errors import RequestError
from ...core.tokenizers import stated_tokenizer
from .replies import Reply

_WINDOW_S = 0.005
"""The time in seconds for which a batch waits for more prompts after its first one."""


@attrs.frozen
class _Asked:
    texts: tuple[str, ...]
    max_tokens: int
    reply: Future[Reply] = attrs.field(factory=Future)


class LoadedModel:
    """A causal language model whose thread gathers the prompts of a few milliseconds, and answers them together.

    Replies are decoded greedily. Prompts are padded on the left.
    """

    def __init__(
        self, path: str, device: str | None, batch: int, role: str = "a judge", key: str = "judge.model"
    ) -> None:
        from transformers import AutoModelForCausalLM

        place = _device(device)
        dtype = torch.float32 if place == "cpu" else torch.bfloat16
        try:
            self.tokenizer = stated_tokenizer(path)
            model: Any = AutoModelForCausalLM.from_pretrained(path, trust_remote_code=False, dtype=dtype)
            self.model = model.to(place).eval()
        except (OSError, ValueError, RuntimeError, ImportError) as error:
            reason = str(error).partition("\n")[0]
            raise RequestError(
                f"the model {path} of {role} cannot be loaded: {reason}", key, "give a causal language model"
            ) from error
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token or self.tokenizer.convert_ids_to_tokens(0)
        self.encoder = TextEncoder(self.tokenizer, self.tokenizer.chat_template or "")
        self.batch = batch
        self.sizes: list[int] = []
        """The number of prompts of each batch."""
        self._asked: queue.SimpleQueue[_Asked] = queue.SimpleQueue()
        threading.Thread(target=self._serve, name=f"model {path}", daemon=True).start()

    def ask(self, texts: Sequence[str], max_tokens: int) -> Reply:
        """Return the reply to the last of the texts of a chat, which waits for others to be answered with it.

        Args:
            texts: those of the user and of the model in turn; the first and the last one are the user's.
            max_tokens: the largest number of tokens of the reply.
        """
        asked = _Asked(tuple(texts), max_tokens)
        self._asked.put(asked)
        return asked.reply.result()

    def _tokens(self, texts: Sequence[str]) -> list[int]:
        """Return the tokens of the texts as messages of a chat, if the tokenizer has a template for one, else as lines.

        A control token that stands in a text is spelled there: an answer cannot write the end of its message.
        """
        quoted = [self.encoder.quote(text) for text in texts]
        if self.tokenizer.chat_template is None:
            return list(self.encoder.encode("\n".join(quoted)))
        roles = ("user", "assistant")
        messages = [{"role": roles[number % 2], "content": text} for number, text in enumerate(quoted)]
        written: str = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return list(self.encoder.encode(written))

    def _serve(self) -> None:
        while True:
            gathered = self._gathered()
            for max_tokens in sorted({each.max_tokens for each in gathered}):
                asked = [each for each in gathered if each.max_tokens == max_tokens]
                try:
                    replies = self._answer([each.texts for each in asked], max_tokens)
                except Exception as error:
                    for each in asked:
                        each.reply.set_exception(error)
                else:
                    for each, reply in zip(asked, replies, strict=True):
                        each.reply.set_result(reply)

    def _gathered(self) -> list[_Asked]:
        """Wait for a prompt, and a little longer for others."""
        asked = [self._asked.get()]
        end = time.monotonic() + _WINDOW_S
        while len(asked) < self.batch:
            try:
                asked.append(self._asked.get(timeout=max(0.0, end - time.monotonic())))
            except queue.Empty:
                break
        return asked

    def _answer(self, prompts: list[tuple[str, ...]], max_tokens: int) -> list[Reply]:
        """Return the replies to the texts of chats; that of one which is too long is missing."""
        # only this thread asks the tokenizer, which cannot be used by two at once
        tokens = [self._tokens(texts) for texts in prompts]
        longest = getattr(self.model.config, "max_position_embeddings", None) or float("inf")
        fitting = [number for number, ids in enumerate(tokens) if 0 < len(ids) <= longest - max_tokens]
        missing = f"the prompt is empty, or leaves no room for {max_tokens} tokens in a context of {longest}"
        replies = [Reply(missing=missing)] * len(prompts)
        if fitting:
            texts = self._generated([tokens[number] for number in fitting], max_tokens)
            for number, text in zip(fitting, texts, strict=True):
                replies[number] = Reply(text)
        return replies

    @torch.inference_mode()
    def _generated(self, tokens: list[list[int]], max_tokens: int) -> list[str]:
        """Return what the model says after each prompt."""
        self.sizes.append(len(tokens))
        inputs = self.tokenizer.pad({"input_ids": tokens}, return_tensors="pt", padding_side="left")
        sampled = self.model.generate(
            input_ids=inputs["input_ids"].to(self.model.device),
            attention_mask=inputs["attention_mask"].to(self.model.device),
            max_new_tokens=max_tokens,
            do_sample=False,
            num_beams=1,
            temperature=None,
            top_p=None,
            top_k=None,
            pad_token_id=self.tokenizer.pad_token_id,
        )
        texts: list[str] = self.tokenizer.batch_decode(
            sampled[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True
        )
        return texts


def loaded(path: str, device: str | None, batch: int, role: str = "a judge", key: str = "judge.model") -> LoadedModel:
    """Return the model of this process, which is loaded once. Raises RequestError if it cannot be.

    Args:
        path: a directory, or a name on the hub.
        device: its device; ``None`` for the GPU of this process's rank, if there is one.
        batch: the largest number of prompts that are answered together.
        role: what the model is used for, for messages.
        key: the parameter that names it, for messages.
    """
    with _LOCK:
        return _loaded(os.getpid(), str(Path(path).expanduser()), device, batch, role, key)


@functools.lru_cache(4)
def _loaded(process: int, path: str, device: str | None, batch: int, role: str, key: str) -> LoadedModel:
    return LoadedModel(path, device, batch, role, key)


def _device(device: str | None) -> str:
    """Return the device: by default the GPU of this process's rank, if there is one."""
    if device is not None:
        return device
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"


_LOCK = threading.Lock()

"""A judge that is loaded here answers the prompts of many threads in batches."""

from __future__ import annotations

import functools
import os
import queue
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import attrs
import torch

from ...core.errors import RequestError
from ...core.tokenizers import stated_tokenizer
from .judge_cache import Reply

_WINDOW_S = 0.005
"""The time in seconds for which a batch waits for more prompts after its first one."""


@attrs.frozen
class _Asked:
    prompt: str
    max_tokens: int
    reply: Future[Reply] = attrs.field(factory=Future)


class LoadedJudge:
    """A causal language model whose thread gathers the prompts of a few milliseconds, and answers them together.

    Replies are decoded greedily. Prompts are padded on the left.
    """

    def __init__(self, path: str, device: str | None, batch: int) -> None:
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
                f"the model {path} of a judge cannot be loaded: {reason}", "judge.model", "give a causal language model"
            ) from error
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token or self.tokenizer.convert_ids_to_tokens(0)
        self.batch = batch
        self.sizes: list[int] = []
        """The number of prompts of each batch."""
        self._asked: queue.SimpleQueue[_Asked] = queue.SimpleQueue()
        threading.Thread(target=self._serve, name=f"judge {path}", daemon=True).start()

    def ask(self, prompt: str, max_tokens: int) -> Reply:
        """Return the reply to a prompt, which waits for others to be answered with it."""
        asked = _Asked(self._written(prompt), max_tokens)
        self._asked.put(asked)
        return asked.reply.result()

    def _written(self, prompt: str) -> str:
        """Return the prompt as a message of a chat, if the tokenizer has a template for one."""
        if self.tokenizer.chat_template is None:
            return prompt
        messages = [{"role": "user", "content": prompt}]
        written: str = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return written

    def _serve(self) -> None:
        while True:
            gathered = self._gathered()
            for max_tokens in sorted({each.max_tokens for each in gathered}):
                asked = [each for each in gathered if each.max_tokens == max_tokens]
                try:
                    replies = self._answer([each.prompt for each in asked], max_tokens)
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

    def _answer(self, prompts: list[str], max_tokens: int) -> list[Reply]:
        """Return the replies to prompts; that of one which is too long is missing."""
        # only this thread asks the tokenizer, which cannot be used by two at once
        tokens = [self.tokenizer(prompt, add_special_tokens=False)["input_ids"] for prompt in prompts]
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


def loaded(path: str, device: str | None, batch: int) -> LoadedJudge:
    """Return the model of this process, which is loaded once. Raises RequestError if it cannot be."""
    with _LOCK:
        return _loaded(os.getpid(), str(Path(path).expanduser()), device, batch)


@functools.lru_cache(4)
def _loaded(process: int, path: str, device: str | None, batch: int) -> LoadedJudge:
    return LoadedJudge(path, device, batch)


def _device(device: str | None) -> str:
    """Return the device: by default the GPU of this process's rank, if there is one."""
    if device is not None:
        return device
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"


_LOCK = threading.Lock()

"""The model builder ``gguf`` turns a GGUF file, as llama.cpp runs it, into a Hugging Face model that can be trained."""

from __future__ import annotations

import importlib.util
from collections.abc import Collection, Iterator, Sequence
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from textwrap import shorten
from typing import Any, ClassVar, Literal

import attrs
from attrs.validators import in_

from ....core.components import Dialogue, Environment, ModelBuilder
from ....core.errors import MissingExtraError, RequestError, UncollapseError
from ....core.paths import expanded, read_text
from ...rollout.layout import Layout
from ...training.networks.model_folder import check_finite
from ...training.processes.quiet import only_errors
from .gguf_header import Header, read_header
from .pre_tokenizers import keep_tokens, split_as_trained

DTYPES = ("float32", "bfloat16", "float16")


@attrs.frozen
class Gguf(ModelBuilder):
    """A pretrained model from a GGUF file: its weights, dequantised, its tokenizer and its chat template.

    The file is read by transformers, once; the model is then kept in the cache for all experiments, in ``dtype``.
    Quantised weights stay as coarse as they were: the model starts where the quantised one is, and is trained from
    there in full precision.

    Architectures are those that transformers reads from GGUF. The tokenizer splits text as ``tokenizer.ggml.pre`` of
    the file says, of which transformers 5.19 knows some.
    """

    for_any_task: ClassVar[bool] = True

    path: str
    """The GGUF file."""
    chat_template: str | None = None
    """A file with the chat template (Jinja), for a GGUF file without one, or in place of its own."""
    dtype: Literal["float32", "bfloat16", "float16"] = attrs.field(default="float32", validator=in_(DTYPES))
    """Type in which the weights are kept. float32 holds every quantised weight exactly, and needs twice the room."""

    def check(self, experiment: Any) -> Iterator[str]:
        """Yield the reason why the file cannot be trained from."""
        try:
            self._header()
        except UncollapseError as error:
            yield ": ".join(filter(None, (f"{error.what} ({error.where})" if error.where else error.what, error.fix)))

    def sources(self) -> Sequence[Path]:
        return [expanded(name) for name in (self.path, self.chat_template) if name is not None]

    def build(self, directory: Path, environment: Environment, dialogue: Dialogue) -> None:
        """Write the dequantised model.

        Raises:
            MissingExtraError: the package gguf is not installed.
            RequestError: the file is none, is damaged, or holds a model that cannot be read, or none that can chat.
        """
        header = self._header()
        save(expanded(self.path), header, directory, self.dtype, self.chat_template)

    def _template(self) -> str | None:
        return None if self.chat_template is None else read_text(self.chat_template)

    def _header(self) -> Header:
        require_gguf()
        header = read_header(expanded(self.path))
        if not (header.chat_template or self._template()):
            raise RequestError(
                "the GGUF file has no chat template, so it is no model that answers",
                self.path,
                "give chat_template=FILE with one, or the GGUF file of an instruction model",
            )
        return header


def require_gguf() -> None:
    """Raise MissingExtraError if the package that reads GGUF files is not installed."""
    if importlib.util.find_spec("gguf") is None:
        raise MissingExtraError("the package gguf is not installed", "model.build", "pip install 'uncollapse[gguf]'")


def save(file: Path, header: Header, directory: Path, dtype: str, chat_template: str | None = None) -> None:
    """Write the model of a GGUF file as a Hugging Face model with tokenizer and chat template.

    Args:
        chat_template: the file of a template in place of that of the GGUF file.

    Raises:
        RequestError: transformers cannot read the weights or the tokenizer, or the chat template cannot be used.
    """
    model, tokenizer = _read(file, header, dtype)
    split_as_trained(tokenizer, header.pre)
    keep_tokens(tokenizer, model.get_input_embeddings().num_embeddings)
    if chat_template is not None:
        tokenizer.chat_template = read_text(chat_template)
    _require_layout(tokenizer, chat_template or str(file))
    # a model that says what it was made from would be sought there
    model.config._name_or_path = ""
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def _read(file: Path, header: Header, dtype: str) -> tuple[Any, Any]:
    """Return the model and the tokenizer of a GGUF file. Raises RequestError if they are not whole."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.quantization_config import GgufConfig

    folder, name = str(file.parent), file.name
    try:
        # the bars that it draws meanwhile cannot be switched off
        with redirect_stderr(StringIO()), only_errors():
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                folder,
                gguf_file=name,
                dtype=getattr(torch, dtype),
                quantization_config=GgufConfig(dequantize=True),
                output_loading_info=True,
            )
            tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
            tokenizer.encode("a 1")
        model, report = loaded
    except Exception as error:  # a damaged file can fail anywhere in the libraries that read it
        raise RequestError(
            f"transformers cannot read this GGUF file: {type(error).__name__}: {shorten(str(error), 300)}",
            str(file),
            "give another file of the model, for example one with Q8_0 or F16 weights",
        ) from error
    _require_whole(model, report["missing_keys"], header, file)
    check_finite(model.named_parameters(), file, str(file))
    return model, tokenizer


def _require_whole(model: Any, missing: Collection[str], header: Header, file: Path) -> None:
    """Refuse a file of which transformers fills weights in at random, or drops some: the model is another one then."""
    if missing:
        what = f"the GGUF file has no weights for {len(missing)} parameters, e.g. {min(missing)}"
        raise RequestError(what, str(file), "download it again, or give another file of the model")
    surplus = header.numbers - sum(weight.numel() for weight in model.parameters())
    if surplus > 0:
        what = f"transformers reads all but {surplus:,} of the {header.numbers:,} numbers in the GGUF file"
        raise RequestError(what, str(file), "give the Hugging Face model that it was made from as model.path")


def _require_layout(tokenizer: Any, where: str) -> None:
    """Raise RequestError if no conversation can be written by the chat template, before the model is kept."""
    try:
        Layout(tokenizer, think=True)
    except RequestError as error:
        fix = "give chat_template=FILE with a template that writes messages of the user and answers, as they are"
        raise RequestError(error.what, where, fix) from error

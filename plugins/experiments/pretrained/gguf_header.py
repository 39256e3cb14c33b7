"""The header of a GGUF file says what model it holds; a file that cannot be trained from is refused by it at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs

from ....core.errors import RequestError
from .pre_tokenizers import RULES

MAGIC = b"GGUF"
ENCODERS = ("t5", "t5encoder", "umt5")
"""Architectures that transformers reads, and that are no causal language models."""
HOW = "give the path of a .gguf file"


@attrs.frozen
class Header:
    """What a GGUF file says of its model."""

    architecture: str
    pre: str
    """Name of the rule by which text is split before it is encoded; empty if the file names none."""
    chat_template: str
    numbers: int
    """How many numbers its weights have, but for those that are computed from its settings."""


def read_header(file: Path) -> Header:
    """Read the header of a GGUF file, not its weights.

    Raises:
        RequestError: there is no such file, it is no GGUF file or a damaged one, or transformers knows no such
            architecture or type of weights.
    """
    from gguf import GGUFReader

    _require_gguf_file(file)
    try:
        reader = GGUFReader(file)
    except Exception as error:  # the package checks little, so a damaged file fails with any type
        raise RequestError(
            f"the GGUF file is damaged, or newer than the package gguf: {type(error).__name__}: {error}",
            str(file),
            "download it again, or upgrade gguf",
        ) from error
    header = Header(
        architecture=_text(reader, "general.architecture"),
        pre=_text(reader, "tokenizer.ggml.pre"),
        chat_template=_text(reader, "tokenizer.chat_template"),
        numbers=sum(int(tensor.n_elements) for tensor in reader.tensors if not tensor.name.startswith("rope_")),
    )
    _require_known(header, reader, file)
    return header


def _require_gguf_file(file: Path) -> None:
    if not file.is_file():
        what = "that is a folder" if file.is_dir() else "there is no such file"
        raise RequestError(f"cannot read a GGUF file: {what}", str(file), HOW)
    try:
        with file.open("rb") as opened:
            magic = opened.read(4)
    except OSError as error:
        raise RequestError(f"cannot read the GGUF file: {error.strerror}", str(file), HOW) from error
    if magic != MAGIC:
        raise RequestError("that is no GGUF file (it does not begin with GGUF)", str(file), HOW)


def _text(reader: Any, key: str) -> str:
    field = reader.fields.get(key)
    value = "" if field is None else field.contents()
    return value if isinstance(value, str) else ""


def _require_known(header: Header, reader: Any, file: Path) -> None:
    """Refuse an unknown architecture, an unknown way to split text, and weights that nothing dequantises."""
    from gguf.constants import GGMLQuantizationType
    from gguf.quants import _type_traits
    from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES

    known = set(GGUF_SUPPORTED_ARCHITECTURES) - {"general", "tokenizer", *ENCODERS}
    if header.architecture not in known:
        raise RequestError(
            f"transformers reads no GGUF file of the architecture {header.architecture or '(none)'!r}",
            str(file),
            f"give the Hugging Face model that it was made from as model.path; it reads {', '.join(sorted(known))}",
        )
    if header.pre not in RULES:
        raise RequestError(
            f"the rule {header.pre!r} (tokenizer.ggml.pre) by which this model splits text is not known here",
            str(file),
            "give the Hugging Face model that it was made from as model.path",
        )
    plain = {GGMLQuantizationType.F32, GGMLQuantizationType.F16}
    unknown = sorted(
        {tensor.tensor_type.name for tensor in reader.tensors} - {kind.name for kind in (*plain, *_type_traits)}
    )
    if unknown:
        raise RequestError(
            f"weights of type {', '.join(unknown)} cannot be dequantised",
            str(file),
            "give another file of the model, for example one with Q8_0 or F16 weights",
        )

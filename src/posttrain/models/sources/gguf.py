"""A GGUF file (llama.cpp's format), converted once to a cached float32 folder and read from there afterwards.

transformers unpacks the blocks and knows the architectures; what it leaves out is added here: the split into single
digits that some vocabularies were learned with. The cache is keyed by the file's content.
"""

from __future__ import annotations

import io
import json
import math
import mmap
import struct
import sys
from contextlib import redirect_stderr
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from posttrain.core import catalog, events, files
from posttrain.core.errors import BadRequest, Failure, did_you_mean
from posttrain.models.language_model import LanguageModel
from posttrain.models.saving import write
from posttrain.models.sources import Source, first_wins, quiet

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Part of the cache's key: raise it when a conversion would give other files than before.
_CONVERSION = 1

# `tokenizer.ggml.pre` of vocabularies whose text is cut at every digit before the GPT-2 pattern is applied.
_SINGLE_DIGITS = {"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"}

# struct formats of the fixed-size metadata types by their number in the specification; 8 is a string, 9 an array.
_FORMATS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


class Gguf(Source):
    """A GGUF file; `reference` is its path."""

    def load(
        self, *, device: torch.device, dtype: torch.dtype | None, network_class: str | None = None
    ) -> LanguageModel:
        """See `Source.load`. The first load of a file takes seconds and writes 4 bytes a parameter to the cache."""
        path = Path(self.reference).expanduser()
        if not path.is_file():
            near = [str(other) for other in path.parent.glob("*.gguf")] if path.parent.is_dir() else []
            raise BadRequest(f"There is no file {path}.", did_you_mean(str(path), near))
        digest = _digest(path)
        folder = files.cache_folder() / "models" / f"{digest[:16]}-fp32-{_CONVERSION}"
        if not folder.is_dir():
            _convert(path, digest, folder)
        model = catalog.build("source", {"local": {"reference": str(folder)}}).load(
            device=device, dtype=dtype, network_class=network_class
        )
        model.reference = self.reference
        return model


def _digest(path: Path) -> str:
    """The file's SHA-256, remembered by path, size and time of change."""
    status = path.stat()
    key, stamp = str(path.resolve()), [status.st_size, status.st_mtime_ns]
    index = files.cache_folder() / "models" / "digests.json"
    try:
        known = json.loads(index.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        known = {}  # the index only saves time
    entry = known.get(key)
    if entry and entry[:2] == stamp:
        return str(entry[2])
    digest = files.hash_file(path)
    files.write_json(index, {**known, key: [*stamp, digest]})
    return digest


class _Reader:
    """Walks over the header of a GGUF file; struct.error where it ends too early."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data = data
        self.position = 4  # behind the magic bytes

    def unpack(self, layout: str) -> tuple[Any, ...]:
        values = struct.unpack_from(f"<{layout}", self.data, self.position)
        self.position += struct.calcsize(f"<{layout}")
        return values

    def string(self) -> str:
        (length,) = self.unpack("Q")
        return bytes(self.unpack(f"{length}s")[0]).decode("utf-8")

    def value(self, kind: int) -> Any:
        """One metadata value; an array is walked over and given as its length."""
        if kind == 8:
            return self.string()
        if kind in _FORMATS:
            return self.unpack(_FORMATS[kind])[0]
        if kind != 9:
            raise struct.error(f"no value type {kind}")
        item_kind, count = self.unpack("IQ")
        if item_kind in _FORMATS:
            self.unpack(f"{count * struct.calcsize(_FORMATS[item_kind])}x")
        else:
            for _ in range(count):
                self.value(item_kind)
        return count


def _read_header(path: Path) -> dict[str, Any]:
    """The metadata, arrays as their lengths; the file must be as long as its tensor table says.

    Raises:
        BadRequest: If it isn't a GGUF file of version 2 or 3.
        Failure: If it is damaged.
    """
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    with path.open("rb") as handle:
        if handle.read(4) != b"GGUF":
            raise BadRequest(f"{path} is not a GGUF file: it doesn't begin with 'GGUF'.")
        with mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as data:
            reader = _Reader(data)
            end = 0
            try:
                version, tensor_count, value_count = reader.unpack("IQQ")
                if version not in (2, 3):
                    raise BadRequest(f"{path} is GGUF version {version}; versions 2 and 3 are read.")
                values = {reader.string(): reader.value(reader.unpack("I")[0]) for _ in range(value_count)}
                for _ in range(tensor_count):
                    name = reader.string()
                    shape = reader.unpack(f"{reader.unpack('I')[0]}Q")
                    kind, offset = reader.unpack("IQ")
                    if kind not in GGMLQuantizationType._value2member_map_:
                        raise BadRequest(f"{path}: '{name}' has type {kind}, which the gguf package doesn't know.")
                    block, nbytes = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
                    end = max(end, offset + math.prod(shape) // block * nbytes)
            except (struct.error, UnicodeDecodeError, OverflowError, MemoryError, RecursionError) as error:
                raise Failure(f"{path} is damaged: its header can't be read.", "Fetch it again.") from error
            alignment = int(values.get("general.alignment", 32))
            needed = -(-reader.position // alignment) * alignment + end
    if path.stat().st_size < needed:
        raise Failure(f"{path} is cut off: {path.stat().st_size:,} bytes of at least {needed:,}.", "Fetch it again.")
    return values


def _convert(path: Path, digest: str, folder: Path) -> None:
    header = _read_header(path)
    files.remove_leftovers(folder.parent)
    with events.task(f"Convert {path.name}", total=3, unit="stages") as task, quiet():
        try:
            with redirect_stderr(io.StringIO()):  # a progress bar that `quiet` doesn't reach
                network = _network(path)
            task.advance()
            tokenizer = _tokenizer(path, header)
            task.advance()
        except ImportError as error:
            raise Failure(f"Reading GGUF needs one more package: {error}.", "pip install gguf accelerate") from error
        except (ValueError, KeyError, NotImplementedError) as error:
            raise Failure(
                f"transformers can't read {path} (architecture '{header.get('general.architecture')}'): "
                f"{(str(error) or type(error).__name__).splitlines()[0]}."
            ) from error
        card: dict[str, Any] = {
            "name": header.get("general.name") or path.stem,
            "source": {"gguf": path.name, "sha256": digest},
            "parents": [],
        }
        if license_name := header.get("general.license"):
            card["license"] = license_name
        model = LanguageModel(network, tokenizer, card=card)
        tokenizer.model_max_length = min(tokenizer.model_max_length, model.context_length or sys.maxsize)
        for token in ("bos_token_id", "eos_token_id", "pad_token_id"):
            if getattr(network.generation_config, token, None) is None:
                setattr(network.generation_config, token, getattr(tokenizer, token))
        with first_wins(folder) as temporary:
            write(model, temporary)
        task.advance()


def _network(path: Path) -> PreTrainedModel:
    """The network, every block unpacked to float32."""
    import torch
    import transformers

    config = transformers.AutoConfig.from_pretrained(path.parent, gguf_file=path.name, local_files_only=True)
    classes = (transformers.AutoModelForCausalLM, transformers.AutoModelForSeq2SeqLM, transformers.AutoModel)
    cls = next(cls for cls in classes if cls is classes[-1] or type(config) in cls._model_mapping)
    # Newer versions of transformers can keep the blocks packed; they are asked to unpack.
    unpack = {}
    if hasattr(transformers, "GgufConfig"):
        unpack["quantization_config"] = transformers.GgufConfig(dequantize=True)
    network = cls.from_pretrained(
        path.parent, gguf_file=path.name, config=config, dtype=torch.float32, local_files_only=True, **unpack
    )
    network.hf_quantizer = None  # it is an ordinary network now and may be saved
    if hasattr(network.config, "quantization_config"):
        del network.config.quantization_config
    return cast("PreTrainedModel", network.eval())


def _tokenizer(path: Path, header: dict[str, Any]) -> PreTrainedTokenizerBase:
    from tokenizers import pre_tokenizers
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name, local_files_only=True)
    if header.get("tokenizer.ggml.pre") in _SINGLE_DIGITS:
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    return cast("PreTrainedTokenizerBase", tokenizer)

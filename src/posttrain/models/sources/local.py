"""A folder in Hugging Face's layout: ``config.json``, safetensors (whole or sharded), tokenizer files.

Also read: ``posttrain.json`` (the card), whose key `surgery` says which modules were replaced before the tensors were
saved, and PEFT adapter folders (``adapter_config.json``), whose base is loaded first. Pickled weights are refused.

The tensors are mapped from the file, private and copy-on-write: loading touches no weight, a parameter that is
trained takes memory when it is first written, and the file never changes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from posttrain.core import catalog, events, files
from posttrain.core.errors import BadRequest, Failure
from posttrain.models import cards, heads
from posttrain.models.language_model import CARD_FILE, LanguageModel
from posttrain.models.sources import NETWORK_CLASSES, Source, quiet, resolve

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt")


class Local(Source):
    """A model folder; `reference` is its path."""

    def load(
        self, *, device: torch.device, dtype: torch.dtype | None, network_class: str | None = None
    ) -> LanguageModel:
        """See `Source.load`. After surgery the tensors keep the types they were saved in, whatever `dtype` says."""
        folder = Path(self.reference).expanduser()
        if not folder.is_dir():
            raise BadRequest(f"There is no folder {folder}.")
        card = _card(folder)
        if (folder / "adapter_config.json").exists():
            return _adapted(folder, card, device=device, dtype=dtype, network_class=network_class)
        _check_files(folder)
        with quiet():
            config = _config(folder)
            cls = _class_of(config, network_class, folder)
            with _explained(folder):
                if _as_it_is(card, config, cls, dtype):
                    network = _operated(folder, config, cls, card["surgery"])
                else:
                    network = _plain(folder, config, cls, dtype, complete=network_class is None)
            tokenizer = _tokenizer(folder)
        network.to(device)  # type: ignore[arg-type]
        return LanguageModel(network.eval(), tokenizer, reference=self.reference, card=card, folder=folder)


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    from safetensors import SafetensorError

    try:
        yield
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise Failure(
            f"The weights in {folder} can't be loaded: {first_line.rstrip('.')}.", "Fetch or save the model again."
        ) from error


def _card(folder: Path) -> dict[str, Any]:
    if (folder / CARD_FILE).exists():
        return cards.read(folder)
    return {"name": folder.resolve().name, "source": {"local": str(folder.resolve())}, "parents": []}


def _check_files(folder: Path) -> None:
    """Refuse with a sentence what can't be loaded."""
    if not (folder / "config.json").exists():
        inside = sorted(entry.name for entry in folder.glob("*.gguf"))
        inside += sorted(entry.parent.name for entry in folder.glob("*/config.json"))
        raise BadRequest(
            f"{folder} is not a model folder: it has no config.json.",
            f"It holds {', '.join(inside[:5])}: give one of these." if inside else "",
        )
    if not any(folder.glob("*.safetensors")):
        if any(found for pattern in _PICKLES for found in folder.glob(pattern)):
            raise BadRequest(
                f"{folder} has only pickled weights, which aren't loaded because unpickling can run any code.",
                "If you trust them, convert them to safetensors: AutoModel….from_pretrained(folder)"
                ".save_pretrained(new_folder) with transformers.",
            )
        raise BadRequest(f"{folder} has no *.safetensors file.")
    index = folder / "model.safetensors.index.json"
    if index.exists():
        listed = files.read_json(index)
        parts = listed.get("weight_map") if isinstance(listed, dict) else None
        if not isinstance(parts, dict) or not all(isinstance(part, str) for part in parts.values()):
            raise Failure(f"{index} doesn't say which tensor lies in which file.", "Fetch the model again.")
        shards = set(parts.values())
        if missing := sorted(shard for shard in shards if not (folder / shard).exists()):
            raise Failure(f"{folder} is incomplete: {missing[0]} is missing.", "Fetch the model again.")


def _config(folder: Path) -> PreTrainedConfig:
    from transformers import CONFIG_MAPPING, AutoConfig

    values = files.read_json(folder / "config.json")
    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # transformers checks configurations with errors of many kinds
        kind = values.get("model_type") if isinstance(values, dict) else None
        if kind in CONFIG_MAPPING:
            why = " ".join(str(error).split()).rstrip(".")
            raise BadRequest(
                f"{folder / 'config.json'} isn't one that {kind} can be built by: {why}.",
                "Fetch or save the model again.",
            ) from error
        raise BadRequest(
            f"{folder / 'config.json'} (model_type {kind!r}) isn't an architecture that transformers has.",
            "Code that comes with a model is never run.",
        ) from error


def _class_of(config: PreTrainedConfig, network_class: str | None, folder: Path) -> type[PreTrainedModel]:
    """The concrete transformers class for a configuration."""
    import transformers

    if network_class is None:
        for architecture in config.architectures or []:
            if (cls := getattr(transformers, architecture, None)) is not None:
                return cast("type[PreTrainedModel]", cls)
    auto = getattr(transformers, NETWORK_CLASSES[network_class or "causal"])
    if type(config) not in auto._model_mapping:
        if network_class is not None:
            raise BadRequest(f"The architecture of {folder} ({config.model_type}) has no network for {network_class}.")
        auto = transformers.AutoModel
    found = auto._model_mapping[type(config)]
    return cast("type[PreTrainedModel]", found[0] if isinstance(found, (tuple, list)) else found)


def _plain(
    folder: Path, config: PreTrainedConfig, cls: type[PreTrainedModel], dtype: torch.dtype | None, complete: bool
) -> PreTrainedModel:
    """A network as saved by transformers; with `complete`, every parameter must come from the file."""
    network, report = cast(Any, cls).from_pretrained(
        folder,
        config=config,
        dtype=dtype or "auto",
        use_safetensors=True,
        local_files_only=True,
        output_loading_info=True,
    )
    missing, unexpected = sorted(report["missing_keys"]), sorted(report["unexpected_keys"])
    if missing:
        if complete:
            raise Failure(
                f"{folder} is incomplete: {len(missing)} tensors of {cls.__name__} are missing, '{missing[0]}' first."
            )
        if len(missing) == len(network.state_dict()):
            raise Failure(f"No tensor in {folder} belongs to {cls.__name__}.")
        events.message(f"New in {cls.__name__} and not trained yet: {_some(missing)}.")
    if unexpected:
        events.message(f"Not used by {cls.__name__}: {_some(unexpected)}.", level="warning" if complete else "info")
    return cast("PreTrainedModel", network)


def _as_it_is(
    card: dict[str, Any], config: PreTrainedConfig, cls: type[PreTrainedModel], dtype: torch.dtype | None
) -> bool:
    """Whether the tensors can go into the network without conversion; see `posttrain.models.saving`."""
    if card.get("surgery"):
        return True
    return "surgery" in card and (config.architectures or [])[:1] == [cls.__name__] and dtype in (None, config.dtype)


def _operated(
    folder: Path, config: PreTrainedConfig, cls: type[PreTrainedModel], surgery: list[dict[str, Any]]
) -> PreTrainedModel:
    """A network saved as it is: build it empty, operate on it as the card says, then load strictly.

    For plain networks this gives what `from_pretrained` gives, and spares it a quarter of a second of preparations.
    """
    from transformers import GenerationConfig
    from transformers.initialization import no_init_weights

    with no_init_weights():  # memory is reserved but not touched; buffers that aren't saved get their values
        network = cls._from_config(config, dtype=config.dtype)
    network.tie_weights()
    for block in surgery:
        ((family, method),) = block.items()
        catalog.build(family, method, where=CARD_FILE).prepare(network)
    _load_strictly(network, _tensors(folder), folder)
    if network.can_generate() and (folder / "generation_config.json").exists():
        network.generation_config = GenerationConfig.from_pretrained(folder, local_files_only=True)
    return network


def _tensors(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors import safe_open

    tensors: dict[str, torch.Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as handle:
            tensors.update({name: handle.get_tensor(name) for name in handle.keys()})  # noqa: SIM118
    return tensors


def _load_strictly(network: PreTrainedModel, tensors: dict[str, torch.Tensor], folder: Path) -> None:
    """Put tensors into a network without copying them; every name must fit, tied parameters need one of their names.

    Raises:
        Failure: If a tensor is missing, superfluous or of another shape.
    """
    names_of: dict[int, list[str]] = {}
    for name, parameter in network.named_parameters(remove_duplicate=False):
        names_of.setdefault(id(parameter), []).append(name)
    own = network.state_dict()
    alike = {name: names for names in names_of.values() for name in names}
    missing = [name for name in own if not any(other in tensors for other in alike.get(name, [name]))]
    unexpected = [name for name in tensors if name not in own]
    for problem, names in (("lacks", missing), ("has, but the network lacks,", unexpected)):
        if names:
            raise Failure(f"{folder} doesn't fit its own card: it {problem} {_some(names)}.")
    for name, tensor in tensors.items():
        if tensor.shape != own[name].shape:
            raise Failure(f"{folder}: '{name}' is {list(tensor.shape)}, the network needs {list(own[name].shape)}.")
    network.load_state_dict(tensors, strict=False, assign=True)
    for names in names_of.values():  # assigning gave one name a new parameter; the others share it again
        given = next((name for name in names if name in tensors), None)
        if given is None or len(names) == 1:
            continue
        shared = network.get_parameter(given)
        for name in names:
            module, _, last = name.rpartition(".")
            setattr(network.get_submodule(module), last, shared)


def _tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    if not any((folder / name).exists() for name in _TOKENIZER_FILES):
        raise BadRequest(f"{folder} has no tokenizer.", "Save it there with tokenizer.save_pretrained(folder).")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the Rust library raises plain Exception for a damaged tokenizer.json
        raise Failure(f"The tokenizer in {folder} can't be loaded: {str(error).splitlines()[0]}") from error
    if not tokenizer.is_fast:
        raise BadRequest(f"The tokenizer in {folder} has no fast version.", "Convert it to tokenizer.json first.")
    return tokenizer


def _adapted(folder: Path, card: dict[str, Any], **options: Any) -> LanguageModel:
    """A base with the adapter of a PEFT folder attached."""
    values = files.read_json(folder / "adapter_config.json")
    if not isinstance(values, dict):
        raise BadRequest(f"{folder / 'adapter_config.json'} must hold a JSON object.")
    if not any(folder.glob("*.safetensors")):
        raise BadRequest(f"{folder} has no *.safetensors file; pickled adapters aren't loaded.")
    reference = card.get("base") or values.get("base_model_name_or_path")
    if not reference:
        raise BadRequest(f"{folder} doesn't say which base it adapts.", "Set base_model_name_or_path in its config.")
    try:
        source = resolve(str(reference))
    except BadRequest as error:
        raise BadRequest(
            f"{folder} is an adapter on '{reference}', and there is no such model here.",
            f"Write where it lies as `base` into {CARD_FILE}, or as base_model_name_or_path into adapter_config.json.",
        ) from error
    base = source.load(**options)
    if card.get("head"):
        heads.give_head(base, **card["head"])  # with new values; the trained ones come with the adapter
    adapter_class = catalog.find("adapt", str(values.get("peft_type", "")).lower())
    with _explained(folder):
        adapter = adapter_class.load(base.network, folder)
    own_tokenizer = any((folder / name).exists() for name in _TOKENIZER_FILES)
    card = {**card, "base": str(reference), "adapter": catalog.dump(adapter), "parents": card.get("parents") or []}
    if not card["parents"]:
        card["parents"] = [base.card.get("name", str(reference))]
    if "license" in base.card:
        card.setdefault("license", base.card["license"])
    tokenizer = _tokenizer(folder) if own_tokenizer else base.tokenizer
    network = base.network.eval()
    return LanguageModel(network, tokenizer, reference=str(folder), card=card, folder=folder, adapter=adapter)


def _some(names: list[str]) -> str:
    return ", ".join(f"'{name}'" for name in names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")

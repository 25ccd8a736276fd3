"""Loading of language models: their number format, code that comes with a model, adapters, tokenizers."""

from __future__ import annotations

import json
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from sae.errors import UserError
from sae.lm.libraries import COMPILER, TransformerBridge, importing_later, transformers_source
from sae.lm.load_settings import BITS, DEVICE_MAP, LoadSettings
from sae.lm.model_info import ModelInfo, hub_message
from sae.lm.sentencepiece_file import sentencepiece_tokenizer

# Only text is read here.  For a model of images it would run `pip install torchvision`, in a user's environment.
transformers_source.load_modality_processor = lambda *_args, **_kwargs: None


def load_bridge(info: ModelInfo, device: torch.device, settings: LoadSettings) -> tuple[TransformerBridge, Any]:
    """Load a model; return its bridge, and a tokenizer if it is not the bridge's.  Raises UserError (field `model`)."""
    _check_code(info, settings)
    try:
        tokenizer = sentencepiece_tokenizer(Path(info.source), info.name) if info.local else None
        if settings.placed and info.adapter:
            raise UserError(f"model: {info.name} is a LoRA adapter, which is added to plain weights on one device; "
                            f"unset {BITS} and {DEVICE_MAP}", "model")
        model = merged_model(info, settings) if info.adapter else _quantized(info, device, settings)
        options = {} if model is not None else _devices(settings)
        if not settings.placed:
            options["device"] = str(device)
        with importing_later(COMPILER):  # the first tensor without data would import it
            bridge = TransformerBridge.boot_transformers(
                info.source, dtype=getattr(torch, settings.dtype), trust_remote_code=settings.remote_code,
                hf_model=model, **options)
    except UserError:
        raise
    except Exception as error:  # loaders raise many kinds; each means that the name given does not load
        said = " ".join(str(error).split())
        message = (f"model: {info.name} does not load: {type(error).__name__}: {said}"
                   if info.local else hub_message("model", info.name, error))
        raise UserError(message, "model") from error
    return bridge.eval(), tokenizer


def _devices(settings: LoadSettings) -> dict[str, Any]:
    """Return the arguments of loaders that say on which devices a model is."""
    found: dict[str, Any] = {"device_map": settings.device_map} if settings.device_map else {}
    if settings.max_memory:
        found["max_memory"] = dict(settings.max_memory)
    if settings.offload:
        found["offload_folder"] = settings.offload
    return found


def _quantized(info: ModelInfo, device: torch.device, settings: LoadSettings) -> Any | None:
    """Return the model with linear layers in 8 or 4 bits; None where they keep the number format."""
    if not settings.bits:
        return None
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(
        info.source, dtype=getattr(torch, settings.dtype), attn_implementation="eager",
        trust_remote_code=settings.remote_code, **_bits(info, device, settings))


def _bits(info: ModelInfo, device: torch.device, settings: LoadSettings) -> dict[str, Any]:
    """Return the arguments of loaders for 8 or 4 bits.  Raises UserError (field `model`) without bitsandbytes."""
    if find_spec("bitsandbytes") is None:
        raise UserError(f"model: {info.name} in {settings.bits} bits needs bitsandbytes; "
                        "pip install 'saescope[bits]'", "model")
    from transformers import BitsAndBytesConfig

    kind = {"load_in_8bit": True} if settings.bits == 8 else {
        "load_in_4bit": True, "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_compute_dtype": getattr(torch, settings.dtype)}
    return {"device_map": {"": str(device)}, **_devices(settings), "quantization_config": BitsAndBytesConfig(**kind)}


def load_plain(info: ModelInfo, settings: LoadSettings, kind: Any, attention: str, device: torch.device) -> Any:
    """Return the plain Hugging Face model of class `kind`, with the attention function of that name."""
    if info.adapter:
        model = merged_model(info, settings)
        model.set_attn_implementation(attention)
        return model.to(device)
    options = _bits(info, device, settings) if settings.bits else _devices(settings)
    model = kind.from_pretrained(info.source, dtype=getattr(torch, settings.dtype), attn_implementation=attention,
                                 trust_remote_code=settings.remote_code, **options)
    return model if settings.placed else model.to(device)


def merged_model(info: ModelInfo, settings: LoadSettings) -> Any:
    """Return the base model of a LoRA adapter with the adapter added to its weights.  Raises UserError."""
    try:
        from peft import PeftModel
    except ImportError:
        raise UserError(f"model: {info.name} is a LoRA adapter, which needs peft; pip install 'saescope[peft]'",
                        "model") from None
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(
        info.source, dtype=getattr(torch, settings.dtype), attn_implementation="eager",
        trust_remote_code=settings.remote_code)
    with warnings.catch_warnings():  # of transformers, about names that peft uses
        warnings.simplefilter("ignore", FutureWarning)
        return PeftModel.from_pretrained(base, info.adapter).merge_and_unload()


def _check_code(info: ModelInfo, settings: LoadSettings) -> None:
    """Raise UserError for a model whose own Python code would have to run without leave."""
    if settings.remote_code or not info.local:
        return
    try:
        config = json.loads((Path(info.source) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    if isinstance(config, dict) and config.get("auto_map") and not _known(str(config.get("model_type"))):
        raise UserError(f"model: {info.name} comes with Python code of its own, which runs only if "
                        "SAESCOPE_REMOTE_CODE=1 is set; set it if you trust this model's authors", "model")


def _known(model_type: str) -> bool:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    return model_type in CONFIG_MAPPING

"""The tokenizer of a model folder that has a `tokenizer.model` of sentencepiece and no `tokenizer.json`.

transformers reads such a file by rules of its own and leaves out the space that sentencepiece puts before a text, for
instance.  Here the file's own settings are carried over to the tokenizers library.  The result is used only if it gives
the same tokens as sentencepiece on some texts.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers
from transformers import PreTrainedTokenizerFast

from sae.errors import UserError

_SPACE = "▁"
_SAMPLES = ("Hello world, this is 1 text.", " leading and  double spaces ", "two\nlines\tand tabs",
            "naïve café — 水 🙂", "def f(x):\n    return x ** 2\n", "ＡＢＣ ﬁne", "a", "▁")
_ROLES = ("bos_token", "eos_token", "unk_token", "pad_token")


def sentencepiece_tokenizer(folder: Path, model: str) -> Any:
    """Return the tokenizer of `folder`, or None if the folder does not depend on its `tokenizer.model` alone.

    Raises UserError (field `model`) for a file that cannot be read, or that cannot be read as sentencepiece reads it.
    """
    path = folder / "tokenizer.model"
    if not path.is_file() or (folder / "tokenizer.json").exists():
        return None
    from sentencepiece import SentencePieceProcessor
    from sentencepiece.sentencepiece_model_pb2 import ModelProto  # type: ignore[attr-defined]

    proto = ModelProto()
    try:
        proto.ParseFromString(path.read_bytes())
        processor = SentencePieceProcessor(model_file=str(path))
    except Exception as error:  # the libraries raise errors of many kinds; some files of this name are of other kinds
        if (folder / "tokenizer_config.json").exists():
            return None
        raise UserError(f"model: {path} is no sentencepiece model ({type(error).__name__}), and {model} has no "
                        "tokenizer.json", "model") from None
    config = _config(folder)
    tokenizer = _converted(proto)
    roles = {name: value for name in _ROLES if (value := _role(config, name, proto, processor))}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, name_or_path=str(folder), **roles)
    fast.chat_template = _template(folder, config)
    own = [piece.piece for piece in proto.pieces if piece.type == piece.USER_DEFINED]
    for text in (*_SAMPLES, *(f"some{piece}text {piece} of it" for piece in own)):
        if fast(text, add_special_tokens=False, split_special_tokens=True)["input_ids"] != processor.encode(text):
            raise UserError(f"model: {path} splits {text!r} differently here than in sentencepiece; give {model} a "
                            "tokenizer.json", "model")
    return fast


def _converted(proto: Any) -> Tokenizer:
    pieces = [(piece.piece, piece.score) for piece in proto.pieces]
    trainer, rules = proto.trainer_spec, proto.normalizer_spec
    if trainer.model_type == trainer.UNIGRAM:
        model: Any = models.Unigram(pieces, unk_id=trainer.unk_id, byte_fallback=trainer.byte_fallback)
    else:
        vocabulary = {piece: number for number, (piece, _) in enumerate(pieces)}
        model = models.BPE(vocab=vocabulary, merges=_merges(proto, vocabulary), byte_fallback=trainer.byte_fallback,
                           unk_token=pieces[trainer.unk_id][0], fuse_unk=True)
    tokenizer = Tokenizer(model)
    steps: list[Any] = []
    if rules.precompiled_charsmap:
        steps.append(normalizers.Precompiled(rules.precompiled_charsmap))
    if rules.remove_extra_whitespaces:
        steps += [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    if rules.add_dummy_prefix:  # also in front of what follows a symbol, where sentencepiece puts none
        steps.append(normalizers.Prepend(" "))
    if rules.escape_whitespaces:
        steps.append(normalizers.Replace(" ", _SPACE))
    tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.decoder = decoders.Sequence([decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])
    control = [piece.piece for piece in proto.pieces if piece.type == piece.CONTROL]
    own = [piece.piece for piece in proto.pieces if piece.type == piece.USER_DEFINED]
    tokenizer.add_special_tokens([AddedToken(piece, normalized=False, special=True) for piece in control])
    tokenizer.add_tokens([AddedToken(piece, normalized=False, special=False) for piece in own])
    return tokenizer


def _merges(proto: Any, vocabulary: dict[str, int]) -> list[tuple[str, str]]:
    """Return the pairs that make each piece, in the order in which sentencepiece would join them."""
    found = []
    for number, piece in enumerate(proto.pieces):
        if piece.type != piece.NORMAL:
            continue
        text = piece.piece
        pairs = [(text[:i], text[i:]) for i in range(1, len(text)) if text[:i] in vocabulary and text[i:] in vocabulary]
        found += [(-piece.score, number, vocabulary[left], vocabulary[right], left, right) for left, right in pairs]
    return [(left, right) for *_, left, right in sorted(found)]


def _config(folder: Path) -> dict[str, Any]:
    try:
        value = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _role(config: dict[str, Any], name: str, proto: Any, processor: Any) -> str | None:
    """Return the token with a role: as the folder's config says, else as the sentencepiece file says."""
    if name in config:
        value = config[name]
        return value.get("content") if isinstance(value, dict) else value
    number = getattr(processor, name.replace("token", "id"))()
    return proto.pieces[number].piece if number >= 0 else None


def _template(folder: Path, config: dict[str, Any]) -> str | None:
    path = folder / "chat_template.jinja"
    return path.read_text(encoding="utf-8") if path.is_file() else config.get("chat_template")

"""A build from end to end: scales, scan, tables, file."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from sae import __version__
from sae.autoencoder.artefact import Autoencoder
from sae.data.corpus import Corpus
from sae.data.left_out import LeftOut
from sae.data.median_norm import find_left_out
from sae.index.encoders import EncoderPool
from sae.index.sample_tables import SAMPLES, Strongest
from sae.index.scales import make_scales
from sae.index.scan import scan
from sae.index.tables import make_tables
from sae.kernels.malloc import keep_freed_memory
from sae.lm.bridge import LanguageModel
from sae.specs.registry import IndexSettings
from sae.store.records import NEAR
from sae.store.schema import BANDS, SCHEMA_VERSION
from sae.store.writer import meta_table, new_build
from sae.workspace.checkpoint import Saver

_BOS_RULES = {True: "BOS first in every context; not among the counted tokens",
              False: "no BOS; the first token of every context is not among the counted tokens"}
_ORDER_SEED = 0  # every build reads the text in the same order, so that builds can be compared


def contexts_to_read(corpus: Corpus, n_tokens: int) -> np.ndarray:
    """Return contexts with about `n_tokens` counted tokens, drawn from all of the text in a fixed shuffled order."""
    contexts = corpus.contexts("all", _ORDER_SEED)
    counted = np.cumsum(corpus.length[contexts].astype(np.int64) - 1)
    return contexts[: int(np.searchsorted(counted, n_tokens)) + 1]


def build(
    lm: LanguageModel, sae: Autoencoder, corpus: Corpus, settings: IndexSettings, path: Path, *,
    provenance: dict[str, Any], checkpoint: Path | None = None,
    update: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Write the build `path`, and resume after the last finished shard if `checkpoint` holds one.

    `update(done, total)` receives token counts and may raise to stop.  `provenance` is added to `meta`.
    """
    started = time.time()
    keep_freed_memory()
    contexts = contexts_to_read(corpus, settings.index_tokens)
    total = int((corpus.length[contexts].astype(np.int64) - 1).sum())
    left_out = _left_out(lm, sae, corpus, settings)
    pool = EncoderPool(lm, sae, corpus, NEAR if settings.near_misses else 0.0, left_out)
    read = pool.read(contexts[:SAMPLES], bos=True)
    scales, hist_low = make_scales(lm, sae, corpus, [one.counted() for one in read], settings)
    with Saver(checkpoint) as saver:  # the last checkpoint is written while the tables are made
        shard = scan(pool, corpus, contexts, scales, saver=saver, read=read, update=lambda done: update(done, total))
        with new_build(path, sort=False) as write:
            added = make_tables(lm, sae, corpus, contexts, shard, scales, settings, write,
                                read=[Strongest.of(one.firings, one.tokens) for one in read],
                                check=lambda: update(total, total))
            write("meta", meta_table(
                _meta(lm, sae, corpus, contexts, settings, left_out) | {
                    "build_id": path.stem, "tokens": int(shard.token_2V.sum()), "seconds": time.time() - started,
                    "hist_low": hist_low, "hist_edges": list(scales.hist_edges)} | added | provenance))


def _left_out(lm: LanguageModel, sae: Autoencoder, corpus: Corpus, settings: IndexSettings) -> LeftOut:
    """Return which tokens to leave out: as the settings say, or else as in the SAE's training."""
    trained = LeftOut.recorded(sae.config.get("left_out"))
    if not settings.skip_norm and not settings.skip_tokens:
        return trained
    asked = find_left_out(lm, corpus, sae.hook, 0.0, settings.skip_tokens)
    if settings.skip_norm == trained.multiple and asked.tokens == trained.tokens:
        return trained
    return find_left_out(lm, corpus, sae.hook, settings.skip_norm, settings.skip_tokens)


def _meta(
    lm: LanguageModel, sae: Autoencoder, corpus: Corpus, contexts: np.ndarray, settings: IndexSettings,
    left_out: LeftOut,
) -> dict[str, Any]:
    """Return the entries of `meta` about the model, the SAE, the text and the settings."""
    config = sae.config
    return {
        "schema_version": SCHEMA_VERSION, "saescope_version": __version__, "sae_id": config["id"],
        "model": config["model"], "site": config["site"], "architecture": config["architecture"],
        "n_latents": sae.n_latents, "d_model": sae.d_model, "k": sae.k, "theta": sae.sparsity.threshold,
        "normalize": config["normalize"], "train_on_bos": config["bos"]["trained_on"],
        "bos_rule": _BOS_RULES[corpus.has_bos]
                    + (f"; left out: {left_out}" if left_out else ""),
        "left_out": left_out.record(),
        "weight_processing": config["weight_processing"], "decoder_norm": "unit",
        "text": corpus.info["text"], "text_fingerprint": corpus.info["fingerprint"], "corpus": corpus.id,
        "contexts": len(contexts), "documents": len(np.unique(corpus.doc[contexts])),
        "context_length": corpus.context_length, "created": time.time(),
        "settings": settings.model_dump(include=set(IndexSettings.model_fields)),
        "bos_token": lm.bos_id if corpus.has_bos else None,
        "bands": [{"band": b, "name": name, "q_low": low, "q_high": high} for b, name, low, high in BANDS],
        "near": NEAR if settings.near_misses else None,
    }

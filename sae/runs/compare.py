"""The run that compares two SAEs and writes the comparison file that the pages read."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from sae import __version__
from sae.errors import UserError
from sae.runs.folder import RunFolder
from sae.runs.manage import still_there
from sae.runs.progress import Reporter
from sae.runs.steps import open_model_and_text, reading_of, text_of, text_tokens_of
from sae.specs.registry import CompareSpec, command_line
from sae.store.comparison import comparison_path, write_comparison
from sae.workspace.paths import Workspace

if TYPE_CHECKING:
    from sae.evaluation.compare import Matches

PHASES = {"text": 10.0, "firings": 70.0, "directions": 20.0}


def run_compare(spec: CompareSpec, folder: RunFolder, workspace: Workspace, reporter: Reporter) -> dict[str, Any]:
    """Compare `spec.a` with `spec.b` on the text that the first was trained on; return the run's result.

    Raises UserError (field `b`) if the two SAEs cannot be compared.
    """
    from sae.autoencoder.artefact import Autoencoder
    from sae.autoencoder.config import read_config

    first, second = sorted((spec.a, spec.b))  # the comparison file lists them in this order
    path = comparison_path(workspace, first, second)
    configs = [read_config(workspace.sae(sae_id)) for sae_id in (first, second)]
    _check(configs)
    config = configs[0]
    lm, corpus = open_model_and_text(config["model"]["name"], spec.device, *text_of(config, "", "text", "train"),
                                     config["context_length"], workspace, reporter, text_tokens=text_tokens_of(config),
                                     **reading_of(config))
    from sae.evaluation.compare import compare, joint_firings
    from sae.index.build import contexts_to_read

    a, b = (Autoencoder.load(workspace.sae(sae_id), lm.device) for sae_id in (first, second))
    contexts = contexts_to_read(corpus, spec.compare_tokens)
    reporter.begin("firings", int((corpus.length[contexts].astype(np.int64) - 1).sum()))
    joint = joint_firings(lm, (a, b), corpus, contexts, reporter.update)
    reporter.begin("directions")
    matches = compare(a, b, joint, reporter.check)
    meta = {
        "a": first, "b": second, "model": config["model"]["id"], "tokens": joint.tokens, "text": corpus.info["text"],
        "text_fingerprint": corpus.info["fingerprint"], "mmcs_a": matches[0].mmcs, "mmcs_b": matches[1].mmcs,
        "command": command_line("compare", spec.model_dump()), "run": folder.id, "created": time.time(),
        "saescope_version": __version__}
    with still_there(workspace, first, path), still_there(workspace, second, path):
        write_comparison(path, meta, pa.concat_tables([_table(side, one) for side, one in enumerate(matches)]))
    return {"a": first, "b": second, "mmcs_a": matches[0].mmcs, "mmcs_b": matches[1].mmcs}


def _check(configs: list[dict[str, Any]]) -> None:
    """Raise UserError (field `b`) unless both SAEs belong to one language model and have the same output width."""
    one, two = configs
    if one["model"]["id"] != two["model"]["id"]:
        raise UserError(f"b: {two['id']} belongs to another language model than {one['id']}", "b")
    if reading_of(one)["bos"] != reading_of(two)["bos"]:
        raise UserError("b: one of the two SAEs reads contexts that begin with BOS and the other one reads contexts "
                        "without it, so they do not read the same activations", "b")
    if one["d_model"] != two["d_model"]:
        raise UserError(f"b: {two['id']} writes to a space of width {two['d_model']}, but {one['id']} writes to one "
                        f"of width {one['d_model']}; their directions cannot be compared", "b")


def _table(side: int, matches: Matches) -> pa.Table:
    n, k = matches.other_LK.shape
    offsets = pa.array(np.arange(n + 1, dtype=np.int32) * k)
    return pa.table({
        "side": np.full(n, side, dtype=np.uint8), "latent": np.arange(n, dtype=np.int32),
        "fires": matches.fires_L.numpy(),
        "others": pa.ListArray.from_arrays(offsets, matches.other_LK.int().numpy().reshape(-1)),
        "cosines": pa.ListArray.from_arrays(offsets, matches.cosine_LK.numpy().reshape(-1)),
        "mate": matches.best_match_L.int().numpy(), "phi": matches.phi_L.float().numpy()})

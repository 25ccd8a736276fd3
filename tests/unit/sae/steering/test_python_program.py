"""The exported program of a run writes the run's text."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import pytest

from sae.lm.bridge import LanguageModel
from sae.lm.model_info import DEMO_PATH
from sae.lm.row_model import RowModel
from sae.steering.generation import Run, write
from sae.steering.python_program import SnippetSae, render
from sae.steering.request import ChatMessage, Intervention, Mode, Sampling, SteeredPositions, SteerRequest

PROMPT = 'def read(path):\n    """It\'s a "text".\n'


def known(sae: Any, folder: Path) -> SnippetSae:
    return SnippetSae(str(folder), sae.config["architecture"], sae.config["normalize"])


@pytest.mark.parametrize(("architecture", "normalize", "modes", "where", "kind"), [
    ("batch_topk", "layer_norm", ("add",), SteeredPositions(), "hook_resid_post"),
    ("topk", "none", ("add", "clamp"), SteeredPositions(positions="output"), "hook_resid_post"),
    ("batch_topk", "none", ("scale", "ablate", "remove"), SteeredPositions(positions="from", start=4, special=True),
     "hook_resid_post"),
    ("batch_topk", "none", ("add",), SteeredPositions(), "hook_resid_mid"),
    ("batch_topk", "none", ("add",), SteeredPositions(), "hook_mlp_in"),
])
def test_the_program_writes_the_same_text(
    demo_lm: LanguageModel, tiny_sae: Any, tmp_path: Path, architecture: str, normalize: str, modes: tuple[Mode, ...],
    where: SteeredPositions, kind: str,
) -> None:
    sae = tiny_sae(architecture, normalize, folder=tmp_path / "sae", kind=kind)
    sae_id = sae.config["id"]
    strength = 40.0 if kind == "hook_mlp_in" else 1.5  # what the MLP takes in matters less
    interventions = tuple(Intervention(sae=sae_id, layer=2, latent=9 + n, mode=mode, strength=strength, max_act=6.0)
                          for n, mode in enumerate(modes))
    request = SteerRequest(model="demo", prompt=PROMPT, interventions=interventions, where=where,
                           sampling=Sampling(temperature=0, length=16, repetition_penalty=1.2))
    run = Run.of(request, [demo_lm.bos_id, *demo_lm.encode(PROMPT)], {sae_id: sae}, demo_lm.tokenizer.all_special_ids)
    for _ in write(RowModel(demo_lm), run):
        pass
    program = render(request, {sae_id: known(sae, tmp_path / "sae")}, str(DEMO_PATH), 'A "title"')
    assert program is not None
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(program, "snippet", "exec"), {})
    baseline, steered = (column.output for column in run.columns)
    assert json.loads(printed.getvalue().splitlines()[0]) == steered
    assert (steered != baseline) == ("add" in modes)  # the other modes are too weak to change the most likely tokens


def test_an_sae_that_the_program_does_not_cover_gets_none() -> None:
    one = Intervention(sae="a/b", layer=1, latent=0, max_act=1)
    request = SteerRequest(model="demo", prompt="x", interventions=(one,))
    for sae in (SnippetSae("f", "gated", "none"), SnippetSae("f", "topk", "none", "blocks.1.hook_mlp_out"),
                SnippetSae("f", "relu", "constant_norm")):
        assert render(request, {"a/b": sae}, "m") is None


def test_a_chat_goes_through_the_models_template() -> None:
    one = Intervention(sae="a/b", layer=1, latent=0, max_act=1)
    request = SteerRequest(model="demo", chat=(ChatMessage(role="user", content='say "hi"'),), interventions=(one,),
                           sampling=Sampling(stop=("\n\n",)))
    program = render(request, {"a/b": SnippetSae("f", "relu", "none")}, "m")
    assert program is not None
    compile(program, "snippet", "exec")
    assert "apply_chat_template" in program

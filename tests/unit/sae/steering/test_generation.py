"""Texts written in one batch are equal, bit for bit, to texts written alone."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

from sae.errors import UserError
from sae.lm.row_model import RowModel
from sae.steering.generation import Run, TextGenerator, write
from sae.steering.request import MODES, Intervention, Sampling, SteeredPositions, SteerRequest


@pytest.fixture(scope="module")
def saes(tiny_sae: Any) -> dict[str, Any]:
    made = [tiny_sae("batch_topk", "layer_norm", 2, 0), tiny_sae("topk", "none", 1, 1), tiny_sae("topk", "none", 2, 2)]
    return {sae.config["id"]: sae for sae in made}


def request(saes: dict[str, Any], seed: int, **changes: Any) -> SteerRequest:
    """Make a request whose prompt, latents, modes, positions and settings depend on `seed`."""
    rng = random.Random(seed)
    interventions = tuple(
        Intervention(sae=sae_id, layer=saes[sae_id].layer, latent=latent, mode=rng.choice(list(MODES)),
                     strength=rng.uniform(-2, 2), max_act=4.0)
        for sae_id in rng.sample(list(saes), rng.randint(1, len(saes)))
        for latent in rng.sample(range(48), rng.randint(1, 3)))
    words = rng.choices(["def ", "import os", "\n", "self.", "é", "return x", "# note "], k=rng.randint(1, 40))
    values = {
        "model": "demo", "prompt": "".join(words), "interventions": interventions,
        "where": SteeredPositions(positions=rng.choice(["all", "output", "from"]), start=rng.randint(0, 20)),
        "sampling": Sampling(temperature=rng.choice([0, 0.7, 1.2]), top_p=rng.choice([0.9, 1]),
                             top_k=rng.choice([0, 40]), repetition_penalty=rng.choice([1, 1.3]),
                             length=rng.randint(4, 24), seed=seed),
        "columns": rng.sample(["baseline", "steered", "control"], rng.randint(1, 3)),
        "samples": rng.choice([1, 1, 3])}
    return SteerRequest(**{**values, **changes})


def run_of(model: RowModel, saes: dict[str, Any], asked: SteerRequest) -> Run:
    return Run.of(asked, [model.lm.bos_id, *model.lm.encode(asked.prompt)], saes, model.lm.tokenizer.all_special_ids)


def alone(model: RowModel, saes: dict[str, Any], asked: SteerRequest) -> Run:
    run = run_of(model, saes, asked)
    for _ in write(model, run):
        pass
    return run


def test_a_run_does_not_depend_on_its_batch(model: RowModel, saes: dict[str, Any]) -> None:
    """Compare tokens and activations of 24 different runs that join and leave at different times."""
    requests = [request(saes, seed) for seed in range(24)]
    generator, runs, most = TextGenerator(model), [], 0
    for asked in requests:
        runs.append(run_of(model, saes, asked))
        for _ in generator.join(runs[-1]):
            generator.step()  # the other runs continue while a prompt is read
        most = max(most, generator.n_texts)
    assert most > 16  # more than one batch
    while generator.n_texts:
        generator.step()
    for asked, run in zip(requests, runs, strict=True):
        single = alone(model, saes, asked)
        assert [c.output for c in run.columns] == [c.output for c in single.columns]
        assert [c.acts for c in run.columns] == [c.acts for c in single.columns]
        assert all(c.finish for c in run.columns)
    assert generator._batches == []


def test_a_neutral_strength_is_the_baseline_also_in_a_batch(model: RowModel, saes: dict[str, Any]) -> None:
    sae_id = next(iter(saes))
    nothing = (Intervention(sae=sae_id, layer=2, latent=9, strength=0, max_act=7.0),
               Intervention(sae=sae_id, layer=2, latent=11, mode="scale", strength=1, max_act=7.0))
    asked = request(saes, 5, interventions=nothing, where=SteeredPositions(special=True), samples=2,
                    sampling=Sampling(length=30, stop_at_eos=False), columns=("baseline", "steered", "control"))
    generator, run = TextGenerator(model), run_of(model, saes, asked)
    for other in (run_of(model, saes, request(saes, 6)), run, run_of(model, saes, request(saes, 7))):
        for _ in generator.join(other):
            pass
    while generator.n_texts:
        generator.step()
    texts = {column.name: column for column in run.columns}
    for sample in ("", ".2"):
        assert texts["baseline" + sample].output == texts["steered" + sample].output
        assert texts["baseline" + sample].output == texts["control" + sample].output
        assert texts["baseline" + sample].acts == texts["steered" + sample].acts
    assert texts["baseline"].output != texts["baseline.2"].output


def test_a_sample_is_the_run_with_the_next_seed(model: RowModel, saes: dict[str, Any]) -> None:
    asked = request(saes, 3, samples=2, columns=("steered",), sampling=Sampling(length=12, seed=4))
    later = asked.model_copy(update={"samples": 1, "sampling": Sampling(length=12, seed=5)})
    assert alone(model, saes, asked).columns[1].output == alone(model, saes, later).columns[0].output


def test_stop_strings_end_a_text_with_the_token_that_completes_them(model: RowModel, saes: dict[str, Any]) -> None:
    asked = request(saes, 1, columns=("baseline",), samples=1, prompt="def main(",
                    sampling=Sampling(temperature=0, length=40, stop_at_eos=False))
    pieces = model.lm.vocabulary()[0]
    whole = alone(model, saes, asked).columns[0].output
    text = b"".join(pieces[i] for i in whole).decode(errors="replace")
    middle = text[len(text) // 2 : len(text) // 2 + 5]
    first = text.index(middle) + len(middle)
    sampling = asked.sampling.model_copy(update={"stop": ("never comes", middle)})
    column = alone(model, saes, asked.model_copy(update={"sampling": sampling})).columns[0]
    assert column.finish == "stop"
    found = b"".join(pieces[i] for i in column.output).decode(errors="replace")
    assert text.startswith(found)
    assert middle in found
    assert len(found) - first < max(len(piece) for piece in pieces)
    assert middle not in b"".join(pieces[i] for i in column.output[:-1]).decode(errors="replace")


def test_a_run_that_leaves_frees_its_rows_and_the_others_continue(model: RowModel, saes: dict[str, Any]) -> None:
    requests = [request(saes, seed, sampling=Sampling(length=20, seed=seed, stop_at_eos=False)) for seed in range(4)]
    generator, runs = TextGenerator(model), [run_of(model, saes, asked) for asked in requests]
    for run in runs:
        for _ in generator.join(run):
            pass
    for _ in range(5):
        generator.step()
    generator.leave(runs[1])
    asked = request(saes, 9, columns=("baseline", "steered"), where=SteeredPositions(special=True))
    half_read = run_of(model, saes, asked)
    joining = generator.join(half_read)
    next(joining)
    joining.close()  # it leaves while its prompt is read
    assert not generator.holds(half_read)
    written = [len(column.output) for column in runs[1].columns]
    while generator.n_texts:
        generator.step()
    assert [len(column.output) for column in runs[1].columns] == written
    for n in (0, 2, 3):
        assert [c.output for c in runs[n].columns] == [c.output for c in alone(model, saes, requests[n]).columns]


def test_a_run_that_breaks_leaves_the_others_alone(model: RowModel, saes: dict[str, Any]) -> None:
    sae_id = next(iter(saes))
    broken = Intervention(sae=sae_id, layer=2, latent=3, strength=100, max_act=1e37)
    bad = request(saes, 1, interventions=(broken,), where=SteeredPositions(positions="output"),
                  columns=("baseline", "steered"), sampling=Sampling(length=9, stop_at_eos=False))
    good = request(saes, 2)
    with pytest.raises(UserError, match="no longer a number"):
        alone(model, saes, bad)
    generator, runs = TextGenerator(model), [run_of(model, saes, asked) for asked in (bad, good)]
    for run in runs:
        for _ in generator.join(run):
            pass
    while generator.n_texts:
        generator.step()
    assert runs[0].error is not None
    assert [c.output for c in runs[1].columns] == [c.output for c in alone(model, saes, good).columns]


def test_a_text_in_the_row_of_a_broken_one_is_as_if_alone(model: RowModel, saes: dict[str, Any]) -> None:
    """The keys of a broken text are no numbers, and a mask does not hide these."""
    sae_id = next(iter(saes))
    broken = Intervention(sae=sae_id, layer=2, latent=3, strength=100, max_act=1e37)
    length = Sampling(length=20, stop_at_eos=False)
    bad = request(saes, 1, prompt="import os " * 8, interventions=(broken,), columns=("steered",),
                  where=SteeredPositions(positions="output"), sampling=length, samples=1)
    kept, next_one = (request(saes, seed, prompt=text, sampling=length) for seed, text in ((2, "x"), (3, "def ")))
    generator, runs = TextGenerator(model), [run_of(model, saes, asked) for asked in (bad, kept, next_one)]
    for run in runs[:2]:
        for _ in generator.join(run):
            pass
    while not runs[0].error:
        generator.step()
    for _ in generator.join(runs[2]):
        pass
    while generator.n_texts:
        generator.step()
    for run, asked in zip(runs[1:], (kept, next_one), strict=True):
        assert [c.output for c in run.columns] == [c.output for c in alone(model, saes, asked).columns]


def test_the_control_is_a_change_of_the_same_size_in_another_direction(model: RowModel, saes: dict[str, Any]) -> None:
    from sae.steering.interventions import Steering

    x_1SD = torch.randn(1, 5, 256, generator=torch.Generator().manual_seed(0)) * 3
    mask = torch.ones(1, 5, dtype=torch.bool)
    for sae_id, sae in saes.items():
        for mode in MODES:
            one = [Intervention(sae=sae_id, layer=sae.layer, latent=7, mode=mode, strength=1.5, max_act=4.0)]
            pushes = []
            for seed in (None, 1, 1, 2):
                edit = Steering(one, {sae_id: sae}, SteeredPositions(special=True), (), seed).edits(mask)[sae.out_hook]
                pushes.append((edit(x_1SD) - x_1SD)[0])
            true, control, again, other = pushes
            assert torch.equal(control, again)
            torch.testing.assert_close(control.norm(dim=1), true.norm(dim=1), rtol=1e-3, atol=1e-4)
            if float(true.norm()) > 0:
                assert not torch.allclose(control, other)
                assert abs(float(torch.cosine_similarity(control.flatten(), true.flatten(), 0))) < 0.4

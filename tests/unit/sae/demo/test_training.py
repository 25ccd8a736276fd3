"""Tests of the embedded model's training: it learns, it resumes to the same weights, it exports."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sae.demo.text import Roots, Streams, prepare_text
from sae.demo.training import BOS, Recipe, batch_of, export, lr_factor, new_model, pretrain
from sae.errors import UserError
from sae.lm.bridge import LanguageModel

TINY = Recipe(layers=2, d_model=32, heads=2, d_mlp=48, vocab=300, context=16, steps=8, batch=4, tokenizer_files=3,
              warmup=2, bf16=False)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Use one thread, so that this process and the killed one add numbers in the same order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> Roots:
    folder = tmp_path_factory.mktemp("source")
    roots = Roots(folder / "lib", folder / "packages")
    for root in (roots.stdlib, roots.packages):
        root.mkdir()
        for i in range(30):
            (root / f"m{i}.py").write_text(f"class {root.name.title()}{i}:\n    value = {i}\n" * 12)
    return roots


@pytest.mark.heavy
def test_a_killed_training_resumes_to_the_same_weights(roots: Roots, tmp_path: Path) -> None:
    whole = pretrain(TINY, tmp_path / "whole", roots, checkpoint_every=3)
    script = textwrap.dedent(f"""
        import os, time, torch
        from pathlib import Path, PosixPath
        from sae.demo.text import Roots
        from sae.demo.training import Recipe, pretrain
        torch.set_num_threads(1)
        def report(what, done, total):
            if what.startswith("training, loss") and done == 5:
                print("here", flush=True)
                time.sleep(60)
        pretrain({TINY!r}, Path({str(tmp_path / "killed")!r}), {roots!r}, checkpoint_every=3, report=report)
    """)
    child = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, env=dict(os.environ))
    assert child.stdout is not None
    assert child.stdout.readline() == b"here\n"
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    child.stdout.close()

    steps: list[int] = []
    resumed = pretrain(TINY, tmp_path / "killed", roots, checkpoint_every=3,
                       report=lambda what, done, total: steps.append(done))
    assert steps == [4, 5, 6, 7, 8]  # from the checkpoint after step 3
    assert whole is not None
    assert resumed is not None
    for (name, wanted), (_, got) in zip(whole.named_parameters(), resumed.named_parameters(), strict=True):
        assert torch.equal(wanted, got), name


def test_it_learns_and_the_export_loads_as_a_language_model(roots: Roots, tmp_path: Path) -> None:
    losses: list[float] = []
    recipe = replace(TINY, steps=40)

    def report(what: str, done: int, total: int) -> None:
        if what.startswith("training, loss"):
            losses.append(float(what.rpartition(" ")[2]))

    model = pretrain(recipe, tmp_path, roots, report=report)
    assert model is not None
    assert len(losses) == 40
    assert losses[-1] < 0.6 * losses[0]

    lm = LanguageModel.load(str(export(model, tmp_path, recipe)), "cpu")
    assert lm.bos_id == BOS
    tokens = torch.tensor([[BOS, *lm.encode("class Lib3:\n    value = 3\n")]])
    wanted = model(tokens).logits
    assert torch.allclose(lm.logits(tokens), wanted, atol=0.02 * float(wanted.detach().abs().max()))
    assert next(iter(model.parameters())).dtype == torch.float32  # exporting leaves the model alone


def test_minutes_stop_it_with_a_checkpoint(roots: Roots, tmp_path: Path) -> None:
    assert pretrain(TINY, tmp_path, roots, minutes=0) is None
    assert pretrain(TINY, tmp_path, roots) is not None


def test_a_folder_belongs_to_one_recipe(roots: Roots, tmp_path: Path) -> None:
    pretrain(TINY, tmp_path, roots, minutes=0)
    with pytest.raises(UserError, match=r"steps: .* not 9") as caught:
        pretrain(replace(TINY, steps=9), tmp_path, roots)
    assert caught.value.field == "steps"


@pytest.mark.parametrize("change", [{"heads": 3}, {"vocab": 100}, {"vocab": 70_000}, {"layers": 0}, {"context": 2}])
def test_sizes_that_cannot_be_are_refused(change: dict[str, int], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=next(iter(change))):
        pretrain(replace(TINY, **change), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_batch_depends_on_the_step_alone_and_mixes_both_streams(roots: Roots, tmp_path: Path) -> None:
    streams = prepare_text(tmp_path, roots, 300, 3, 0, lambda what, done, total: None)
    rows = batch_of(5, streams, TINY)
    assert torch.equal(rows, batch_of(5, streams, TINY))
    assert not torch.equal(rows, batch_of(6, streams, TINY))
    assert rows.shape == (4, 16)
    assert (rows[:, 0] == BOS).all()
    text = [bytes(stream) for stream in (streams.stdlib, streams.packages)]
    found = [[row[1:].numpy().astype("uint16").tobytes() in stream for stream in text] for row in rows]
    assert [in_stdlib for in_stdlib, _ in found[:2]] == [True, True]  # 40% of 4 contexts, rounded
    assert [in_packages for _, in_packages in found[2:]] == [True, True]


def test_a_stream_shorter_than_a_context_is_padded() -> None:
    import numpy as np

    short = np.arange(1, 4, dtype=np.uint16)
    rows = batch_of(0, Streams(short, short), TINY)
    assert rows[:, :5].tolist() == [[0, 1, 2, 3, 0]] * 4


def test_the_learning_rate_rises_stays_and_falls() -> None:
    recipe = Recipe(steps=100, warmup=10, decay_from=0.6, lr_floor=0.02)
    factors = [lr_factor(step, recipe) for step in range(100)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[9:60] == [1.0] * 51
    assert factors[99] == pytest.approx(0.02)
    assert all(a > b for a, b in itertools.pairwise(factors[60:]))


def test_the_untrained_model_depends_on_the_seed_alone() -> None:
    first, again, other = (new_model(replace(TINY, seed=seed)).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["model.embed_tokens.weight"], other["model.embed_tokens.weight"])

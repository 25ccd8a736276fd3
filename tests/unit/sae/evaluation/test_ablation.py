"""Ablation of single firings against one text at a time; the effective share against its bounds."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

from sae.evaluation.ablation import DEFINITIONS, POSITIONS, Ablation, draw_firings, effective_share, effects
from sae.evaluation.reading import read_tokens


def silent(done: int, of: int) -> None: ...


@pytest.fixture(scope="module")
def subject(subject_of: Any, tiny_sae: Any) -> Any:
    return subject_of(tiny_sae("batch_topk", "layer_norm", n_latents=40), [4, 0, 9])


def test_firings_are_real_and_one_a_latent(subject: Any) -> None:
    firings = draw_firings(subject, 25, 10**6, silent)
    assert len({f.latent for f in firings}) == len(firings) == 25
    assert firings == draw_firings(subject, 25, 10**6, silent)
    for f in firings:
        assert f.context in subject.contexts
        assert 0 < f.position < subject.corpus.length[f.context] - 1
        x_D = subject.model.activations(
            torch.from_numpy(subject.corpus.tokens[[f.context]].astype(np.int64)), subject.sae.hook)[:, f.position]
        act = float(subject.sae.activation_of(x_D, torch.tensor([f.latent])))
        assert act > 0
        assert f.length == pytest.approx(act * float(subject.sae.scale(x_D)), rel=1e-3)


def test_every_firing_of_a_latent_is_drawn_as_often() -> None:
    """Check the draw on one latent with a few firings, over many seeds."""
    from sae.evaluation.measure import Subject
    from tests.toys import ToyModel, toy_corpus, toy_sae

    sae, corpus, lm = toy_sae(threshold=4.0), toy_corpus(), ToyModel()
    contexts = np.arange(6)
    codes = [(batch, sae.codes(batch.x_ND)) for batch in read_tokens(
        Subject(sae, lm, corpus, contexts, 0), contexts, silent)]  # type: ignore[arg-type]
    (batch, found), = codes
    last_N = torch.from_numpy(corpus.length[batch.context_N.numpy()] - 1)
    usable = found.where((batch.position_N < last_N)[found.token_N])
    counts = torch.bincount(usable.latent_N, minlength=24)
    latent = int(torch.where((counts >= 4) & (counts <= 12), counts, 0).argmax())
    seen: dict[tuple[int, int], int] = {}
    for seed in range(300):
        subject = Subject(sae, lm, corpus, contexts, seed)  # type: ignore[arg-type]
        drawn = next(f for f in draw_firings(subject, 24, 10**6, silent) if f.latent == latent)
        seen[drawn.context, drawn.position] = seen.get((drawn.context, drawn.position), 0) + 1
    n = int(counts[latent])
    assert len(seen) == n
    assert max(abs(count - 300 / n) for count in seen.values()) < 5 * (300 / n) ** 0.5


def test_effects_are_those_of_each_text_alone(subject: Any) -> None:
    firings = draw_firings(subject, 6, 10**6, silent)
    generator = torch.Generator().manual_seed(0)
    random_ND = torch.randn(6, 256, generator=generator)
    random_ND /= random_ND.norm(dim=1, keepdim=True)
    channel_N = torch.randint(256, (6,), generator=generator)
    for number, (f, row) in enumerate(zip(firings, effects(subject, firings, silent), strict=True)):
        ids = torch.from_numpy(subject.corpus.tokens[[f.context], : subject.corpus.length[f.context]].astype(np.int64))

        def logits(change_D: Any, ids: torch.Tensor = ids, at: int = f.position) -> torch.Tensor:
            def edit(x_1SD: torch.Tensor) -> torch.Tensor:
                out = x_1SD.clone()
                out[0, at] = change_D(out[0, at])
                return out
            found: torch.Tensor = subject.model.logits(ids, {subject.sae.out_hook: edit})[0, at : at + POSITIONS]
            return found.double()

        def without_channel(x_D: torch.Tensor, channel: int = int(channel_N[number])) -> torch.Tensor:
            return torch.where(torch.arange(256) == channel, 0.0, x_D)

        clean = logits(lambda x_D: x_D)
        direction, length = subject.sae.W_dec_LD[f.latent], f.length
        changed = {"latent": logits(lambda x_D, d=direction, n=length: x_D - n * d), "channel": logits(without_channel),
                   "random": logits(lambda x_D, d=random_ND[number], n=length: x_D - n * d)}
        for kind, after in changed.items():
            v = after - clean
            v = v - v.median(dim=1, keepdim=True).values
            share = float((v.abs().sum() / v.norm()) ** 2 / v.numel())
            assert row["share"][kind] == pytest.approx(share, rel=2e-2)
            p, q = clean[0].log_softmax(0), after[0].log_softmax(0)
            assert row["kl"][kind] == pytest.approx(float((p.exp() * (p - q)).sum()), rel=1e-2, abs=1e-6)
            token = int(ids[0, f.position + 1])
            assert row["delta_ce"][kind] == pytest.approx(float(p[token] - q[token]), rel=1e-2, abs=1e-4)


def test_the_effective_share_is_one_if_all_logits_change_and_small_if_one_does() -> None:
    even = torch.cat([torch.zeros(1), torch.tensor([1.0, -1.0]).repeat(50)])[None].repeat(3, 1)  # 0 is the median
    assert effective_share(even) == pytest.approx(100 / 101)
    single = torch.zeros(3, 101)
    single[1, 7] = 5.0
    assert effective_share(single) == pytest.approx(1 / 303)
    assert effective_share(single + torch.tensor([[1.0], [-7.0], [2.0]])) == pytest.approx(1 / 303)
    assert effective_share(torch.zeros(3, 101)) == pytest.approx(1 / 303)


def test_the_result_is_plain_json_with_a_definition_for_every_value(subject: Any) -> None:
    result = Ablation(n_firings=6, n_tokens=200).run(subject, silent)
    assert {value.key for value in result.values} == set(DEFINITIONS)
    json.dumps(result.detail, allow_nan=False)
    found = {value.key: value.value for value in result.values}
    kl = [row["kl"] for row in result.detail["firings"]]
    assert found["kl_ratio"] == pytest.approx(sum(k["latent"] for k in kl) / sum(k["random"] for k in kl))
    assert found["kl_wins"] == sum(k["latent"] > k["random"] for k in kl) / 6

"""Builds exported as dashboards and imported again, dashboards written by SAEDashboard, and hostile files."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sae.errors import UserError
from sae.formats.dashboards.import_dashboard import import_dashboard, kind_of
from sae.formats.token_text import own_piece, piece_text
from sae.formats.writers import circuit_tracer, neuronpedia, saedashboard
from sae.formats.writers.archive import write_folder
from sae.formats.writers.dashboard_rows import Exporter
from sae.formats.writers.neuronpedia import Explanation
from sae.store.build import Build
from sae.store.latent_query import ALIVE, Filters
from sae.store.records import Context, Latent
from sae.workspace.paths import Workspace
from tests import FIXTURES
from tests.builds import make_build

SAE = "demo/2-res-batchtopk-4k"
CONFIG: dict[str, Any] = {
    "schema_version": 1, "id": SAE, "model": {"name": "demo", "id": "demo"},
    "site": {"layer": 2, "hook": "blocks.2.hook_resid_post"}, "architecture": "batch_topk", "n_latents": 60,
    "d_model": 256, "k": 12, "normalize": "layer_norm", "context_length": 128, "created": 1.0}
REAL = FIXTURES / "dashboards" / "saedashboard"


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    made = make_build(tmp_path_factory.mktemp("build") / "index-1.duckdb", n_latents=60, n_contexts=30, sae_id=SAE)
    return Build.open(made.path)


@pytest.fixture(scope="module")
def tree(build: Build, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a Neuronpedia export of the build."""
    folder = tmp_path_factory.mktemp("export") / "tree"
    write_folder(neuronpedia.members(Exporter(build, CONFIG), {4: [Explanation("a <b>dot</b>", "ada")]}), folder)
    return folder


@pytest.fixture(scope="module")
def batches(build: Build, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "batches"
    write_folder(saedashboard.members(Exporter(build, CONFIG)), folder)
    return folder


def imported(path: Path, folder: Path, **options: str) -> Build:
    workspace = Workspace(folder / "workspace")
    sae_id, build_id = import_dashboard(path, workspace, **options)
    assert json.loads((workspace.sae(sae_id) / "sae.json").read_text())["weights"] == "none"
    return Build.open(workspace.build(sae_id, build_id))


def pieces(build: Build, tokens: list[int]) -> list[bytes]:
    info = build.vocabulary
    return [info[t].piece for t in tokens]


def as_text(build: Build, context: Context) -> list[str]:
    return [piece.decode(errors="replace") if piece.startswith(b"\\x") else piece_text(piece)
            for piece in pieces(build, context.tokens)]


def without_empty_ends(counts: list[int] | None) -> list[int]:
    return list(np.trim_zeros(counts or []))


def facts(build: Build, context: Context) -> dict[str, Any]:
    """Return all facts of a context that a page shows."""
    return {**vars(context), "tokens": pieces(build, context.tokens)}


def all_of(build: Build, latent: Latent) -> dict[str, Any]:
    """Return all facts of a latent that a page shows, with tokens as bytes and histograms without empty ends."""
    pairs = {side: list(zip(pieces(build, [t for t, _ in getattr(latent, side)]),
                            [v for _, v in getattr(latent, side)], strict=True))
             for side in ("logit_pos", "logit_neg")}
    firings = {side: [(pieces(build, [f.token]), f.n, f.lift, f.max_act) for f in getattr(latent, side)]
               for side in ("top_tokens", "next_tokens")}
    values = {name: value for name, value in vars(latent).items() if name not in ("hist_edges", "logit_edges")}
    return values | pairs | firings | {
        "hist": without_empty_ends(latent.hist), "logit_hist": without_empty_ends(latent.logit_hist)}


def test_a_neuronpedia_tree_survives_a_round_trip(build: Build, tree: Path, tmp_path: Path) -> None:
    again = imported(tree, tmp_path, name="again")
    assert (again.n_latents, again.meta["imported"]["format"]) == (60, "Neuronpedia export")
    assert again.counts() == build.counts()
    for i in range(60):
        ours, theirs = build.latent(i), again.latent(i)
        assert ours is not None
        assert theirs is not None
        assert all_of(again, theirs) == all_of(build, ours)
        assert [facts(again, c) for c in again.contexts(i)] == [facts(build, c) for c in build.contexts(i)]
    assert again.explanations(4) == [("a <b>dot</b>", "ada")]
    assert again.explanations(5) == []


def test_the_edges_of_its_histograms_come_back(build: Build, tree: Path, tmp_path: Path) -> None:
    again = imported(tree, tmp_path)
    ours, theirs = build.latent(9), again.latent(9)
    assert ours is not None
    assert theirs is not None
    shared = [build.meta["hist_low"], *build.meta["hist_edges"]]
    assert theirs.hist_edges is not None
    assert all(np.isclose(shared, edge, rtol=1e-5).any() for edge in theirs.hist_edges)
    assert theirs.logit_edges is not None
    assert all(np.isclose(build.meta["logit_edges"], edge, atol=1e-5).any() for edge in theirs.logit_edges)


def read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in gzip.decompress(path.read_bytes()).split(b"\n") if line]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode(), 1))


def stripped(tree: Path, target: Path) -> Path:
    """Copy the tree as Neuronpedia would write it, without our extra keys and metadata."""
    shutil.copytree(tree, target)
    for path in target.glob("v1/*/*/*/*.gz"):
        rows = read_rows(path)
        for row in rows:
            row.pop("saescope", None)
            row["index"] = int(row["index"])  # the converter's way
        write_rows(path, rows)
    for path in target.glob("v1/*/*/source.jsonl"):
        row = json.loads(path.read_text())
        path.write_text(json.dumps(row | {"saelensConfig": None}))
    return target


def test_missing_facts_of_a_foreign_tree_stay_null(build: Build, tree: Path, tmp_path: Path) -> None:
    again = imported(stripped(tree, tmp_path / "foreign"), tmp_path)
    absent = ("mean_act", "std_act", "n_contexts", "mean_l0", "logit_kurtosis", "encoder_norm", "mean_position")
    for i in range(60):
        ours, theirs = build.latent(i), again.latent(i)
        assert ours is not None
        assert theirs is not None
        assert [getattr(theirs, name) for name in absent] == [None] * len(absent)
        assert (theirs.top_tokens, theirs.dead) == ([], ours.dead)
        assert (theirs.n_tokens or 0) == ours.n_tokens
        assert theirs.max_act == ours.max_act
        assert theirs.density == pytest.approx(ours.density, abs=2e-5)
        top = [c for c in build.contexts(i) if c.band == 0]
        shown = [c for c in again.contexts(i) if c.band == 0]
        # Parts of characters are written as escapes, which only our own files are known to do.
        assert {(b"".join(map(own_piece, as_text(build, c))), c.act) for c in top} == {
            (b"".join(map(own_piece, as_text(again, c))), c.act) for c in shown}
        assert all(c.start is None and c.document == "" for c in shown)
    assert again.l0_hist() == []
    assert again.samples() == []
    assert again.meta["bos_l0"] is None


def test_its_tokens_can_be_searched(tree: Path, tmp_path: Path) -> None:
    again = imported(tree, tmp_path)
    found = again.find_tokens("self")
    assert found
    listed = again.latents("token", True, Filters(frozenset([ALIVE])), found[0].token).rows
    for row in listed[:5]:
        contexts = again.contexts(row.latent)
        shown = [p for c in contexts for p, a in zip(pieces(again, c.tokens), c.acts, strict=True) if a]
        assert found[0].piece in shown
        assert row.token_n == shown.count(found[0].piece)
        assert row.token_lift is None


def test_saedashboard_batches_come_back(build: Build, batches: Path, tmp_path: Path) -> None:
    again = imported(batches, tmp_path)
    assert again.meta["imported"]["format"] == "SAEDashboard"
    for i in (0, 9, 17):
        ours, theirs = build.latent(i), again.latent(i)
        assert ours is not None
        assert theirs is not None
        assert without_empty_ends(theirs.hist) == without_empty_ends(ours.hist)
        assert pieces(again, [t for t, _ in theirs.logit_pos]) == pieces(build, [t for t, _ in ours.logit_pos])
        assert [c.act for c in again.contexts(i) if c.band == 0] == [c.act for c in build.contexts(i) if c.band == 0]


def test_batches_written_by_saedashboard(tmp_path: Path) -> None:
    """Compare contexts and values with the activations of model and SAE, computed when the batches were made."""
    expected = json.loads((REAL / "expected.json").read_text())
    assert kind_of(REAL) == "saedashboard"
    again = imported(REAL, tmp_path)
    assert again.meta["sae_id"] == "tiny/0-res-tiny"
    assert (again.n_latents, again.meta["context_length"], again.meta["text"]) == (12, 24, "this/file")
    for i in range(12):
        found = again.latent(i)
        assert found is not None
        assert found.dead == (i == expected["dead"])
        assert (found.n_tokens or 0) == expected["firings"][i]
        assert found.max_act == pytest.approx(expected["max"][i], abs=1e-3) or found.dead
        if not found.dead:
            assert found.density == pytest.approx(found.n_tokens / (len(expected["text"]) * 24))
            assert len(found.logit_pos) == len(found.logit_neg) == 10
            assert sum(found.logit_hist or []) == 8192
    assert again.contexts(expected["dead"]) == []
    for latent, column in zip((0, 9), expected["acts"], strict=True):
        acts = np.array(column).reshape(-1, 24)
        for context in again.contexts(latent):
            text = b"".join(pieces(again, context.tokens)).decode(errors="replace")
            row = next(i for i, other in enumerate(expected["text"]) if same_text(text, other)
                       and np.allclose(acts[i, 1:], context.acts, atol=2e-3))
            assert context.start == 1
            assert context.act == pytest.approx(acts[row, 1 + context.peak], abs=2e-3)
        tops = [c.act for c in again.contexts(latent) if c.band == 0]
        assert tops == sorted(tops, reverse=True)
        assert tops[0] == pytest.approx(acts.max(), abs=2e-3)


def same_text(ours: str, theirs: str) -> bool:
    """Compare texts, of which each may begin or end inside a character."""
    return ours.strip("\ufffd") in theirs or theirs.strip("\ufffd") in ours


def test_split_characters_are_whole_again(tmp_path: Path) -> None:
    again = imported(REAL, tmp_path)
    assert again.meta["byte_level"]
    texts = [b"".join(pieces(again, c.tokens)) for i in range(12) for c in again.contexts(i)]
    for wanted in ("日本語の", "🙂🦊", "café naïve “quoted”", "\u202ereversed\u202c", "</script><b onclick"):
        assert any(wanted.encode() in text for text in texts), wanted


def test_circuit_tracer_json(build: Build) -> None:
    exporter = Exporter(build, CONFIG)
    (latent, contexts), = build.records(9, 10)
    out = circuit_tracer.feature_json(exporter, latent, contexts)
    json.dumps(out, allow_nan=False)
    assert (out["index"], out["act_max"]) == (9, pytest.approx(latent.max_act))
    strongest = out["examples_quantiles"][0]["examples"]
    assert len(strongest) == len([c for c in contexts if c.band == 0])
    first = strongest[0]
    assert max(first["tokens_acts_list"]) == first["tokens_acts_list"][first["train_token_ind"]]
    assert len(out["quantile_values"]) == 99
    assert out["quantile_values"] == sorted(out["quantile_values"])


def damaged(change: Callable[[dict[str, Any]], Any], kind: str = "activations") -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        path = next(root.glob(f"v1/*/*/{kind}/*.gz"))
        rows = read_rows(path)
        change(rows[3])
        write_rows(path, rows)
    return damage


def cut(root: Path) -> None:
    path = next(root.glob("v1/*/*/activations/*.gz"))
    path.write_bytes(path.read_bytes()[:-4000])


def no_gzip(root: Path) -> None:
    next(root.glob("v1/*/*/features/*.gz")).write_bytes(b"{}\n" * 100)


def bomb(root: Path) -> None:
    next(root.glob("v1/*/*/activations/*.gz")).write_bytes(gzip.compress(b'{"tokens": ["' + b"a" * (20 << 20)))


def many(root: Path) -> None:
    next(root.glob("v1/*/*/activations/*.gz")).write_bytes(gzip.compress(b"\n" * (80 << 20)))


@pytest.mark.parametrize("damage", [
    cut, no_gzip, bomb, many,
    damaged(lambda row: row.update(values=row["values"][:-1])),
    damaged(lambda row: row["values"].__setitem__(0, 1e400)),
    damaged(lambda row: row["values"].__setitem__(0, float("nan"))), damaged(lambda row: row.update(tokens="text")),
    damaged(lambda row: row.update(tokens=["x"] * 20_000, values=[0.0] * 20_000)),
    damaged(lambda row: row["tokens"].__setitem__(0, "x" * 5000)), damaged(lambda row: row.update(index=-1)),
    damaged(lambda row: row.update(index=2**40)), damaged(lambda row: row.update(index=0), "features")])
def test_damaged_trees_are_refused_in_one_line(tree: Path, tmp_path: Path, damage: Callable[[Path], None]) -> None:
    shutil.copytree(tree, tmp_path / "tree")
    damage(tmp_path / "tree")
    workspace = Workspace(tmp_path / "workspace")
    with pytest.raises(UserError) as caught:
        import_dashboard(tmp_path / "tree", workspace)
    assert "\n" not in str(caught.value)
    assert caught.value.field == "source"
    assert not list(tmp_path.glob("workspace/**/*")), "nothing is left behind"


def test_a_stopped_import_leaves_nothing(tree: Path, tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        assert 0 < done <= total
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_dashboard(tree, Workspace(tmp_path / "workspace"), update=stop)
    assert not list(tmp_path.glob("workspace/**/*"))


def test_a_name_that_is_taken_is_refused(tree: Path, tmp_path: Path) -> None:
    imported(tree, tmp_path)
    with pytest.raises(UserError, match="already"):
        imported(tree, tmp_path)


def test_names_cannot_leave_the_workspace(tree: Path, tmp_path: Path) -> None:
    shutil.copytree(tree, tmp_path / "tree")
    for path in (tmp_path / "tree").glob("v1/*/*/*/*.gz"):
        rows = [row | {"modelId": "../../../etc", "layer": "../0"} for row in read_rows(path)]
        write_rows(path, rows)
    next((tmp_path / "tree").glob("v1/*/*/source.jsonl")).write_text('{"id": "../../x"}')
    again = imported(tmp_path / "tree", tmp_path)
    assert again.meta["sae_id"] == "etc/x"
    assert {p.name for p in tmp_path.iterdir()} == {"tree", "workspace"}


def test_odd_numbers_become_absent_not_zero(tree: Path, tmp_path: Path) -> None:
    shutil.copytree(tree, tmp_path / "tree")
    damaged(lambda row: row.update(
        frac_nonzero=float("nan"), maxActApprox=None, freq_hist_data_bar_heights=[0.5], pos_values=None, saescope=None,
        topkCosSimIndices=["x"], topkCosSimValues=[0.3]), "features")(tmp_path / "tree")
    again = imported(tmp_path / "tree", tmp_path)
    found = again.latent(3)
    assert found is not None
    assert (found.density, found.hist, found.n_tokens) == (None, None, None)
    assert (found.logit_pos, found.neighbours, found.mean_act) == ([], [], None)
    assert found.max_act == max(c.act for c in again.contexts(3))


def test_what_is_no_dashboard(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert kind_of(tmp_path) is None
    assert kind_of(tmp_path / "missing") is None
    with pytest.raises(UserError, match="neither a Neuronpedia export nor SAEDashboard"):
        import_dashboard(tmp_path, Workspace(tmp_path / "workspace"))

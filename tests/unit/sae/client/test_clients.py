"""Tests of the client against a running server."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from sae.client import AsyncClient, Client, SaescopeError, SteerEvent, SteeringResult
from tests import ROOT
from tests.unit.sae.client.conftest import N_LATENTS, SAE, Served, make_token

TEXT = "def read(self):\n    return self"


@pytest.fixture
def client(served: Served) -> Iterator[Client]:
    with Client(served.url + "/", served.token) as client:
        yield client


def test_models_and_saes(client: Client) -> None:
    (model,) = client.models()
    assert (model.model, model.saes) == ("demo", [SAE])
    (one,) = client.saes()
    assert one == client.sae(SAE)
    assert (one.id, one.n_latents, one.build) == (SAE, N_LATENTS, "build-1")


def test_a_search_gives_latents_with_reasons(client: Client) -> None:
    found = client.search("self", limit=3)
    assert len(found) == 3
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
    assert found[0].sae == SAE
    assert found[0].reasons[0].words
    assert client.search("self", sae=SAE)[0].latent == found[0].latent
    assert client.search("zzqx") == []


def test_a_latent_has_its_tokens_as_text(client: Client) -> None:
    one = client.latent(SAE, 39)
    assert any("self" in token for token, _, _ in one.fires_on)
    strongest = one.contexts[0]
    assert strongest.acts[strongest.peak] == pytest.approx(one.max_act)
    assert strongest.tokens[strongest.peak] in strongest.text
    assert list(one.to_frame().columns) == ["band", "rank", "act", "document", "text"]
    assert len(one.to_frame()) == len(one.contexts)


def test_a_latent_in_a_notebook_is_escaped(client: Client) -> None:
    client.write_label(SAE, 5, "<script>x</script>")
    shown = client.latent(SAE, 5)._repr_html_()
    assert "&lt;script&gt;x&lt;/script&gt;" in shown
    assert "<script" not in shown  # the hostile document has one, too
    assert f"{client.url}/{SAE}/5" in shown


def test_a_table_is_read_over_several_pages(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sae.client.requests.MAX_PAGE", 7)
    every = client.latents(SAE, limit=None)
    assert [row["latent"] for row in every.rows] == list(range(N_LATENTS)) == list(every.to_frame().index)
    assert (every.total, len(client.latents(SAE, limit=10).rows)) == (N_LATENTS, 10)
    by_density = client.latents(SAE, limit=3, sort="density", dir="desc")
    densities = [row["density"] for row in by_density.rows]
    assert densities == sorted(densities, reverse=True)
    assert f"{SAE}: 3 of {N_LATENTS} latents, by density" in by_density._repr_html_()
    none = client.latents(SAE, token="#0")
    assert (none.rows, len(none.to_frame())) == ([], 0)


def test_a_label_is_written_by_version_and_nothing_is_lost(client: Client) -> None:
    before = client.label(SAE, 7)
    first = client.write_label(SAE, 7, "first", tags=["b", "a"], starred=True, version=before.version)
    assert (first.text, first.tags, first.starred, first.author) == ("first", ["a", "b"], True, "ada")
    second = client.write_label(SAE, 7, "second", version=first.version)
    assert [one["text"] for one in second.earlier] == ["first"]
    assert second.tags == ["a", "b"]
    with pytest.raises(SaescopeError) as caught:
        client.write_label(SAE, 7, "third", version=first.version)
    assert (caught.value.status, caught.value.field, caught.value.body["theirs"]["text"]) == (409, "version", "second")
    assert [one.text for one in client.labels(SAE) if one.latent == 7] == ["second"]
    assert client.search("second")[0].label == "second"
    assert client.write_label(SAE, 7, "").text == ""


def test_activations_of_many_texts_are_sparse(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sae.client.requests.MAX_BATCH", 2)  # so that three texts take two requests
    texts = [TEXT, "class A:", "a = 1"]
    found = client.activations(SAE, texts, top=4)
    assert ["".join(token.text for token in one.tokens if not token.special) for one in found] == texts
    first = found[0]
    assert first.tokens[0].special
    assert len(first.positions) == len(first.latents) == len(first.activations) > 0
    assert 0 < len(first.ranked) <= 4
    latent = first.latents[0]
    assert first.of(latent)[first.positions[0]] == first.activations[0]
    table = first.to_frame()
    assert list(table.columns) == ["position", "token", "latent", "activation"]
    assert len(table) == len(first.positions)
    assert "read" in first._repr_html_()


def test_activations_of_chosen_latents(client: Client) -> None:
    (every,) = client.activations(SAE, TEXT)
    latent = every.latents[-1]
    (one,) = client.activations(SAE, TEXT, latents=[latent])
    assert set(one.latents) == {latent}
    assert {row.latent for row in one.ranked} <= {latent}
    with pytest.raises(SaescopeError, match=r"latents: .* there is no 999"):
        client.activations(SAE, TEXT, latents=[999])
    with pytest.raises(SaescopeError) as caught:
        client.activations(SAE, ["a", " "])
    assert (caught.value.status, caught.value.field) == (422, "texts.1")


def test_steering_gives_both_texts(client: Client) -> None:
    run = client.steer([{"sae": SAE, "latent": 2, "strength": 3}], "def main(", length=8, seed=1, samples=2)
    assert run.state == "succeeded"
    assert set(run.text) == {"baseline", "steered", "baseline.2", "steered.2"}
    assert run.text["baseline"] != run.text["steered"]
    assert run.request["sampling"]["length"] == 8
    assert run == client.steering(run.id)
    assert list(run.to_frame()["name"]) == list(run.text)
    shown = run._repr_html_()
    assert run.url in shown
    assert httpx.get(run.url).status_code == 200


def test_a_latent_without_a_strength_gets_a_usual_one(client: Client) -> None:
    run = client.steer([{"sae": SAE, "latent": 2}], "def main(", length=4)
    assert run.request["interventions"][0]["strength"] > 0


def test_all_settings_reach_the_request(client: Client) -> None:
    run = client.steer(
        [{"sae": SAE, "latent": 2, "mode": "clamp", "target": 1.5}, {"sae": SAE, "latent": 3, "mode": "ablate"}],
        "def main(", temperature=0.5, top_p=0.9, top_k=7, length=4, seed=3, repetition_penalty=1.1,
        stop=["a\nb", "\\n"], positions="from", start=2, special=True, control=True)
    request = run.request
    assert [(i["latent"], i["mode"], i["strength"]) for i in request["interventions"]] == [
        (2, "clamp", 1.5), (3, "ablate", 0.0)]
    assert request["sampling"] == {
        "temperature": 0.5, "top_p": 0.9, "top_k": 7, "length": 4, "seed": 3, "repetition_penalty": 1.1,
        "stop": ["a\nb", "\\n"], "stop_at_eos": True}
    assert request["where"] == {"positions": "from", "start": 2, "special": True}
    assert request["columns"] == ["baseline", "steered", "control"]


def test_a_sweep_has_a_text_for_each_strength(client: Client) -> None:
    run = client.steer([{"sae": SAE, "latent": 2}], "def main(", sweep=[0.5, 4], length=4)
    assert list(run.strengths) == [None, 0.5, 4.0]
    assert len(run.to_frame()) == 3
    assert "unsteered" in run._repr_html_()
    assert len(client.steer([{"sae": SAE, "latent": 2}], "def main(", sweep=[], length=4).strengths) > 2


def test_texts_are_streamed(client: Client) -> None:
    *growing, last = client.steer_events([{"sae": SAE, "latent": 2, "strength": 3}], "def main(", length=8)
    assert growing
    assert all(isinstance(event, SteerEvent) for event in growing)
    assert isinstance(last, SteeringResult)
    assert last.finished
    assert isinstance(growing[-1], SteerEvent)
    assert growing[-1].text == last.text
    assert client.stop_steering(last.id).state == "succeeded"  # it has ended and stays as it is


@pytest.mark.parametrize(("latents", "settings", "field"), [
    ([], {}, "add"),
    ([{"sae": SAE, "latent": 999}], {}, "latent-0"),
    ([{"sae": "demo/none", "latent": 1}], {}, "latent-0"),
    ([{"sae": SAE, "latent": 2, "strength": 1e6}], {}, "strength-0"),
    ([{"sae": SAE, "latent": 2}], {"top_p": 7}, "top_p"),
    ([{"sae": SAE, "latent": 2}], {"tempo": 7}, "tempo")])
def test_a_fault_names_its_field(
    client: Client, latents: list[dict[str, Any]], settings: dict[str, Any], field: str
) -> None:
    with pytest.raises(SaescopeError) as caught:
        client.steer(latents, "def", **settings)
    assert (caught.value.status, caught.value.field) == (422, field)
    assert str(caught.value)


def test_a_chat_needs_a_model_that_chats(client: Client) -> None:
    with pytest.raises(SaescopeError, match="no chat template") as caught:
        client.steer([{"sae": SAE, "latent": 2}], chat=[{"role": "system", "content": "Be brief"},
                                                        {"role": "user", "content": "Hello"}])
    assert caught.value.field == "chat"
    with pytest.raises(SaescopeError, match="should be the user's"):
        client.steer([{"sae": SAE, "latent": 2}], chat=[{"role": "assistant", "content": "Hello"}])


def test_runs_are_started_and_cancelled(client: Client) -> None:
    run = client.start_run("evaluate", sae=SAE)
    assert (run.kind, run.state) == ("evaluate", "queued")
    assert run.id in [one.id for one in client.runs()]
    assert client.cancel_run(run.id).state == "cancelled"
    assert client.run(run.id).state == "cancelled"


def test_what_a_token_may_not_do_is_refused(served: Served) -> None:
    with Client(served.url, make_token(served.app)) as reader:
        assert reader.saes()
        with pytest.raises(SaescopeError, match="scope “steer”") as caught:
            reader.steer([{"sae": SAE, "latent": 2}], "def")
        assert caught.value.status == 403
    with Client(served.url) as nobody:
        assert nobody.saes()
        with pytest.raises(SaescopeError) as caught:
            nobody.write_label(SAE, 3, "x")
        assert caught.value.status == 401


def test_the_asynchronous_client_does_the_same(served: Served, client: Client) -> None:
    async def use() -> None:
        async with AsyncClient(served.url, served.token) as other:
            assert await other.saes() == client.saes()
            assert await other.latent(SAE, 39) == client.latent(SAE, 39)
            assert await other.latents(SAE, limit=5) == client.latents(SAE, limit=5)
            assert await other.search("self") == client.search("self")
            assert await other.activations(SAE, TEXT) == client.activations(SAE, TEXT)
            runs = await asyncio.gather(*(
                other.steer([{"sae": SAE, "latent": n, "strength": 2}], "def", length=6) for n in (2, 3)))
            assert [run.state for run in runs] == ["succeeded", "succeeded"]
            events = [event async for event in other.steer_events([{"sae": SAE, "latent": 2}], "def", length=6)]
            assert isinstance(events[-1], SteeringResult)
            with pytest.raises(SaescopeError):
                await other.sae("demo/none")

    asyncio.run(use())


def test_both_clients_have_the_same_methods() -> None:
    assert {name for name in vars(Client) if not name.startswith("_")} == {
        name for name in vars(AsyncClient) if not name.startswith("_")}


def test_another_server_gives_a_clear_error(served: Served) -> None:
    with Client(f"{served.url}/static/css") as client, pytest.raises(SaescopeError, match="Not found"):
        client.saes()


def test_the_example_in_the_readme_runs(served: Served) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(from sae\.client .*?)```", readme, re.DOTALL)
    names: dict[str, Any] = {}
    exec(example.replace("http://127.0.0.1:8000", served.url).replace("saescope_...", served.token), names)
    names["client"].close()
    assert names["found"]


def test_the_client_imports_only_httpx() -> None:
    script = ("import sys, sae.client\n"
              "print(sorted({'torch', 'app', 'numpy', 'pandas', 'pydantic', 'mcp'} & set(sys.modules)))")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

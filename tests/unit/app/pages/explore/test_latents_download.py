"""The latent table as a file holds what the table shows, for every row of the list."""

from __future__ import annotations

import csv
import io

import pyarrow.parquet as pq
import pytest
from fastapi.testclient import TestClient

from app.library import labels
from tests.unit.app.conftest import BATCH
from tests.unit.app.pages.html import json_of

TABLE = f"/{BATCH}/latents"


def rows_of(client: TestClient, query: str = "") -> list[dict[str, str]]:
    answer = client.get(f"{TABLE}.csv{query}")
    assert answer.status_code == 200, answer.text
    assert 'filename="2-res-batchtopk-4k-latents.csv"' in answer.headers["content-disposition"]
    return list(csv.DictReader(io.StringIO(answer.text)))


def test_all_rows_in_the_order_of_the_list(browsable: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.pages.explore.latents_download.MAX_PAGE", 7)  # many pages
    query = "?sort=max&dir=desc&flag=alive"
    wanted = json_of(browsable, f"{TABLE}.json{query}&limit=1000")["latents"]
    rows = rows_of(browsable, query)
    assert [int(row["latent"]) for row in rows] == [row["latent"] for row in wanted]
    assert len(rows) > 7
    for name, key in (("max", "max_act"), ("l0", "mean_l0"), ("cosine", "nearest_cos"), ("position", "mean_position")):
        assert [float(row[name]) if row[name] else None for row in rows] == [row[key] for row in wanted]


def test_only_chosen_columns_and_those_of_a_token(browsable: TestClient) -> None:
    assert list(rows_of(browsable, "?columns=skew,density")[0]) == [
        "latent", "label", "explanation", "rule", "kinds", "firings", "skew", "density"]
    token = rows_of(browsable, "?token=self&columns=max")
    assert list(token[0])[-4:] == ["lift", "firings_on_token", "max_on_token", "max"]
    assert int(token[0]["firings_on_token"]) > 0


def test_parquet_has_the_same_values_and_types(browsable: TestClient) -> None:
    answer = browsable.get(f"{TABLE}.parquet")
    table = pq.read_table(io.BytesIO(answer.content))
    rows = rows_of(browsable)
    assert table.column("latent").to_pylist() == [int(row["latent"]) for row in rows]
    assert table.column("density").to_pylist() == [float(row["density"]) if row["density"] else None for row in rows]
    assert all(isinstance(tokens, list) for tokens in table.column("top_logits").to_pylist())


def test_a_label_is_no_formula_in_a_spreadsheet(browsable: TestClient) -> None:
    with browsable.app.state.sessions() as db:  # type: ignore[attr-defined]
        labels.save(db, BATCH, 3, "ada", text="=SUM(A1)")
    assert rows_of(browsable)[3]["label"] == "'=SUM(A1)"


@pytest.mark.parametrize(("address", "status", "said"), [
    (f"{TABLE}.xlsx", 404, "csv or parquet"), (f"{TABLE}.csv?columns=nonsense", 422, "columns"),
    (f"{TABLE}.csv?sort=nonsense", 422, "sort")])
def test_what_cannot_be_sent(browsable: TestClient, address: str, status: int, said: str) -> None:
    answer = browsable.get(address)
    assert answer.status_code == status
    assert said in answer.text

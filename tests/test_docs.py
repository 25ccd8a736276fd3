"""Tests of the documents: what they promise exists, and every setting and command is documented."""

from __future__ import annotations

import re

import pytest
from pydantic import AliasChoices
from typer.main import get_command

from app.cli import app
from app.settings import Settings
from tests import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = (
    "README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "sae/demo/model/README.md",
    *(f"docs/decisions/{path.name}" for path in sorted((ROOT / "docs" / "decisions").glob("*.md"))),
    *(f"docs/guide/{path.name}" for path in sorted((ROOT / "docs" / "guide").glob("*.md"))))


def test_every_setting_stands_in_the_readme_with_its_default() -> None:
    rows = {match[1]: match[2] for match in re.finditer(r"^\| `(\w+)` \| ([^|]*) \|", README, re.MULTILINE)}
    for name, field in Settings.model_fields.items():
        alias = field.validation_alias
        variable = str(alias.choices[0] if isinstance(alias, AliasChoices) else alias or f"SAESCOPE_{name.upper()}")
        assert variable in rows, f"{variable} is not in README.md"
        if isinstance(field.default, bool | int | float):
            assert rows[variable].strip("`") == str(field.default).lower()


def test_the_readme_names_every_command_and_no_other() -> None:
    commands = set(getattr(get_command(app), "commands"))  # noqa: B009  (typer's own type does not say so)
    assert set(re.findall(r"^\| `saescope ([\w-]+)", README, re.MULTILINE)) == commands


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document: str) -> None:
    path = ROOT / document
    for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text(encoding="utf-8")):
        assert (path.parent / target).exists(), f"{document} links to {target}"


def test_the_files_that_the_architecture_maps_are_there() -> None:
    """Check every `path/name.py` that ARCHITECTURE.md mentions in running text."""
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    mentioned = set(re.findall(r"`((?:sae|app|tests)/[\w/]+\.py)`", text))
    assert len(mentioned) > 5
    assert [name for name in sorted(mentioned) if not (ROOT / name).exists()] == []


def test_every_direct_dependency_is_pinned() -> None:
    pinned = set(re.findall(r"^([\w-]+)==", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    project = (ROOT / "pyproject.toml").read_text().partition("[project.scripts]")[0]
    wanted = re.findall(r'"([A-Za-z][\w-]*)(?:\[\w+\])?(?:[<>=,.\d]*)"', project.partition("dependencies = [")[2])
    assert {name.lower().replace("_", "-") for name in wanted} <= pinned
    assert "torch==2.13.0\n" in (ROOT / "constraints.txt").read_text()


# Small modules whose behaviour the tests of another one cover.
ELSEWHERE = {
    "app/db/people_tables.py": "tests/unit/app/library/test_lists.py",
    "app/db/server_tables.py": "tests/unit/app/servers/test_relay.py",
    "app/jobs/doctor.py": "tests/unit/app/test_cli_care.py",
    "app/jobs/launchers/commands.py": "tests/unit/app/jobs/launchers/test_slurm.py",
    "app/jobs/launchers/elsewhere.py": "tests/unit/app/jobs/launchers/test_ray.py",
    "app/library/comments.py": "tests/unit/app/pages/explore/test_people.py",
    "app/library/evaluations.py": "tests/unit/app/pages/explore/test_quality_views.py",
    "app/library/latent_effects.py": "tests/unit/app/pages/inspect/test_effects.py",
    "app/library/stores.py": "tests/unit/app/page_workers/test_process.py",
    "app/pages/api/effects.py": "tests/unit/app/pages/inspect/test_effects.py",
    "app/pages/api/search.py": "tests/unit/app/pages/inspect/test_text_search.py",
    "app/pages/api/security.py": "tests/unit/app/pages/runs/test_api_docs.py",
    "app/pages/explore/items.py": "tests/unit/sae/lm/test_item_model.py",
    "app/pages/explore/map_found.py": "tests/unit/app/pages/find/test_phrase.py",
    "app/pages/lists/views.py": "tests/unit/app/pages/lists/test_pages.py",
    "app/pages/runs/explain_cost.py": "tests/unit/app/pages/explore/test_explanations.py",
    "app/pages/stars.py": "tests/unit/app/pages/explore/test_people.py",
    "app/pages/system/api_tokens.py": "tests/unit/app/access/test_tokens.py",
    "app/pages/system/audit.py": "tests/unit/app/access/test_audit.py",
    "app/resources.py": "tests/test_wheel.py",
    "app/worker/server.py": "tests/unit/app/worker/test_engine.py",
    "sae/autoencoder/architectures/batch.py": "tests/unit/sae/autoencoder/architectures/test_planted.py",
    "sae/autoencoder/architectures/matryoshka.py": "tests/unit/sae/autoencoder/architectures/test_planted.py",
    "sae/autoencoder/architectures/relu.py": "tests/unit/sae/autoencoder/architectures/test_planted.py",
    "sae/autoencoder/architectures/topk.py": "tests/unit/sae/autoencoder/architectures/test_planted.py",
    "sae/autoencoder/config.py": "tests/unit/sae/autoencoder/test_artefact.py",
    "sae/cli/curves.py": "tests/unit/sae/runs/test_curve_export.py",
    "sae/cli/explanations.py": "tests/unit/sae/explain/exchange/test_formats.py",
    "sae/data/documents.py": "tests/unit/sae/data/test_texts.py",
    "sae/data/median_norm.py": "tests/unit/sae/data/test_left_out.py",
    "sae/distributed/checkpoint.py": "tests/unit/sae/distributed/test_run.py",
    "sae/errors.py": "tests/unit/sae/cli/test_main.py",
    "sae/evaluation/anchors.py": "tests/unit/sae/runs/test_evaluate.py",
    "sae/evaluation/measure.py": "tests/unit/sae/runs/test_evaluate.py",
    "sae/explain/budget.py": "tests/unit/sae/explain/test_endpoint.py",
    "sae/explain/checks.py": "tests/unit/sae/runs/test_explain.py",
    "sae/explain/choice.py": "tests/unit/sae/runs/test_explain.py",
    "sae/explain/endpoint_settings.py": "tests/unit/sae/explain/test_endpoint.py",
    "sae/explain/estimate.py": "tests/unit/sae/runs/test_explain.py",
    "sae/explain/explainers.py": "tests/unit/sae/runs/test_explain.py",
    "sae/explain/local_model.py": "tests/unit/sae/runs/test_explain.py",
    "sae/explain/output_side.py": "tests/unit/sae/explain/test_model_side.py",
    "sae/explain/results.py": "tests/unit/sae/explain/exchange/test_formats.py",
    "sae/explain/sae_reader.py": "tests/unit/sae/explain/test_model_side.py",
    "sae/formats/dashboards/feature_json.py": "tests/unit/sae/formats/dashboards/test_import_dashboard.py",
    "sae/formats/readers/openai.py": "tests/unit/sae/formats/readers/test_registry.py",
    "sae/formats/writers/circuit_tracer.py": "tests/unit/sae/formats/dashboards/test_import_dashboard.py",
    "sae/formats/writers/dashboard_rows.py": "tests/unit/sae/formats/dashboards/test_import_dashboard.py",
    "sae/formats/writers/kinds.py": "tests/unit/sae/cli/test_export.py",
    "sae/formats/writers/parquet.py": "tests/unit/sae/cli/test_export.py",
    "sae/formats/writers/saedashboard.py": "tests/unit/sae/formats/dashboards/test_import_dashboard.py",
    "sae/formats/writers/saescope.py": "tests/unit/sae/formats/test_round_trip.py",
    "sae/kernels/threads.py": "tests/unit/sae/lm/test_fast_reader.py",
    "sae/lm/conformance/opening.py": "tests/unit/sae/lm/conformance/test_check.py",
    "sae/lm/device.py": "tests/unit/sae/lm/test_bridge.py",
    "sae/lm/library_config.py": "tests/unit/sae/lm/test_model_info.py",
    "sae/lm/reach.py": "tests/unit/sae/lm/test_row_model.py",
    "sae/reproduce/claims.py": "tests/unit/sae/reproduce/test_batchtopk.py",
    "sae/reproduce/paper.py": "tests/unit/sae/reproduce/test_report.py",
    "sae/runs/create.py": "tests/unit/sae/runs/test_execute.py",
    "sae/runs/inspect_source.py": "tests/unit/app/pages/runs/test_add_sae.py",
    "sae/specs/evaluate.py": "tests/unit/sae/runs/test_evaluate.py",
    "sae/specs/imports.py": "tests/unit/sae/runs/test_import_sae.py",
    "sae/store/connection.py": "tests/unit/sae/store/test_build.py",
    "sae/store/context_pool.py": "tests/unit/sae/explain/test_examples.py",
    "sae/store/damage.py": "tests/unit/app/test_cli_care.py",
    "sae/store/firings.py": "tests/unit/sae/store/test_facets.py",
    "sae/store/recent.py": "tests/unit/sae/store/test_facets.py",
    "sae/training/dead.py": "tests/unit/sae/training/test_trainer.py",
}
# Larger modules that still share a test file; each of them is to get its own.
SHARED = {
    "sae/kernels/triton_batch_topk.py": "tests/unit/sae/kernels/test_triton_select.py",
}
SMALL = 80  # lines; a larger module has a test file of its own


def test_every_module_has_its_tests() -> None:
    """Check that `app/a/b.py` has `tests/unit/app/a/test_b.py`, unless it is small and tested elsewhere."""
    modules = [path for package in ("sae", "app") for path in (ROOT / package).rglob("*.py")
               if not path.name.startswith("__")]
    assert len(modules) > 200
    untested = {path.relative_to(ROOT).as_posix(): len(path.read_text(encoding="utf-8").splitlines())
                for path in modules
                if not (ROOT / "tests" / "unit" / path.relative_to(ROOT)).with_name(f"test_{path.name}").exists()}
    assert sorted(untested) == sorted(ELSEWHERE | SHARED)
    assert {name for name, lines in untested.items() if lines > SMALL} == set(SHARED)
    assert [name for name, tests in (ELSEWHERE | SHARED).items() if not (ROOT / tests).exists()] == []

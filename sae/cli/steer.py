"""The command `saescope steer`: baseline and steered text in the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import typer
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from sae.errors import UserError
from sae.steering.request import Intervention, Mode, SteerRequest, norm_ratio, parse_request, typical_scale
from sae.store.build import Build
from sae.workspace.paths import Workspace


def steer_command(
    sae: Annotated[str, typer.Option(help="The SAE, as <model>/<name>")],
    latent: Annotated[list[int], typer.Option(help="Latent to steer with; repeat the option to steer with several")],
    prompt: Annotated[str, typer.Option(help="Text to continue")],
    strength: Annotated[list[float] | None, typer.Option(
        help="In units of the latent's maximum activation (mode scale: the factor); one for all latents, or one for "
             "each")] = None,
    mode: Annotated[str, typer.Option(help="add, clamp, scale, ablate or remove")] = "add",
    positions: Annotated[str, typer.Option(help="Steered positions: all, output, or from (see --start)")] = "all",
    start: Annotated[int, typer.Option(help="First steered position with --positions from; BOS is 0")] = 0,
    special: Annotated[bool, typer.Option(help="Steer BOS and other special tokens too")] = False,
    markup: Annotated[bool | None, typer.Option(
        help="Whether special tokens that are spelled in the prompt are read as these tokens; left out: as the SAE "
             "says")] = None,
    temperature: Annotated[float, typer.Option(help="0: always the most likely token")] = 0.7,
    top_p: Annotated[float, typer.Option(
        help="Draw from the most likely tokens that together have this probability")] = 0.95,
    top_k: Annotated[int, typer.Option(help="Draw from this many of the most likely tokens; 0: all")] = 0,
    length: Annotated[int, typer.Option(help="Tokens to write")] = 60,
    seed: Annotated[int, typer.Option(help="Seed of both texts")] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda[:n], mps or auto")] = "auto",
) -> None:
    """Continue a prompt twice from one seed: without steering, and with the chosen latents steered."""
    workspace = Workspace.from_environment()
    strengths = strength or [4.0]
    if len(strengths) not in (1, len(latent)):
        raise UserError(f"strength: give one, or one for each of the {len(latent)} latents", "strength")
    with_strengths = list(zip(latent, strengths * (len(latent) if len(strengths) == 1 else 1), strict=True))
    chosen, notes = interventions_from_build(workspace, sae, with_strengths, mode)
    request = parse_request({
        "model": sae, "prompt": prompt, "markup": markup, "interventions": [i.model_dump() for i in chosen],
        "where": {"positions": positions, "start": start, "special": special},
        "sampling": {"temperature": temperature, "top_p": top_p, "top_k": top_k, "length": length, "seed": seed}})
    console = Console()
    for note in notes:
        console.print(note, style="dim", highlight=False)
    with Live(console=console, auto_refresh=False, transient=not console.is_terminal) as live:
        table = Table()
        for baseline, steered in _texts(workspace, sae, request, device):
            table = _table(prompt, baseline, steered)
            live.update(table, refresh=console.is_terminal)
    if not console.is_terminal:
        console.print(table)


def interventions_from_build(
    workspace: Workspace, sae_id: str, latents: list[tuple[int, float]], mode: str
) -> tuple[list[Intervention], list[str]]:
    """Return interventions in units of the newest build's maximum activations, and a line of text about each.

    Raises UserError if the SAE has no build, or a latent does not exist or never fired in the build.
    """
    from sae.autoencoder.config import read_config

    config = read_config(workspace.sae(sae_id))
    builds = workspace.build_ids(sae_id)
    if not builds:
        raise UserError(
            f"sae: {sae_id} has no build, and strengths are in units of its maximum activations; "
            f"make one with: saescope index --sae {sae_id}", "sae")
    build = Build.open(workspace.build(sae_id, builds[-1]))
    try:
        chosen, notes = [], []
        for number, strength in latents:
            found = build.latent(number)
            if found is None:
                raise UserError(
                    f"latent: {sae_id} has {build.n_latents:,} latents, 0 to {build.n_latents - 1:,}; "
                    f"there is no {number:,}", "latent")
            if found.dead and mode in ("add", "clamp"):
                raise UserError(f"latent: {number} never fired in the build, so its strength has no unit", "latent")
            chosen.append(_intervention(sae_id, config["site"]["layer"], number, mode, strength, found.max_act or 0.0))
            notes.append(_note(chosen[-1], config, build))
        return chosen, notes
    finally:
        build.close()


def _intervention(sae_id: str, layer: int, latent: int, mode: str, strength: float, max_act: float) -> Intervention:
    values = {"sae": sae_id, "layer": layer, "latent": latent, "mode": mode, "strength": strength, "max_act": max_act}
    parsed = parse_request({"model": "-", "prompt": "-", "interventions": [values]})
    return parsed.interventions[0]


def _note(i: Intervention, config: dict[str, object], build: Build) -> str:
    width, normalize, norm = build.meta["d_model"], str(config["normalize"]), float(build.meta["median_resid_norm"])
    ratio = norm_ratio(i.target, typical_scale(normalize, norm, width), norm)
    unit: dict[Mode, str] = {"add": f"{i.strength:g} × max {i.max_act:.2f} = {i.target:.2f}",
                             "clamp": f"to {i.strength:g} × max {i.max_act:.2f} = {i.target:.2f}",
                             "scale": f"× {i.strength:g}"}
    size = f", {ratio:.2f} of the median residual norm" if ratio and i.mode == "add" else ""
    return f"{i.sae} latent {i.latent}: {i.mode} {unit.get(i.mode, '')}{size}"


def _texts(workspace: Workspace, sae_id: str, request: SteerRequest, device: str) -> Iterator[list[str]]:
    """Yield both texts so far, after every token."""
    from sae.autoencoder.artefact import Autoencoder
    from sae.lm.bridge import pick_device
    from sae.lm.conformance.opening import open_model
    from sae.lm.slow_row_model import open_row_model
    from sae.steering.generation import Run, write
    from sae.steering.interventions import check_saes, prompt_ids

    folder = workspace.sae(sae_id)
    target = pick_device(device)
    sae = Autoencoder.load(folder, target)
    lm = open_model(sae.config["model"]["name"], target, workspace)
    check_saes(lm, {sae_id: sae})
    pieces = lm.vocabulary()[0]  # the tokenizer's decode() would drop a leading space
    run = Run.of(request, prompt_ids(lm, request, [sae]), {sae_id: sae}, lm.special_ids)
    for columns in write(open_row_model(lm), run):
        yield [_shown(b"".join(pieces[token] for token in column.output)) for column in columns]


def _shown(text: bytes) -> str:
    """Decode the text and replace the control characters that would act on the terminal."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}"
                   for c in text.decode(errors="replace"))


def _table(prompt: str, baseline: str, steered: str) -> Table:
    table = Table("baseline", "steered", expand=True)
    table.add_row(*(Text.assemble((prompt, "dim"), text) for text in (baseline, steered)))
    return table

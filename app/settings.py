"""The settings of the web program, read from the environment once at start.

`HOST`, `PORT` and `DATABASE_URL` have the names that hosts and containers use; all other names begin with
`SAESCOPE_`.  If `SAESCOPE_SECRETS_DIR` names a folder, a file
in it with a setting's name (such as `DATABASE_URL`) gives that setting's value.
"""

from __future__ import annotations

import os
from ipaddress import ip_network
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import AliasChoices, Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from sae.errors import UserError
from sae.faults import DEVICE, faults
from sae.workspace.paths import Workspace

_LOOPBACK = ("localhost", "127.0.0.1", "::1", "[::1]")


class Settings(BaseSettings):
    """The program's settings.  Arguments override the environment, and the environment overrides the defaults."""

    model_config = SettingsConfigDict(
        env_prefix="SAESCOPE_", populate_by_name=True, extra="ignore", frozen=True, env_ignore_empty=True)

    host: str = Field(
        "127.0.0.1", validation_alias="HOST",
        description="Address to listen on; 0.0.0.0 lets other machines in")
    port: int = Field(8000, validation_alias="PORT", ge=0, le=65535, description="Port to listen on; 0: any free one")
    home: Path = Field(
        Path("data"), validation_alias="SAESCOPE_HOME", description="The workspace: database, SAEs, runs, builds")
    database_url: str = Field(
        "", validation_alias="DATABASE_URL",
        description="SQLAlchemy address of the app database; empty: app.db in the workspace")

    page_workers: int = Field(
        -1, ge=-1, le=64, validation_alias=AliasChoices("SAESCOPE_PAGE_WORKERS", "SAESCOPE_READERS"),
        description="Processes that render pages when several are requested at the same time (about 180 MB each); "
        "-1: one per core, at most 4, and none on a single core")

    demo: bool = Field(True, description="Start the demo run automatically when the workspace is empty")
    max_runs: int = Field(1, ge=1, le=64, description="Runs that are executed at the same time; the others wait")
    poll_s: float = Field(0.5, gt=0, le=60, description="Seconds between two checks of the runs")
    supervisor: bool = Field(
        True, description="Whether this server may start and watch runs; of several servers on one Postgres database, "
        "one of those that may does so, and another takes over if it ends")
    cancel_grace_s: float = Field(
        30, ge=0, description="Seconds that a cancelled run has to stop at a safe point, and again after SIGTERM")
    shutdown_grace_s: float = Field(
        20, ge=0, description="Seconds that runs have to write a checkpoint when the server stops")

    launcher: Literal["local", "ray", "slurm"] = Field(
        "local", description="Where runs are executed if they do not say otherwise: on this machine, or on a cluster")
    ray_address: str = Field(
        "", pattern=r"^$|^https?://", description="Address of a Ray cluster's dashboard, such as http://head:8265; "
        "empty: no Ray")
    ray_token: str = Field("", description="Token of a Ray cluster that asks for one (RAY_AUTH_MODE=token)")
    slurm: bool = Field(False, description="Whether runs may be submitted to Slurm from this machine")
    slurm_options: str = Field(
        "", description="Further options of sbatch for every run, such as --partition=gpu --time=12:00:00")
    cluster_runs: int = Field(8, ge=1, le=1000, description="Runs that are submitted to a cluster at the same time")
    cluster_cpus: int = Field(4, ge=1, le=1024, description="CPUs asked of a cluster for a run, on each node")
    cluster_python: str = Field(
        "", description="Python on the cluster's nodes, with saescope installed; empty: the same path as here")

    log: Literal["text", "json"] = Field(
        "text", description="Form of the log: text, or json with one object per line, the request's id and a line for "
        "each request")

    session_days: float = Field(30, gt=0, description="Days after which a signed-in browser must sign in again")
    admin_password: str = Field(
        "", description="Password of the user admin, who is made at the start while there is no administrator with a "
        "password")
    login_link_hours: float = Field(24, gt=0, description="Hours for which the one-time admin link is valid")
    trusted_origins: str = Field(
        "", description="Further origins of the program's own pages, comma-separated, such as https://sae.example.org: "
        "needed if a proxy ends TLS and the browser sends no Sec-Fetch-Site")
    allowed_hosts: str = Field(
        "", description="Host names by which browsers may reach the program, comma-separated; *.example.org: all names "
        "below it; *: any. Empty: this machine's own names if HOST is a loopback address, otherwise any")
    trusted_proxies: str = Field(
        "", description="Addresses or networks of proxies, comma-separated, whose X-Forwarded-For and "
        "X-Forwarded-Proto headers are believed; *: any. Empty: forwarded headers are ignored")
    secure_cookies: bool = Field(
        False, description="Mark cookies Secure even if the request came over http (behind a TLS proxy)")
    anonymous: Literal["compute", "read", "nothing"] = Field(
        "compute", description="What people may do who are not signed in: compute (read, search, inspect and steer), "
        "read (pages and their JSON), or nothing")
    max_body_bytes: int = Field(2_000_000, ge=1_000, description="Largest request body that is accepted, in bytes")
    max_upload_bytes: int = Field(
        8_000_000_000, ge=1_000, description="Largest upload of an SAE that is accepted, in bytes, also when unpacked")
    logins_per_minute: float = Field(10, gt=0, description="Sign-in attempts per minute from one address")
    steers_per_minute: float = Field(
        60, gt=0, description="Steering requests per minute from one address, and of one user; the same limit applies "
        "to inspections and to measurements")
    keep_days: float = Field(
        180, gt=0, description="Days after which stored steering runs and inspections are deleted")
    keep_stored: int = Field(
        5_000, ge=1, description="Steering runs that are stored, and as many inspections; the oldest are deleted")

    exports_at_once: int = Field(2, ge=1, le=64, description="Exports that are sent to browsers at the same time")
    max_export_bytes: int = Field(
        20_000_000_000, ge=1_000, description="Largest weights or build that browsers may export, in bytes")

    worker_device: str = Field(
        "auto", pattern=DEVICE, description="Device for steering: cpu, cuda, mps, or auto")
    worker_threads: int = Field(0, ge=0, description="CPU threads for steering; 0: half of the cores")
    worker_memory_mb: int = Field(4096, ge=64, description="Memory for loaded models and SAEs, in MB")
    worker_queue: int = Field(8, ge=1, le=1000, description="Steering requests that may wait; others are refused")
    worker_places: int = Field(
        32, ge=1, le=1000, description="Requests that the model worker executes at the same time")
    worker_address: str = Field(
        "", pattern=r"^$|^[^\s:]+:\d{1,5}$",
        description="<host>:<port> of a model worker on another host; empty: the server starts one")
    worker_token: str = Field("", description="Shared token of a model worker on another host")
    steer_grace_s: float = Field(15, ge=0, description="Seconds that a steering run continues while no page watches it")

    @field_validator("home")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return value.expanduser().resolve()

    @field_validator("allowed_hosts")
    @classmethod
    def _host_patterns(cls, value: str) -> str:
        for host in _parts(value):
            if "*" in host and host != "*" and not (host.startswith("*.") and "*" not in host[1:]):
                raise ValueError(f"{host!r} is not a host name; a star may only stand for all names below one, as in "
                                 "*.example.org")
        return value

    @field_validator("trusted_proxies")
    @classmethod
    def _addresses(cls, value: str) -> str:
        for proxy in _parts(value):
            try:
                proxy == "*" or ip_network(proxy, strict=False)
            except ValueError:
                raise ValueError(
                    f"{proxy!r} is not an IP address or network, such as 127.0.0.1 or 10.0.0.0/8") from None
        return value

    @model_validator(mode="after")
    def _launcher_is_there(self) -> Settings:
        if self.launcher == "ray" and not self.ray_address:
            raise ValueError("SAESCOPE_LAUNCHER: ray needs the address of the cluster in SAESCOPE_RAY_ADDRESS")
        return self

    @classmethod
    def load(cls, **values: Any) -> Settings:
        """Read the settings from `values`, the environment and the secrets folder.  Raises UserError."""
        try:
            secrets = os.environ.get("SAESCOPE_SECRETS_DIR")
            more: dict[str, Any] = {"_secrets_dir": secrets} if secrets else {}
            return cls(**more, **values)
        except ValidationError as error:
            first = faults(error, cls)[0]
            if not first.path:  # a rule about several settings, whose message names one
                raise UserError(first.words, first.words.partition(":")[0]) from None
            name = str(first.path[0])
            name = name if name.isupper() else f"SAESCOPE_{name.upper()}"
            raise UserError(f"{name}: {first.words}", name) from None

    @property
    def workspace(self) -> Workspace:
        return Workspace(self.home)

    @property
    def url(self) -> str:
        """Return the SQLAlchemy address of the app database."""
        return self.database_url or f"sqlite:///{self.workspace.database}"

    @property
    def several_servers(self) -> bool:
        """Return whether several servers may share the workspace, because its database is a Postgres server."""
        return self.database_url.startswith("postgres")

    @property
    def is_local(self) -> bool:
        """Return whether only this machine can reach the program."""
        return self.host in _LOOPBACK or self.host.startswith("127.")

    @property
    def open_to_compute(self) -> bool:
        """Return whether people who are not signed in may let the model work."""
        return self.anonymous == "compute"

    @property
    def n_page_workers(self) -> int:
        """Return the number of page workers to start."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return self.page_workers if self.page_workers >= 0 else min(cores, 4) if cores > 1 else 0

    @property
    def origins(self) -> frozenset[str]:
        """Return the further origins whose unsafe requests are accepted."""
        return frozenset(part.rstrip("/") for part in _parts(self.trusted_origins))

    @property
    def proxies(self) -> list[str]:
        """Return the addresses and networks of proxies whose forwarded headers are believed."""
        proxies = _parts(self.trusted_proxies)
        return [proxy if proxy == "*" else str(ip_network(proxy, strict=False)) for proxy in proxies]

    @property
    def hosts(self) -> list[str]:
        """Return the host names and patterns that requests may name; `*` means any."""
        named = [*_parts(self.allowed_hosts), *filter(None, (urlsplit(origin).hostname for origin in self.origins))]
        if self.allowed_hosts:
            return named
        return [*_LOOPBACK, *named] if self.host in _LOOPBACK else ["*"]


def _parts(text: str) -> list[str]:
    return [part.strip().lower() for part in text.split(",") if part.strip()]

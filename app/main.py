"""The web program: `create_app(settings)`.

It opens, and closes in reverse order: workspace lock, database (upgraded to the newest schema),
catalog, builds, model worker, supervisor.  It never imports torch.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager

from fastapi import APIRouter, Depends, FastAPI
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from app.access.audit import AuditLog
from app.access.middleware import HeadAsGet, KnownHosts, RateLimit, ReadOnly, SameOrigin, SecurityHeaders, TokenBuckets
from app.db.clock import shared_by_servers
from app.db.engine import upgrade
from app.jobs import queue
from app.jobs.launchers.elsewhere import Elsewhere
from app.jobs.launchers.local import LocalLauncher
from app.jobs.lock import WorkspaceLock
from app.jobs.places import chosen_place, make_clusters
from app.jobs.supervisor import Supervisor
from app.library.exports import Downloads
from app.library.live_explanations import LiveExplanations
from app.library.read_only import with_readable_database
from app.library.retention import keep_sweeping
from app.library.stores import open_stores
from app.library.uploads import UPLOAD_FORM_BYTES, Uploads
from app.page_workers.middleware import DispatchToPageWorkers
from app.page_workers.pool import PageWorkerPool
from app.page_workers.process import MODULES as PAGE_WORKER_MODULES
from app.pages.api import effects as api_effects
from app.pages.api import explanations as api_explanations
from app.pages.api import inspect as api_inspect
from app.pages.api import lists as api_lists
from app.pages.api import manage as api_manage
from app.pages.api import people as api_people
from app.pages.api import saes as api_saes
from app.pages.api import search as api_search
from app.pages.api import steer as api_steer
from app.pages.api import users as api_users
from app.pages.dependencies import current_user
from app.pages.explore import (
    compare,
    explain_latent,
    explanation_import,
    explanations,
    exports,
    home,
    items,
    l0,
    label_files,
    latent,
    latents,
    latents_download,
    map,
    map_found,
    overview,
    people,
    search,
)
from app.pages.former_names import FormerNames
from app.pages.inspect import effects, found, inspect, own_text, text_search
from app.pages.lists import pages as lists
from app.pages.runs import add_sae, admin, api, curves_together, endpoint_test, published, runs, saes
from app.pages.runs.run_views import AUTOMATIC
from app.pages.steer import form_page, run_page
from app.pages.system import account, api_tokens, audit, guide, health, login, users
from app.resources import STATIC
from app.servers.presence import Presence
from app.servers.rate_limits import SharedBuckets
from app.servers.relay import Relay
from app.settings import Settings
from app.web import errors
from app.web.compression import COMPRESS
from app.web.event_streams import BoundedStreams
from app.web.logs import RequestIds
from app.web.metrics import CountRequests
from app.web.routing import match_by_first_segment
from app.worker.cached_requests import CachedRequests
from app.worker.client import WorkerClient
from app.worker.relayed_runs import Exchange
from app.worker.steering_runs import SteeringRuns
from sae import __version__
from sae.specs.registry import demo_spec
from sae.workspace.disk import ReadOnlyWorkspace, open_workspace

log = logging.getLogger(__name__)

# The modules of an SAE come last, because `/{model}/{sae}` matches any path of two segments.
_MODULES = (
    health, login, account, api_tokens, users, audit, guide, api, api_saes, api_search, api_lists, api_people,
    api_users, api_steer, api_inspect, api_effects, api_explanations, api_manage, add_sae, saes, published, admin,
    endpoint_test, curves_together, runs, form_page, run_page, lists, inspect, own_text, effects, compare, home,
    text_search, found, search, l0, label_files, exports, explain_latent, explanation_import, explanations, latents,
    latents_download, map, map_found, overview, people, items, latent)


def create_app(
    settings: Settings, *, lock: WorkspaceLock | None = None, launcher: LocalLauncher | None = None,
    supervise: bool = True, page_workers: int = 0,
) -> FastAPI:
    """Make the application.

    The caller may have taken the workspace's `lock` and then releases it.  `launcher` starts the runs (default: on
    this machine).  `supervise=False` leaves queued runs alone, for tests.  `page_workers` is the number of processes
    that render pages in addition to this one.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        with ExitStack() as stack:
            await run_in_threadpool(_open, app, settings, stack, lock, launcher, supervise)
            opened: Settings = app.state.settings
            app.state.page_workers = PageWorkerPool(opened, page_workers) if page_workers else None
            writing = not app.state.read_only
            tasks = [asyncio.create_task(keep_sweeping(app.state.sessions, opened))] if writing else []
            if app.state.steering.relay is not None:
                exchange = Exchange(app.state.steering, app.state.steering.relay, opened.workspace)
                tasks.append(asyncio.create_task(exchange.keep()))
            yield
            for task in tasks:
                task.cancel()
            if app.state.page_workers is not None:
                await app.state.page_workers.close()
            await app.state.steering.close()
            await app.state.cached_requests.close()
            # A thread whose task was cancelled may still hold a connection to the database, which is closed now.
            await asyncio.get_running_loop().shutdown_default_executor()
            await run_in_threadpool(stack.close)

    app = FastAPI(
        title="saescope", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None,
        openapi_url="/openapi.json", max_body_size=settings.max_body_bytes,
        dependencies=[Depends(current_user)])
    app.state.limits = _limits(settings)
    app.user_middleware = _middleware(settings, app.state.limits)
    app.state.settings, app.state.read_only = settings, False
    app.state.downloads = Downloads(settings.exports_at_once, settings.max_export_bytes)
    errors.install(app, current_user)
    app.mount("/static", VersionedStatic(directory=STATIC), name="static")
    largest = {**dict.fromkeys((add_sae, explanation_import), settings.max_upload_bytes + UPLOAD_FORM_BYTES),
               published: published.FORM_BYTES}
    for module in _MODULES:
        _document_json_routes(module.router)
        match_by_first_segment(module.router)
        app.include_router(module.router, max_body_size=largest.get(module))
    return app


def _document_json_routes(router: APIRouter) -> None:
    """Add only the `.json` routes of a router of pages to the API's OpenAPI description."""
    if not router.include_in_schema:
        router.include_in_schema = True
        for route in router.routes:
            if isinstance(route, APIRoute):
                route.include_in_schema = route.path.endswith(".json")


def _limits(settings: Settings) -> dict[str, TokenBuckets]:
    """Return the rate limits per client address, by the first segment of the path."""
    return {name: TokenBuckets(settings.logins_per_minute) for name in ("login", "account")} | {
        pages: TokenBuckets(settings.steers_per_minute) for pages in ("steer", "inspect", "effects", "search")}


def _middleware(settings: Settings, limits: dict[str, TokenBuckets]) -> list[Middleware]:
    routes = [route for module in _MODULES for route in module.router.routes if isinstance(route, APIRoute)]
    reads = [route for module in PAGE_WORKER_MODULES for route in module.router.routes if isinstance(route, APIRoute)]
    return [
        Middleware(RequestIds, lines=settings.log == "json"),
        Middleware(CountRequests),
        Middleware(KnownHosts, hosts=settings.hosts),
        Middleware(BoundedStreams),
        Middleware(HeadAsGet),
        Middleware(FormerNames),
        Middleware(DispatchToPageWorkers, routes=routes, reads=reads),
        Middleware(SecurityHeaders),
        COMPRESS,
        Middleware(SameOrigin, trusted=settings.origins),
        Middleware(ReadOnly),
        Middleware(RateLimit, limits=limits),
        Middleware(AuditLog),
    ]


def _open(
    app: FastAPI, settings: Settings, stack: ExitStack, lock: WorkspaceLock | None, launcher: LocalLauncher | None,
    supervise: bool,
) -> None:
    state = app.state
    try:
        open_workspace(settings.home)
    except ReadOnlyWorkspace as fault:
        log.warning("%s; until then the program shows what is there and stores nothing", fault)
        state.read_only, settings = True, with_readable_database(settings, stack)
    if lock is None and not state.read_only:
        stack.callback(WorkspaceLock(settings.home, shared=settings.several_servers).release)
    open_stores(state, settings, stack)
    presence = None
    if not state.read_only:
        upgrade(state.engine)
        presence = _join_servers(app, settings, stack, supervises=supervise and settings.supervisor)
        if presence is None:  # otherwise other servers may be in the middle of one
            Uploads(settings.home, settings.max_upload_bytes).sweep_unfinished()
        state.catalog.sync()
    worker = WorkerClient(settings)
    stack.callback(worker.close)
    steering = SteeringRuns(
        state.sessions, worker, max_live=settings.worker_places + settings.worker_queue,
        grace_s=settings.steer_grace_s, relay=Relay(state.sessions, presence) if presence else None)
    supervisor = Supervisor(
        settings, state.sessions, launcher or LocalLauncher(settings.workspace), state.catalog,
        [*make_clusters(settings), Elsewhere()], presence)
    state.worker, state.supervisor, state.steering = worker, supervisor, steering
    state.live_explanations = LiveExplanations(settings.workspace)
    state.cached_requests = CachedRequests(worker)
    if state.read_only:
        return  # runs that the database names may belong to a server elsewhere
    steering.recover()
    stack.callback(supervisor.stop)
    if settings.demo:
        start_demo(app)
    if supervise and settings.supervisor:
        supervisor.start()


def _join_servers(app: FastAPI, settings: Settings, stack: ExitStack, *, supervises: bool) -> Presence | None:
    """Join the servers on the database and share the rate limits with them; None if there can be no other."""
    state = app.state
    if not shared_by_servers(state.engine):
        return None
    presence = Presence(state.sessions, supervises=supervises)
    presence.open()
    stack.callback(presence.close)
    for group, buckets in _limits(settings).items():
        state.limits[group] = SharedBuckets(state.engine, group, buckets)
    return presence


def start_demo(app: FastAPI) -> None:
    """Queue the demo run if the workspace is empty: no SAE, and no run, not even a stopped one."""
    settings: Settings = app.state.settings
    if settings.workspace.sae_ids() or any(settings.home.glob("runs/*/spec.json")):
        return
    with app.state.sessions() as db:
        if queue.newest(db, 1):
            return
        run = queue.enqueue(db, settings.workspace, "train", demo_spec().model_dump(), AUTOMATIC, form_key="demo",
                            place=chosen_place(settings, "train"))
        log.info("the workspace is empty: %s trains the demo SAE", run.id)


class VersionedStatic(StaticFiles):
    """The static files.  Browsers may keep a file forever if its address has the hash of its content (`?v=…`)."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        versioned = response.status_code in (200, 304) and scope["query_string"].startswith(b"v=")
        response.headers["Cache-Control"] = "public, max-age=31536000, immutable" if versioned else "no-cache"
        return response

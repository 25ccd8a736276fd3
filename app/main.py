"""The web program put together: `create_app(settings)`.

Opened at start and closed in reverse: workspace lock, database (brought to the newest schema),
catalog, open builds, model worker, supervisor.  Never imports torch.
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

from app.access.middleware import HeadAsGet, KnownHosts, RateLimit, SameOrigin, SecurityHeaders, TokenBuckets
from app.db.engine import Changes, make_engine, make_session_factory, upgrade
from app.jobs import queue
from app.jobs.launchers import Launcher
from app.jobs.launchers.local import LocalLauncher
from app.jobs.lock import WorkspaceLock
from app.jobs.supervisor import Supervisor
from app.library.builds import Builds
from app.library.catalog import Catalog
from app.library.exports import Downloads
from app.library.retention import keep_sweeping
from app.library.uploads import UPLOAD_FORM_BYTES, Uploads
from app.page_workers.middleware import DispatchToPageWorkers
from app.page_workers.pool import PageWorkerPool
from app.page_workers.process import READS
from app.pages.dependencies import current_user
from app.pages.explore import compare, exports, home, l0, label_files, latent, latents, overview
from app.pages.inspect import effects, inspect, own_text
from app.pages.runs import add_sae, admin, api, runs
from app.pages.steer import form_page, run_page
from app.pages.system import account, health, login, users
from app.resources import STATIC
from app.settings import Settings
from app.web import errors
from app.web.compression import COMPRESS
from app.web.metrics import CountRequests
from app.worker.cached_requests import CachedRequests
from app.worker.client import WorkerClient
from app.worker.steering_runs import SteeringRuns
from sae import __version__
from sae.specs.registry import demo_spec

log = logging.getLogger(__name__)

# Last the features, whose `/{model}/{sae}` would take any address of two parts.
_MODULES = (
    health, login, account, users, api, add_sae, admin, runs, form_page, run_page, inspect, own_text, effects, compare,
    home, l0, label_files, exports, latents, overview, latent)


def create_app(
    settings: Settings, *, lock: WorkspaceLock | None = None, launcher: Launcher | None = None, supervise: bool = True,
    readers: int = 0,
) -> FastAPI:
    """The application.  `lock`: already taken by the caller, who releases it; `launcher`: where runs go;
    `supervise=False` leaves queued runs alone (tests of pages); `readers`: processes that make pages beside it."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        with ExitStack() as stack:
            await run_in_threadpool(_open, app, settings, stack, lock, launcher, supervise)
            app.state.readers = PageWorkerPool(settings, readers) if readers else None
            sweeping = asyncio.create_task(keep_sweeping(app.state.sessions, settings))
            yield
            sweeping.cancel()
            if app.state.readers is not None:
                await app.state.readers.close()
            await app.state.steering.close()
            await app.state.questions.close()
            await run_in_threadpool(stack.close)

    app = FastAPI(
        title="saescope", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None,
        openapi_url="/openapi.json", max_body_size=settings.max_body_bytes,
        dependencies=[Depends(current_user)])
    app.state.limits = _limits(settings)
    app.user_middleware = _middleware(settings, app.state.limits)
    app.state.settings = settings
    app.state.downloads = Downloads(settings.exports_at_once, settings.max_export_bytes)
    errors.install(app)
    app.mount("/static", VersionedStatic(directory=STATIC), name="static")
    for module in _MODULES:
        _document_twins(module.router)
        app.include_router(
            module.router, max_body_size=settings.max_upload_bytes + UPLOAD_FORM_BYTES if module is add_sae else None)
    return app


def _document_twins(router: APIRouter) -> None:
    """Put the pages' `.json` addresses, and nothing else of a router of pages, into the API's description."""
    if not router.include_in_schema:
        router.include_in_schema = True
        for route in router.routes:
            if isinstance(route, APIRoute):
                route.include_in_schema = route.path.endswith(".json")


def _limits(settings: Settings) -> dict[str, TokenBuckets]:
    """What each client address may do, by the first segment of the path."""
    return {name: TokenBuckets(settings.logins_per_minute) for name in ("login", "account")} | {
        pages: TokenBuckets(settings.steers_per_minute) for pages in ("steer", "inspect", "effects")}


def _middleware(settings: Settings, limits: dict[str, TokenBuckets]) -> list[Middleware]:
    routes = [route for module in _MODULES for route in module.router.routes if isinstance(route, APIRoute)]
    reads = [route for module in READS for route in module.router.routes if isinstance(route, APIRoute)]
    return [
        Middleware(CountRequests),
        Middleware(KnownHosts, hosts=settings.hosts),
        Middleware(HeadAsGet),
        Middleware(DispatchToPageWorkers, routes=routes, reads=reads),
        Middleware(SecurityHeaders),
        COMPRESS,
        Middleware(SameOrigin, trusted=settings.origins),
        Middleware(RateLimit, limits=limits),
    ]


def _open(
    app: FastAPI, settings: Settings, stack: ExitStack, lock: WorkspaceLock | None, launcher: Launcher | None,
    supervise: bool,
) -> None:
    settings.home.mkdir(parents=True, exist_ok=True)
    if lock is None:
        stack.callback(WorkspaceLock(settings.home).release)
    engine = make_engine(settings.url)
    stack.callback(engine.dispose)
    upgrade(engine)
    sessions = make_session_factory(engine)
    workspace = settings.workspace
    Uploads(settings.home, settings.max_upload_bytes).sweep(everything_unfinished=True)
    changes = Changes(engine)
    stack.callback(changes.close)
    catalog = Catalog(workspace, sessions, changes)
    catalog.sync()
    builds = Builds(workspace)
    stack.callback(builds.close)
    worker = WorkerClient(settings)
    stack.callback(worker.close)
    steering = SteeringRuns(
        sessions, worker, max_live=settings.worker_places + settings.worker_queue, grace_s=settings.steer_grace_s)
    steering.recover()
    supervisor = Supervisor(settings, sessions, launcher or LocalLauncher(workspace), catalog)
    stack.callback(supervisor.stop)
    state = app.state
    state.engine, state.sessions, state.catalog = engine, sessions, catalog
    state.builds, state.worker, state.supervisor, state.steering = builds, worker, supervisor, steering
    state.questions = CachedRequests(worker)
    if settings.demo:
        start_demo(app)
    if supervise:
        supervisor.start()


def start_demo(app: FastAPI) -> None:
    """Queue the demo run where the workspace is empty: no SAE, and no run, not even a stopped one."""
    settings: Settings = app.state.settings
    if settings.workspace.sae_ids() or any(settings.home.glob("runs/*/spec.json")):
        return
    with app.state.sessions() as db:
        if queue.newest(db, 1):
            return
        run = queue.enqueue(db, settings.workspace, "train", demo_spec().model_dump(), "the empty workspace")
        log.info("the workspace is empty: %s trains the demo SAE", run.id)


class VersionedStatic(StaticFiles):
    """Static files.  An address with its content's hash in it (`?v=…`) never changes, so browsers keep the file."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        versioned = response.status_code in (200, 304) and scope["query_string"].startswith(b"v=")
        response.headers["Cache-Control"] = "public, max-age=31536000, immutable" if versioned else "no-cache"
        return response

"""The HTTP port: /metrics for Prometheus, /healthz and /readyz for whoever has no gRPC probe."""

import contextlib
from collections.abc import AsyncIterator, Callable

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from services.kit.errors import StartupError


@contextlib.asynccontextmanager
async def serve(host: str, port: int, registry: CollectorRegistry, ready: Callable[[], bool]) -> AsyncIterator[int]:
    """Serves until the block ends; gives the port, chosen by the system where `port` is 0.

    Raises:
        StartupError: the port is taken.
    """

    async def metrics(request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return web.Response(body=encode(registry), headers={"Content-Type": content_type})

    async def healthz(request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(request: web.Request) -> web.Response:
        return web.Response(text="ready\n") if ready() else web.Response(text="not ready\n", status=503)

    application = web.Application()
    application.add_routes([web.get("/metrics", metrics), web.get("/healthz", healthz), web.get("/readyz", readyz)])
    runner = web.AppRunner(application, access_log=None, handle_signals=False, shutdown_timeout=1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        try:
            await site.start()
        except OSError as error:
            raise StartupError(
                f"cannot listen on {host}:{port} for HTTP", hint="stop what listens there, or set another HTTP_PORT"
            ) from error
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()

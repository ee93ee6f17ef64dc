"""Logs and metrics of a process: one structured line an event, one Prometheus registry."""

import contextlib
import json
import logging
import platform
import sys
from dataclasses import dataclass
from importlib import metadata
from typing import Any, Literal, TextIO

import structlog
from prometheus_client import CollectorRegistry, GCCollector, Info, ProcessCollector

from services.kit.hooks.observe import CallLog


@dataclass(frozen=True, slots=True)
class LogSettings:
    """What is written to standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "text", "json"] = "auto"  # auto: text on a terminal, else JSON
    calls: CallLog = "all"  # a line for every call, for the failed ones or for none


def configure_logs(settings: LogSettings, **context: str) -> None:
    """Sends structlog's events and those of libraries to standard error, each with `context` (component, instance)."""
    output: Any = _Unbreakable(sys.stderr)
    text = settings.format == "text" or (settings.format == "auto" and sys.stderr.isatty())
    level = logging.getLevelNamesMapping()[settings.level.upper()]
    shared: list[Any] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _adds(context),
    ]
    rendered: list[Any] = (
        [structlog.dev.ConsoleRenderer()]
        if text
        else [structlog.processors.dict_tracebacks, structlog.processors.JSONRenderer(_to_json)]
    )
    structlog.configure(
        processors=[*shared, *rendered],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(output),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(output)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendered],
        )
    )
    logging.basicConfig(level=max(level, logging.WARNING), handlers=[handler], force=True)


def new_registry(component: str, instance: str) -> CollectorRegistry:
    """A registry with what every process exposes: its build, CPU, memory, files and garbage collections."""
    registry = CollectorRegistry(auto_describe=True)
    ProcessCollector(registry=registry)
    GCCollector(registry=registry)
    Info("trivium_build", "Who this process is.", registry=registry).info(
        {"component": component, "instance": instance, "version": version(), "python": platform.python_version()}
    )
    return registry


def version() -> str:
    """The suite's version."""
    return metadata.version("trivium-suite")


class _Unbreakable:
    """A stream whose writing never fails: a full disk costs the line, not the call that it is about."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        """Writes, or does without."""
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text)

    def flush(self) -> None:
        """Flushes, or does without."""
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()


# Made once: json.dumps makes one for each call that brings options.
_ENCODER = json.JSONEncoder(ensure_ascii=False, default=repr)


def _to_json(event: dict[str, Any], **options: Any) -> str:
    return _ENCODER.encode(event)


def _adds(context: dict[str, str]) -> Any:
    def add(logger: object, name: str, event: dict[str, Any]) -> dict[str, Any]:
        event.update(context)
        return event

    return add

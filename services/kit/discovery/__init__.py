"""Consul: registrar.py tells it about this process, watcher.py tells this process about the others."""

from services.kit.discovery.client import ConsulSettings
from services.kit.discovery.registrar import Registration
from services.kit.discovery.watcher import Instance, InstanceState, Watcher

__all__ = ["ConsulSettings", "Instance", "InstanceState", "Registration", "Watcher"]

"""The rows of panels.py as Grafana reads them."""

from typing import Any

from deploy.monitoring.panels import ROWS, Panel, Row

WIDTH, HEIGHT, COLUMNS = 8, 8, 3  # of a panel in Grafana's grid, which is 24 wide
SCOPE = 'namespace=~"$namespace"'
SOURCE = {"type": "prometheus", "uid": "${source}"}


def dashboard() -> dict[str, Any]:
    """The dashboard: one variable chooses the Prometheus, one the namespaces; without any, all is shown."""
    panels: list[dict[str, Any]] = []
    top = 0
    for row in ROWS:
        panels.append(_heading(row, top, len(panels) + 1))
        for index, panel in enumerate(row.panels):
            place = {"x": index % COLUMNS * WIDTH, "y": top + 1 + index // COLUMNS * HEIGHT, "w": WIDTH, "h": HEIGHT}
            panels.append(_panel(panel, place, len(panels) + 1))
        top += 1 + -(-len(row.panels) // COLUMNS) * HEIGHT
    return {
        "uid": "trivium",
        "title": "Trivium",
        "tags": ["trivium"],
        "schemaVersion": 39,
        "editable": True,
        "timezone": "browser",
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [_source(), _namespaces()]},
        "annotations": {"list": []},
        "panels": panels,
    }


def _heading(row: Row, top: int, identity: int) -> dict[str, Any]:
    place = {"x": 0, "y": top, "w": 24, "h": 1}
    return {"id": identity, "type": "row", "title": row.title, "collapsed": False, "gridPos": place, "panels": []}


def _panel(panel: Panel, place: dict[str, int], identity: int) -> dict[str, Any]:
    return {
        "id": identity,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.about,
        "datasource": SOURCE,
        "gridPos": place,
        "fieldConfig": {
            "defaults": {"unit": panel.unit, "min": 0, "custom": {"fillOpacity": 8, "showPoints": "never"}},
            "overrides": [],
        },
        "options": {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "datasource": SOURCE,
                "expr": query.replace("$scope", SCOPE),
                "legendFormat": legend,
            }
            for index, (query, legend) in enumerate(panel.queries)
        ],
    }


def _source() -> dict[str, Any]:
    return {"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus", "current": {}}


def _namespaces() -> dict[str, Any]:
    return {
        "name": "namespace",
        "label": "Namespace",
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": "label_values(trivium_build_info, namespace)", "refId": "namespaces"},
        "refresh": 2,
        "includeAll": True,
        "multi": True,
        "allValue": ".*",  # which matches processes without a namespace too
        "current": {"text": ["All"], "value": ["$__all"]},
    }

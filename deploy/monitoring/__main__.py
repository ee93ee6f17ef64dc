"""Writes dashboard.json and prometheus-rule.yaml of the monitoring component; --check says if they are out of date."""

import json
import sys
import textwrap
from pathlib import Path

from deploy.monitoring.dashboard import dashboard

FOLDER = Path(__file__).resolve().parents[1] / "components/monitoring"
RULE = """\
# Written by `python -m deploy.monitoring` from alerts.yaml.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: trivium
  labels:
    app.kubernetes.io/part-of: trivium
spec:
"""


def contents() -> dict[Path, str]:
    """What each file has to hold."""
    alerts = (FOLDER / "alerts.yaml").read_text("utf-8")
    rules = alerts[alerts.index("groups:") :]
    return {
        FOLDER / "dashboard.json": json.dumps(dashboard(), indent=1, ensure_ascii=False) + "\n",
        FOLDER / "prometheus-rule.yaml": RULE + textwrap.indent(rules, "  "),
    }


def main(arguments: list[str]) -> int:
    """Writes the files, or checks them; the exit code is 1 if one was out of date."""
    stale = [path for path, text in contents().items() if not path.exists() or path.read_text("utf-8") != text]
    for path in stale:
        print(f"{path.name} is out of date: run `python -m deploy.monitoring`" if arguments else f"wrote {path.name}")
        if not arguments:
            path.write_text(contents()[path], "utf-8")
    return 1 if stale and arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

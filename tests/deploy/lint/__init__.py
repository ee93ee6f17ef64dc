"""What schemas cannot see: whether the objects of a kustomization fit each other. `problems` names what is off."""

from collections.abc import Sequence

from tests.deploy.lint import environment, leaving, pods, scaling, selection
from tests.deploy.manifests import Object

CHECKS = (*pods.CHECKS, *selection.CHECKS, *scaling.CHECKS, *environment.CHECKS, *leaving.CHECKS)


def problems(objects: Sequence[Object]) -> list[str]:
    """Every problem, as a line that names the object; none of a kustomization that is well."""
    return [problem for check in CHECKS for problem in check(objects)]

"""A gateway and two instances of the language service, which the tests here share."""

from tests.language_suite import alone, running  # noqa: F401

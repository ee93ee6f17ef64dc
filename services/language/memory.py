"""Memory: the caches of one model: of its texts and, with an encoder, of what that says of their sources."""

from services.kit.errors import StartupError
from services.kit.inference.datatypes import NUMPY
from services.kit.inference.manifest import Generation
from services.language.cache import Cache

MIB = 1 << 20


class Memory:
    """How many texts there is memory for."""

    def __init__(self, cache: Cache, cross: Cache | None) -> None:
        self._cache, self._cross = cache, cross
        self.capacity = cache.capacity + (cross.capacity if cross is not None else 0)  # tokens, of sources too

    def texts(self, longest: int, source: int) -> int:
        """Of how many there is memory for until their ends.

        Args:
            longest, source: tokens of the longest one, and of the longest source.
        """
        texts = self._cache.rows(longest)
        return texts if self._cross is None else min(texts, self._cross.rows(source))


def caches(generation: Generation, mib: int, max_texts: int, name: str) -> tuple[Cache, Cache | None]:
    """The two of them, in so many MiB together: shared so that both have room for as many texts of the greatest length.

    Args:
        name: of the bundle, for the message.

    Raises:
        StartupError: that is too small for one text.
    """
    dtype = NUMPY[generation.precision]
    blocks, width = 2 * generation.layers, generation.head_dim
    token = Cache.token_bytes(blocks, generation.kv_heads, width, dtype.itemsize)
    source_token = Cache.token_bytes(blocks, generation.heads, width, dtype.itemsize)
    text, source = generation.max_tokens * token, generation.max_source * source_token
    whole = text + source
    if mib * MIB < whole:
        needed = -(-whole // MIB)
        of_source = f" with a source of {generation.max_source}" if source else ""
        raise StartupError(
            f"{name}: a text of {generation.max_tokens} tokens{of_source} needs {needed} MiB of keys and values, and "
            f"{mib} are allowed",
            hint=f"set GENERATION__CACHE_MIB to {needed} or more, for one text at a time",
        )
    given = min(mib * MIB, max_texts * whole)
    cache = Cache(blocks, generation.kv_heads, width, given * text // whole // token, generation.max_tokens, dtype.name)
    if not source:
        return cache, None
    capacity = given * source // whole // source_token
    return cache, Cache(blocks, generation.heads, width, capacity, generation.max_source, dtype.name, smallest=16)

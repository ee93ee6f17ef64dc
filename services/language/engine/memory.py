"""Memory: the caches of one model: of its texts, of their beginnings, and of what an encoder says of their sources."""

from typing import NamedTuple

from services.kit.errors import StartupError
from services.kit.inference.manifest import Generation
from services.language import graph
from services.language.engine.cache import Blank, Cache
from services.language.engine.prefixes import BLOCK
from services.language.engine.storage import HostStorage

MIB = 1 << 20
STAGED = 512  # tokens of beginnings, which are read apart while they need less room than the longest text
STAGED_RECORDED = 2048  # tokens of texts whose prompts are read by runs that are recorded
FEWEST_STAGED = 128  # tokens; less does not pay
STAGE_PART = 8  # of the memory, which that takes at most


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


class Caches(NamedTuple):
    """The caches of one model."""

    texts: Cache
    sources: Cache | None  # with an encoder
    stage: Cache | None  # where beginnings are read, and what is recorded does; none where it would not pay
    kept: Cache | None  # beginnings that may come again; none with an encoder, where they depend on the source


def caches(
    generation: Generation,
    mib: int,
    max_texts: int,
    name: str,
    prefix_mib: int = 0,
    blank: Blank = HostStorage,
    *,
    recorded: bool = False,
) -> Caches:
    """All of them, in so many MiB together; texts and sources have room for as many of the greatest length.

    Args:
        prefix_mib: besides, for beginnings that may come again.
        name: of the bundle, for the message.
        blank: where their memory comes from.
        recorded: whether runs are recorded, on a GPU.

    Raises:
        StartupError: that is too small for one text.
    """
    precision = generation.precision
    blocks, width = 2 * generation.layers, generation.head_dim
    token = Cache.token_bytes(blocks, generation.kv_heads, width, precision)
    source_token = Cache.token_bytes(blocks, generation.heads, width, precision)
    text, source = graph.room(generation.max_tokens) * token, graph.room(generation.max_source) * source_token
    whole = text + source
    if mib * MIB < whole:
        needed = -(-whole // MIB)
        of_source = f" with a source of {generation.max_source}" if source else ""
        raise StartupError(
            f"{name}: a text of {generation.max_tokens} tokens{of_source} needs {needed} MiB of keys and values, and "
            f"{mib} are allowed",
            hint=f"set GENERATION__CACHE_MIB to {needed} or more, for one text at a time",
        )
    spare = min(mib * MIB // STAGE_PART, mib * MIB - whole)  # one text has its memory in any case
    staged = min(STAGED_RECORDED if recorded else STAGED, graph.room(generation.max_tokens), spare // token)
    staged -= staged % graph.ROOM
    staged *= (blank is HostStorage or recorded) and not source and staged > FEWEST_STAGED
    given = min(mib * MIB - staged * token, max_texts * whole)
    own, longest = (blocks, generation.kv_heads, width), generation.max_tokens
    texts = Cache(*own, given * text // whole // token, longest, precision, blank=blank)
    stage = Cache(*own, staged, staged, precision, blank=blank) if staged else None
    if not source:
        blocks_kept = prefix_mib * MIB // (BLOCK * token)
        kept = Cache(*own, blocks_kept * BLOCK, BLOCK, precision, BLOCK, blank) if blocks_kept else None
        return Caches(texts, None, stage, kept)
    capacity = given * source // whole // source_token
    encoded = (blocks, generation.heads, width)
    sources = Cache(*encoded, capacity, generation.max_source, precision, smallest=16, blank=blank)
    return Caches(texts, sources, None, None)

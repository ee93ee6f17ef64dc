"""host:port in one text, as gRPC and URLs write it."""


def join(host: str, port: int) -> str:
    """ "10.0.0.7:9000", or "[::1]:9000" for an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host}:{port}"


def split(address: str) -> tuple[str, int]:
    """Host, without brackets, and port of what `join` made."""
    host, _, port = address.rpartition(":")
    return host.removeprefix("[").removesuffix("]"), int(port)

"""The only folder that imports grpc: everything else sees Method, Call, Upstream and google.rpc codes."""

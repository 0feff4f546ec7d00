"""What a CRE guest and its host say to each other; no wasmtime and no asyncio in here."""

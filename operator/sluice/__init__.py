"""Sluice: WebAssembly workflows on Kubernetes, started as fast as memory allows."""
